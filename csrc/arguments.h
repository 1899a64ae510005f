// The arguments of the loss kernels on every device: plain structs, no torch header.
//
// `L` is the layout that a device's kernels read. The gradient of a row's sum is double for float64 tensors and float
// for all others. A GPU kernel writes its sums in the same type, a CPU kernel always in double.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "exp_elbo.h"
#include "gaussian.h"
#include "layout.h"
#include "platform.h"

namespace sivae {

// The source of a call's noise: eps, or the normals of (*seed, offset). The kernel reads the seed: on a GPU the host
// waits for nothing, and a replayed graph uses the seed of that replay.
struct Noise {
  Strided eps{};  // absent: the noise comes from the seed
  const int64_t* seed = nullptr;
  uint64_t offset = 0;
};

// One gradient per sample, or the same for all (stride 0), times `share`.
struct RowGradient {
  const void* data = nullptr;  // null: no gradient
  int64_t stride = 0;
  double share = 1.0;
};

// The gradient of a row's sum, whose type is T.
template <class T>
SIVAE_HD double row_gradient(const RowGradient& grad, int64_t row) {
  return static_cast<double>(static_cast<const T*>(grad.data)[row * grad.stride]) * grad.share;
}

template <class L>
struct LatentForwardOf {
  DType dtype = DType::kFloat32;
  L layout{};
  Strided mu{}, logvar{};
  Strided z{};  // absent: no sample is wanted
  Noise noise{};
  Prior<double> prior{};
  void* kl_sums = nullptr;  // [rows, parts of a row], or null: no KL is wanted
};

template <class L>
struct LatentBackwardOf {
  DType dtype = DType::kFloat32;
  L layout{};
  Strided mu{}, logvar{};
  Strided grad_z{};  // absent: z has no gradient
  RowGradient grad_kl{};
  Noise noise{};
  Prior<double> prior{};
  Strided grad_mu{}, grad_logvar{}, grad_eps{};  // absent where not needed
};

template <class L>
struct RecForwardOf {
  DType dtype = DType::kFloat32;
  L layout{};
  int kind = 0;
  Strided recon{}, target{};
  void* sums = nullptr;  // [rows, parts of a row]
};

template <class L>
struct RecBackwardOf {
  DType dtype = DType::kFloat32;
  L layout{};
  int kind = 0;
  Strided recon{}, target{};
  RowGradient grad{};
  Strided grad_recon{}, grad_target{};  // absent where not needed
};

// The operands of exp_elbo in both passes: rec and kl, [count] each.
struct ExpElboOperands {
  DType dtype = DType::kFloat32;
  ExpElbo parameters{};
  const void* rec = nullptr;
  const void* kl = nullptr;
  int64_t rec_stride = 0, kl_stride = 0;
  int64_t count = 0;
};

struct ExpElboForward : ExpElboOperands {
  int reduction = 0;    // done by the kernel
  void* out = nullptr;  // [count] or, reduced, one element
};

struct ExpElboBackward : ExpElboOperands {
  RowGradient grad{};
  void* grad_rec = nullptr;  // null where not needed
  void* grad_kl = nullptr;
  int64_t grad_rec_stride = 0, grad_kl_stride = 0;
};

}  // namespace sivae
