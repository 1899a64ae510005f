// The memory layout of a call's tensors, for kernels on every device; no torch header.
#pragma once

#include <cstdint>

namespace sivae {

constexpr int kMaxDims = 16;

// The dimensions of one sample, which all tensors of a call share, merged as far as all their strides allow; the last
// is the innermost.
struct Layout {
  int64_t rows = 0;  // samples
  int64_t cols = 1;  // elements of one sample
  int ndim = 1;
  int64_t sizes[kMaxDims] = {1};
};

struct Strided {
  void* data = nullptr;  // null: this operand is absent
  int64_t row_stride = 0;
  int64_t strides[kMaxDims] = {1};
};

}  // namespace sivae
