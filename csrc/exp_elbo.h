// The soft exponential f(t) = exp(t) / alpha of the ELBO and its slope; above kLinearAbove it goes on as its tangent.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

template <class T>
struct ExpElbo {
  T weight_rec;  // dt/drec = -alpha s beta_rec
  T weight_kl;   // dt/dkl = -alpha s beta_kl
  T inv_alpha;
};

constexpr double kLinearAbove = 32.0;
constexpr double kExpLinearAbove = 78962960182680.69;  // exp(32)

template <class T>
SIVAE_HD T exponent(T rec, T kl, const ExpElbo<T>& p) {
  return p.weight_rec * rec + p.weight_kl * kl;
}

template <class T>
SIVAE_HD T soft_exp(T t, const ExpElbo<T>& p) {
  const T held = t > T(kLinearAbove) ? T(kLinearAbove) : t;
  const T value = t > T(kLinearAbove) ? T(kExpLinearAbove) * (T(1) + (t - T(kLinearAbove))) : exp_(held);
  return value * p.inv_alpha;
}

// d soft_exp / dt
template <class T>
SIVAE_HD T soft_exp_slope(T t, const ExpElbo<T>& p) {
  return (t > T(kLinearAbove) ? T(kExpLinearAbove) : exp_(t > T(kLinearAbove) ? T(kLinearAbove) : t)) * p.inv_alpha;
}

}  // namespace sivae
