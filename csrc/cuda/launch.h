// The CUDA launchers as the torch side sees them: raw pointers and the stream as an integer, no torch and no CUDA header.
#pragma once

#include <cstdint>

#include "../dtype.h"

namespace sivae::cuda {

// Fills out[count] with the normals of (*seed, offset); `seed` lies on the device, so nothing waits for the host.
// Returns the launch's cudaError_t.
int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream);

// What cudaGetErrorString says.
const char* error_string(int error);

}  // namespace sivae::cuda
