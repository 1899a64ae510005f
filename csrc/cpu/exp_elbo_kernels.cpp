// The soft exponential of the ELBO over [B], forward and backward. Compiled per instruction set.
#include "isa.h"
#include "../exp_elbo.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

template <class S>
void forward(const ExpElboForward& a, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  const ExpElbo& p = a.parameters;
  const S* rec = static_cast<const S*>(a.rec);
  const S* kl = static_cast<const S*>(a.kl);
  double* out = static_cast<double*>(a.out);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const double t = exponent(widen(rec[i * a.rec_stride]), widen(kl[i * a.kl_stride]), p);
    out[i] = static_cast<double>(soft_exp<T>(t, p));
  }
}

template <class S>
void backward(const ExpElboBackward& a, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  const ExpElbo& p = a.parameters;
  const S* rec = static_cast<const S*>(a.rec);
  const S* kl = static_cast<const S*>(a.kl);
  S* grad_rec = static_cast<S*>(a.grad_rec);
  S* grad_kl = static_cast<S*>(a.grad_kl);
  for (int64_t i = begin; i < end; ++i) {
    const double t = exponent(widen(rec[i * a.rec_stride]), widen(kl[i * a.kl_stride]), p);
    const double slope = row_gradient<T>(a.grad, i) * static_cast<double>(soft_exp_slope<T>(t, p));
    if (grad_rec != nullptr) narrow(static_cast<T>(slope * p.weight_rec), grad_rec[i * a.grad_rec_stride]);
    if (grad_kl != nullptr) narrow(static_cast<T>(slope * p.weight_kl), grad_kl[i * a.grad_kl_stride]);
  }
}

}  // namespace

void exp_elbo_forward(const ExpElboForward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) { forward<decltype(s)>(a, begin, end); });
}

void exp_elbo_backward(const ExpElboBackward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) { backward<decltype(s)>(a, begin, end); });
}

}  // namespace sivae::cpu::SIVAE_ISA
