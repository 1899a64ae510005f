// The reconstruction error: per-sample sums forward, gradients backward.
#include "../reconstruction.h"

#include "access.cuh"
#include "launch.h"
#include "teams.cuh"

namespace sivae::cuda {
namespace {

constexpr int kLoads = 4;  // of each operand at once, per thread

template <class Access>
struct Inputs {
  typename Access::Raw recon, target;
};

// `Args` is RecForward or RecBackward.
template <class Access, class Args>
__device__ __forceinline__ Inputs<Access> load_inputs(const Args& a, const Place& p) {
  return {Access::load(a.layout, a.recon, p), Access::load(a.layout, a.target, p)};
}

template <Kind kind, class Access, class T>
__device__ __forceinline__ T sum_pack(const RecForward& a, const Place& p, const Inputs<Access>& in) {
  T sum = T(0);
#pragma unroll
  for (int i = 0; i < Access::kPack; ++i) {
    const T term = rec_term<kind>(static_cast<T>(widen(in.recon.elements[i])), static_cast<T>(widen(in.target.elements[i])));
    if (Access::holds(a.layout, p, i)) sum += term;
  }
  return sum;
}

template <Kind kind, class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 4>)
    forward_kernel(const __grid_constant__ RecForward a, const __grid_constant__ Cut cut) {
  using T = typename ComputeType<typename Access::S>::type;
  const Share share = share_of(cut);
  T sum = T(0);
  for_each_pack<Access, Access::template kPacks<kLoads>>(
      a.layout, share, cut.lanes(), [&](const Place& p) { return load_inputs<Access>(a, p); },
      [&](const Place& p, const Inputs<Access>& in) { sum += sum_pack<kind, Access, T>(a, p, in); });
  sum = sum_over_team(sum, cut.lanes());
  if (share.lane == 0 && share.segment < cut.segments) static_cast<T*>(a.sums)[share.segment] = sum;
}

template <Kind kind, class Access, class T>
__device__ __forceinline__ void backward_pack(const RecBackward& a, T weight, const Place& p,
                                              const Inputs<Access>& in) {
  typename Access::Raw out;
  if (a.grad_recon.data != nullptr) {
#pragma unroll
    for (int i = 0; i < Access::kPack; ++i) {
      const T r = widen(in.recon.elements[i]), t = widen(in.target.elements[i]);
      narrow(weight * rec_grad_recon<kind>(r, t), out.elements[i]);
    }
    Access::store(a.layout, a.grad_recon, p, out);
  }
  if (a.grad_target.data != nullptr) {
#pragma unroll
    for (int i = 0; i < Access::kPack; ++i) {
      const T r = widen(in.recon.elements[i]), t = widen(in.target.elements[i]);
      narrow(weight * rec_grad_target<kind>(r, t), out.elements[i]);
    }
    Access::store(a.layout, a.grad_target, p, out);
  }
}

template <Kind kind, class Access>
__global__ void __launch_bounds__(kThreads, kResident<typename Access::S, 4>)
    backward_kernel(const __grid_constant__ RecBackward a, const __grid_constant__ Cut cut) {
  using T = typename ComputeType<typename Access::S>::type;
  const Share share = share_of(cut);
  if (share.first >= share.last) return;
  const T weight = static_cast<T>(row_gradient<T>(a.grad, share.row));
  for_each_pack<Access, Access::template kPacks<kLoads>>(
      a.layout, share, cut.lanes(), [&](const Place& p) { return load_inputs<Access>(a, p); },
      [&](const Place& p, const Inputs<Access>& in) { backward_pack<kind, Access, T>(a, weight, p, in); });
}

template <Kind k>
struct KindTag {
  static constexpr Kind kind = k;
};

template <class F>
int with_kind(int kind, F call) {
  switch (static_cast<Kind>(kind)) {
    case Kind::kMse: return call(KindTag<Kind::kMse>());
    case Kind::kL1: return call(KindTag<Kind::kL1>());
    case Kind::kBce: return call(KindTag<Kind::kBce>());
    case Kind::kBceWithLogits: return call(KindTag<Kind::kBceWithLogits>());
  }
  return static_cast<int>(cudaErrorInvalidValue);
}

template <class F>
auto with_access_of(const RecForward& a, F call) {
  return with_storage_type(
      a.dtype, [&](auto s) { return with_access<decltype(s)>(a.layout, call, a.recon, a.target); });
}

}  // namespace

int64_t sums_per_row(const RecForward& a) {
  return with_access_of(a, [&](auto access) {
    return cut_rows(a.layout.rows, decltype(access)::packs_per_row(a.layout)).per_row;
  });
}

int launch_kernel(const RecForward& a, uint64_t stream) {
  return with_access_of(a, [&](auto access) {
    using Access = decltype(access);
    const Cut cut = cut_rows(a.layout.rows, Access::packs_per_row(a.layout));
    return with_kind(a.kind, [&](auto tag) {
      return launch(forward_kernel<decltype(tag)::kind, Access>, blocks_of(cut), kThreads, stream, a, cut);
    });
  });
}

int launch_kernel(const RecBackward& a, uint64_t stream) {
  return with_storage_type(a.dtype, [&](auto s) {
    return with_access<decltype(s)>(
        a.layout,
        [&](auto access) {
          using Access = decltype(access);
          const Cut cut = cut_rows(a.layout.rows, Access::packs_per_row(a.layout));
          return with_kind(a.kind, [&](auto tag) {
            return launch(backward_kernel<decltype(tag)::kind, Access>, blocks_of(cut), kThreads, stream, a, cut);
          });
        },
        a.recon, a.target, a.grad_recon, a.grad_target);
  });
}

}  // namespace sivae::cuda
