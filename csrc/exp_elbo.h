// The soft exponential f(t) = exp(t) / alpha of the ELBO and its slope; above kLinearAbove it continues as its tangent.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

struct ExpElbo {
  double weight_rec;  // dt/drec = -alpha s beta_rec
  double weight_kl;   // dt/dkl = -alpha s beta_kl
  double inv_alpha;
};

SIVAE_HD ExpElbo exp_elbo_of(double scale, double beta_rec, double beta_kl, double alpha) {
  return {-alpha * scale * beta_rec, -alpha * scale * beta_kl, 1.0 / alpha};
}

constexpr double kLinearAbove = 32.0;
constexpr double kExpLinearAbove = 78962960182680.69;  // exp(32)

// In double for every dtype: the exponential turns an absolute error of t into a relative one of the result.
SIVAE_HD double exponent(double rec, double kl, const ExpElbo& p) { return p.weight_rec * rec + p.weight_kl * kl; }

// exp(t) for t <= kLinearAbove in T, from the two halves of a double t: exp(high) (1 + low).
template <class T>
SIVAE_HD T exp_of_exponent(double t) {
  const double held = t < -1000.0 ? -1000.0 : t;  // an infinite t has no low half; below -1000 the result is 0
  const T high = static_cast<T>(held);
  const T low = static_cast<T>(held - static_cast<double>(high));
  const T value = exp_(high);
  return value + value * low;
}

template <class T>
SIVAE_HD T soft_exp(double t, const ExpElbo& p) {
  const bool linear = t > kLinearAbove;
  const T tangent = static_cast<T>(kExpLinearAbove * (1.0 + (t - kLinearAbove)));
  return (linear ? tangent : exp_of_exponent<T>(linear ? kLinearAbove : t)) * static_cast<T>(p.inv_alpha);
}

// d soft_exp / dt
template <class T>
SIVAE_HD T soft_exp_slope(double t, const ExpElbo& p) {
  return exp_of_exponent<T>(t > kLinearAbove ? kLinearAbove : t) * static_cast<T>(p.inv_alpha);
}

}  // namespace sivae
