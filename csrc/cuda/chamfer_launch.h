// The functions that launch the Chamfer distance; launch.h has the conventions.
#pragma once

#include <cstdint>

#include "../arguments.h"
#include "../chamfer.h"

namespace sivae::cuda {

// Both clouds have points.
struct ChamferForward {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, dims = 0;
  Clouds points{}, targets{};
  int32_t* nearest_target = nullptr;  // [B, N]
  int32_t* nearest_point = nullptr;   // [B, M]
  void* sums = nullptr;               // [B, blocks of a pair of clouds]
};

// The gradient of each cloud that is not absent. An index that is no point's counts as none.
struct ChamferBackward {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, dims = 0;
  Clouds points{}, targets{};
  RowGradient grad{};
  const int32_t* nearest_target = nullptr;  // [B, N]
  const int32_t* nearest_point = nullptr;   // [B, M]
  Clouds grad_points{}, grad_targets{};
};

// The number of sums that the forward kernel writes for each pair of clouds.
int64_t chamfer_sums_per_pair(const ChamferForward& args);

int launch_chamfer_forward(const ChamferForward& args, uint64_t stream);
int launch_chamfer_backward(const ChamferBackward& args, uint64_t stream);

}  // namespace sivae::cuda
