// The functions that launch the loss kernels. They take raw device pointers and the stream as an integer, so that this
// header needs neither torch nor CUDA, and return a cudaError_t.
#pragma once

#include <cstdint>

#include "../arguments.h"
#include "divisor.h"

namespace sivae::cuda {

// A layout with divisors by its sizes.
struct DeviceLayout : Layout {
  Divisor by_size[kMaxDims];

  DeviceLayout() = default;
  DeviceLayout(const Layout& layout) : Layout(layout) {
    for (int d = 0; d < ndim; ++d) {
      if (sizes[d] > 0) by_size[d] = Divisor(sizes[d]);
    }
  }
};

using LatentForward = LatentForwardOf<DeviceLayout>;
using LatentBackward = LatentBackwardOf<DeviceLayout>;
using RecForward = RecForwardOf<DeviceLayout>;
using RecBackward = RecBackwardOf<DeviceLayout>;

// The number of partial sums that a forward kernel writes for each row. It depends only on the call's shape and layout,
// and so do the result's bits.
int64_t sums_per_row(const LatentForward& args);
int64_t sums_per_row(const RecForward& args);

int launch_kernel(const LatentForward& args, uint64_t stream);
int launch_kernel(const LatentBackward& args, uint64_t stream);
int launch_kernel(const RecForward& args, uint64_t stream);
int launch_kernel(const RecBackward& args, uint64_t stream);
int launch_kernel(const ExpElboForward& args, uint64_t stream);
int launch_kernel(const ExpElboBackward& args, uint64_t stream);

// Adds the partial sums [rows, per_row] in a fixed order, to out[rows] or, with a reduction (1: mean, 2: sum), to one
// element.
int launch_finish_sums(bool is_double, const void* sums, int64_t rows, int64_t per_row, int reduction, void* out,
                       uint64_t stream);

// Fills out[count] with the normals of (*seed, offset).
int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream);

// The text of cudaGetErrorString.
const char* error_string(int error);

}  // namespace sivae::cuda
