// The Gaussian posterior: sampling and KL against N(prior_mu, exp(prior_logvar)), elementwise, with their gradients.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

template <class T>
struct Prior {
  T mu;
  T logvar;
  T inv_std;  // exp(-logvar / 2)
};

// The last power of the series below: the first term left out is under half an ulp of the sum.
template <class T>
constexpr int kSeriesDegree = sizeof(T) == 4 ? 12 : 20;

constexpr double inverse_factorial(int k) { return k < 2 ? 1.0 : inverse_factorial(k - 1) / k; }

// exp(x) - 1 - x = x^2 (1/2! + x/3! + x^2/4! + ...) for |x| <= 1, where the plain form cancels.
template <class T, int k = 2>
SIVAE_HD T series_from(T x) {
  constexpr T coefficient = static_cast<T>(inverse_factorial(k));
  if constexpr (k == kSeriesDegree<T>) {
    return coefficient;
  } else {
    return coefficient + x * series_from<T, k + 1>(x);
  }
}

template <class T>
SIVAE_HD T expm1_minus_x_series(T x) {
  return x * x * series_from(x);
}

// exp(x) - 1 - x, given exp(x).
template <class T>
SIVAE_HD T expm1_minus_x(T x, T exp_x) {
  return abs_(x) <= T(1) ? expm1_minus_x_series(x) : exp_x - T(1) - x;
}

// exp(x) - 1, given exp(x).
template <class T>
SIVAE_HD T expm1_given_exp(T x, T exp_x) {
  return abs_(x) <= T(1) ? x + expm1_minus_x_series(x) : exp_x - T(1);
}

template <class T>
SIVAE_HD T std_of(T logvar) {
  return exp_(T(0.5) * logvar);
}

// exp(logvar - prior.logvar) from std = exp(logvar / 2): the product is squared, so neither factor overflows alone.
template <class T>
SIVAE_HD T variance_ratio(T std, const Prior<T>& prior) {
  const T ratio = std * prior.inv_std;
  return ratio * ratio;
}

// One element of the KL in nats.
template <class T>
SIVAE_HD T kl_term(T mu, T logvar, T std, const Prior<T>& prior) {
  const T scaled = (mu - prior.mu) * prior.inv_std;
  return T(0.5) * (expm1_minus_x(logvar - prior.logvar, variance_ratio(std, prior)) + scaled * scaled);
}

template <class T>
SIVAE_HD T kl_grad_mu(T mu, const Prior<T>& prior) {
  return (mu - prior.mu) * prior.inv_std * prior.inv_std;
}

template <class T>
SIVAE_HD T kl_grad_logvar(T logvar, T std, const Prior<T>& prior) {
  return T(0.5) * expm1_given_exp(logvar - prior.logvar, variance_ratio(std, prior));
}

}  // namespace sivae
