// Compute the sample and the KL of the posterior in one pass, or only one of them.
#include "access.cuh"
#include "launch.h"
#include "noise.cuh"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kLoads = 2;  // of each operand at once, per thread

template <class Access>
struct Inputs {
  typename Access::Raw mu, logvar;
};

template <class Access, class T>
__device__ __forceinline__ T forward_pack(const LatentForward& a, const Prior<T>& prior, uint64_t key, const Place& p,
                                          const Inputs<Access>& in) {
  const bool wants_z = a.z.data != nullptr, wants_kl = a.kl_sums != nullptr;
  T eps[Access::kPack];
  if (wants_z) noise_of<Access>(a.layout, a.noise, key, p, eps);
  typename Access::Raw z;
  T kl = T(0);
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    const T m = widen(in.mu.elements[i]), lv = widen(in.logvar.elements[i]);
    const T std = std_of(lv);
    if (wants_z) narrow(m + std * eps[i], z.elements[i]);
    if (wants_kl && Access::holds(a.layout, p, i)) kl += kl_term(m, lv, std, prior);
  }
  if (wants_z) Access::store(a.layout, a.z, p, z);
  return kl;
}

template <class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 3>)
    forward_kernel(const __grid_constant__ LatentForward a, const __grid_constant__ Cut cut,
             const Prior<typename ComputeType<typename Access::S>::type> prior) {
  using T = typename ComputeType<typename Access::S>::type;
  const Share share = share_of(cut);
  const uint64_t key = key_of(a.noise);
  T kl = T(0);
  for_each_pack<Access, Access::template kPacks<kLoads>>(
      a.layout, share, cut.lanes(),
      [&](const Place& p) {
        return Inputs<Access>{Access::load(a.layout, a.mu, p), Access::load(a.layout, a.logvar, p)};
      },
      [&](const Place& p, const Inputs<Access>& in) { kl += forward_pack<Access, T>(a, prior, key, p, in); });
  if (a.kl_sums == nullptr) return;
  kl = sum_over_team(kl, cut.lanes());
  if (share.lane == 0 && share.segment < cut.segments) static_cast<T*>(a.kl_sums)[share.segment] = kl;
}

template <class F>
auto with_access_of(const LatentForward& a, F call) {
  return with_storage_type(a.dtype, [&](auto s) {
    return with_access<decltype(s)>(a.layout, call, a.mu, a.logvar, a.z, a.noise.eps);
  });
}

}  // namespace

int64_t sums_per_row(const LatentForward& a) {
  return with_access_of(a, [&](auto access) {
    return cut_rows(a.layout.rows, decltype(access)::packs_per_row(a.layout)).per_row;
  });
}

int launch_kernel(const LatentForward& a, uint64_t stream) {
  return with_access_of(a, [&](auto access) {
    using Access = decltype(access);
    using T = typename ComputeType<typename Access::S>::type;
    const Cut cut = cut_rows(a.layout.rows, Access::packs_per_row(a.layout));
    return launch(forward_kernel<Access>, blocks_of(cut), kThreads, stream, a, cut, a.prior.template to<T>());
  });
}

}  // namespace sivae::cuda
