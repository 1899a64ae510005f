// The CUDA launchers as the torch side sees them: raw device pointers and the stream as an integer, no torch and no CUDA
// header. Each returns a cudaError_t. Scalars that a kernel sums into or is weighted by (kl, rec, loss and their
// gradients) are double for float64 tensors and float for all others.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../exp_elbo.h"
#include "../gaussian.h"
#include "../layout.h"
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

// Where the noise of a call comes from: eps, or the normals of (*seed, offset). The seed lies on the device, so nothing
// waits for the host, and a replayed graph sees the seed of that replay.
struct Noise {
  Strided eps{};  // absent: the seed's
  const int64_t* seed = nullptr;
  uint64_t offset = 0;
};

// One gradient per sample, or the same for all (stride 0), times `share`.
struct RowGradient {
  const void* data = nullptr;  // null: no gradient
  int64_t stride = 0;
  double share = 1.0;
};

struct LatentForward {
  DType dtype = DType::kFloat32;
  DeviceLayout layout{};
  Strided mu{}, logvar{};
  Strided z{};  // absent: no sample is wanted
  Noise noise{};
  Prior<double> prior{};
  void* kl_sums = nullptr;  // [rows, sums_per_row(args)], or null: no KL is wanted
};

struct LatentBackward {
  DType dtype = DType::kFloat32;
  DeviceLayout layout{};
  Strided mu{}, logvar{};
  Strided grad_z{};  // absent: z has no gradient
  RowGradient grad_kl{};
  Noise noise{};
  Prior<double> prior{};
  Strided grad_mu{}, grad_logvar{}, grad_eps{};  // absent where not needed
};

struct RecForward {
  DType dtype = DType::kFloat32;
  DeviceLayout layout{};
  int kind = 0;
  Strided recon{}, target{};
  void* sums = nullptr;  // [rows, sums_per_row(args)]
};

struct RecBackward {
  DType dtype = DType::kFloat32;
  DeviceLayout layout{};
  int kind = 0;
  Strided recon{}, target{};
  RowGradient grad{};
  Strided grad_recon{}, grad_target{};  // absent where not needed
};

struct ExpElboForward {
  DType dtype = DType::kFloat32;
  ExpElbo parameters{};
  const void* rec = nullptr;
  const void* kl = nullptr;
  int64_t rec_stride = 0, kl_stride = 0;
  int64_t count = 0;
  int reduction = 0;
  void* out = nullptr;  // [count] or one element
};

struct ExpElboBackward {
  DType dtype = DType::kFloat32;
  ExpElbo parameters{};
  const void* rec = nullptr;
  const void* kl = nullptr;
  int64_t rec_stride = 0, kl_stride = 0;
  int64_t count = 0;
  RowGradient grad{};
  void* grad_rec = nullptr;  // null where not needed
  void* grad_kl = nullptr;
  int64_t grad_rec_stride = 0, grad_kl_stride = 0;
};

// Partial sums that the forward kernels leave for each row. The cut depends on the call's shape and layout alone, so the
// result's bits depend on nothing else.
int64_t sums_per_row(const LatentForward& args);
int64_t sums_per_row(const RecForward& args);

int launch_latent_forward(const LatentForward& args, uint64_t stream);
int launch_latent_backward(const LatentBackward& args, uint64_t stream);
int launch_rec_forward(const RecForward& args, uint64_t stream);
int launch_rec_backward(const RecBackward& args, uint64_t stream);
int launch_exp_elbo_forward(const ExpElboForward& args, uint64_t stream);
int launch_exp_elbo_backward(const ExpElboBackward& args, uint64_t stream);

// Adds the partial sums [rows, per_row] up, in a fixed order: to out[rows], or with a reduction (1: mean, 2: sum) to
// one element.
int launch_finish_sums(bool is_double, const void* sums, int64_t rows, int64_t per_row, int reduction, void* out,
                       uint64_t stream);

// Fills out[count] with the normals of (*seed, offset).
int launch_philox_normal(DType dtype, void* out, const int64_t* seed, uint64_t offset, int64_t count, uint64_t stream);

// What cudaGetErrorString says.
const char* error_string(int error);

}  // namespace sivae::cuda
