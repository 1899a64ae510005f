// The CUDA launchers as the torch side sees them: raw device pointers and the stream as an integer, no torch and no CUDA
// header. Each returns a cudaError_t.
#pragma once

#include <cstdint>

#include "../arguments.h"
#include "divisor.h"

namespace sivae::cuda {

// A layout with what dividing by its sizes takes.
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

// Partial sums that the forward kernels leave for each row. The cut depends on the call's shape and layout alone, so the
// result's bits depend on nothing else.
int64_t sums_per_row(const LatentForward& args);
int64_t sums_per_row(const RecForward& args);

int launch_kernel(const LatentForward& args, uint64_t stream);
int launch_kernel(const LatentBackward& args, uint64_t stream);
int launch_kernel(const RecForward& args, uint64_t stream);
int launch_kernel(const RecBackward& args, uint64_t stream);
int launch_kernel(const ExpElboForward& args, uint64_t stream);
int launch_kernel(const ExpElboBackward& args, uint64_t stream);

// Adds the partial sums [rows, per_row] up, in a fixed order: to out[rows], or with a reduction (1: mean, 2: sum) to
// one element.
int launch_finish_sums(bool is_double, const void* sums, int64_t rows, int64_t per_row, int reduction, void* out,
                       uint64_t stream);

// Fills out[count] with the normals of (*seed, offset).
int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream);

// What cudaGetErrorString says.
const char* error_string(int error);

}  // namespace sivae::cuda
