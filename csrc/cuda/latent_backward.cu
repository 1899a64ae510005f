// Compute the needed gradients of the sample and the KL by mu, logvar and eps in one pass.
#include "access.cuh"
#include "launch.h"
#include "noise.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kLoads = 2;  // of each operand at once, per thread

template <class Access>
struct Inputs {
  typename Access::Raw mu, logvar, grad_z;
};

template <class Access>
__device__ __forceinline__ Inputs<Access> load_inputs(const LatentBackward& a, const Place& p) {
  Inputs<Access> in;
  if (a.grad_mu.data != nullptr && a.grad_kl.data != nullptr) in.mu = Access::load(a.layout, a.mu, p);
  if (a.grad_logvar.data != nullptr || a.grad_eps.data != nullptr) in.logvar = Access::load(a.layout, a.logvar, p);
  if (a.grad_z.data != nullptr) in.grad_z = Access::load(a.layout, a.grad_z, p);
  return in;
}

template <class Access, class T>
__device__ __forceinline__ void backward_pack(const LatentBackward& a, const Prior<T>& prior, uint64_t key, T grad_kl,
                                              const Place& p, const Inputs<Access>& in) {
  constexpr int kPack = Access::kPack;
  const bool through_z = a.grad_z.data != nullptr, through_kl = a.grad_kl.data != nullptr;
  typename Access::Raw out;
  if (a.grad_mu.data != nullptr) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      T g = T(0);
      if (through_z) g = widen(in.grad_z.elements[i]);
      if (through_kl) g += grad_kl * kl_grad_mu(static_cast<T>(widen(in.mu.elements[i])), prior);
      narrow(g, out.elements[i]);
    }
    Access::store(a.layout, a.grad_mu, p, out);
  }
  if (a.grad_logvar.data == nullptr && a.grad_eps.data == nullptr) return;
  T std[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) std[i] = std_of(static_cast<T>(widen(in.logvar.elements[i])));
  if (a.grad_logvar.data != nullptr) {
    T eps[kPack];
    if (through_z) noise_of<Access>(a.layout, a.noise, key, p, eps);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      T g = T(0);
      if (through_z) g = T(0.5) * static_cast<T>(widen(in.grad_z.elements[i])) * std[i] * eps[i];
      if (through_kl) g += grad_kl * kl_grad_logvar(static_cast<T>(widen(in.logvar.elements[i])), std[i], prior);
      narrow(g, out.elements[i]);
    }
    Access::store(a.layout, a.grad_logvar, p, out);
  }
  if (a.grad_eps.data != nullptr) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) narrow(static_cast<T>(widen(in.grad_z.elements[i])) * std[i], out.elements[i]);
    Access::store(a.layout, a.grad_eps, p, out);
  }
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 3>)
    backward_kernel(const __grid_constant__ LatentBackward a, const __grid_constant__ Cut cut,
             const Prior<typename ComputeType<typename Access::S>::type> prior) {
  using T = typename ComputeType<typename Access::S>::type;
  const Share share = share_of(cut);
  if (share.first >= share.last) return;
  const uint64_t key = key_of(a.noise);
  const T grad_kl = a.grad_kl.data == nullptr ? T(0) : static_cast<T>(row_gradient<T>(a.grad_kl, share.row));
  for_each_pack<Access, Access::template kPacks<kLoads>>(
      a.layout, share, cut.lanes(), [&](const Place& p) { return load_inputs<Access>(a, p); },
      [&](const Place& p, const Inputs<Access>& in) { backward_pack<Access, T>(a, prior, key, grad_kl, p, in); });
}

}  // namespace

int launch_kernel(const LatentBackward& a, uint64_t stream) {
  return with_storage_type(a.dtype, [&](auto s) {
    return with_access<decltype(s)>(
        a.layout,
        [&](auto access) {
          using Access = decltype(access);
          using T = typename ComputeType<typename Access::S>::type;
          const Cut cut = cut_rows(a.layout.rows, Access::packs_per_row(a.layout));
          return launch(backward_kernel<Access>, blocks_of(cut), kThreads, stream, a, cut, a.prior.template to<T>());
        },
        a.mu, a.logvar, a.grad_z, a.noise.eps, a.grad_mu, a.grad_logvar, a.grad_eps);
  });
}

}  // namespace sivae::cuda
