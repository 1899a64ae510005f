// Clouds of points in memory, and which of two distances is the nearer one. No torch header.
#pragma once

#include <cstdint>

#include "platform.h"

namespace sivae {

// [B, count, D], with strides in elements.
struct Clouds {
  void* data = nullptr;  // null: absent
  int64_t count = 0;     // points of a cloud
  int64_t batch = 0, point = 0, coordinate = 0;
};

// The nearest point of a cloud that has none.
constexpr int32_t kNoPoint = -1;

// Whether a distance takes the place of the nearest one before it: ties stay with the first, and NaN is the nearest, as
// for torch.min.
template <class T>
SIVAE_HD bool is_nearer(T distance, T best) {
  return distance < best || (distance != distance && best == best);
}

}  // namespace sivae
