// The Gaussian posterior: sampling and KL against N(prior_mu, exp(prior_logvar)), elementwise, with their gradients.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

template <class T>
struct Prior {
  T mu = T(0);
  T logvar = T(0);
  T inv_std = T(1);  // exp(-logvar / 2)

  template <class U>
  SIVAE_HD_MEMBER Prior<U> to() const {
    return {static_cast<U>(mu), static_cast<U>(logvar), static_cast<U>(inv_std)};
  }
};

SIVAE_HD Prior<double> prior_of(double mu, double logvar) { return {mu, logvar, exp(-0.5 * logvar)}; }

// exp(x) - 1 - x = x^2 (1/2! + x/3! + x^2/4! + ...) for |x| <= 1, where the plain form cancels.
SIVAE_HD float expm1_minus_x_near(float x) {
  constexpr float kSeries[] = {0.5f,         0.16666667f,   0.041666735f,  0.0083333105f,
                               0.0013885451f, 0.00019844023f, 2.5354830e-05f, 2.7722831e-06f};  // a minimax fit, to 4e-9
  return x * x * polynomial(kSeries, x);
}

SIVAE_HD double expm1_minus_x_near(double x) {
  double sum = 1.0;  // nested Taylor terms; the first left out, x^21/21!, is under 1e-19 of the sum
  SIVAE_UNROLL
  for (int k = 20; k > 2; --k) sum = 1.0 + sum * (x / k);
  return 0.5 * x * x * sum;
}

// exp(x) - 1 - x, given exp(x).
template <class T>
SIVAE_HD T expm1_minus_x(T x, T exp_x) {
  return abs_(x) <= T(1) ? expm1_minus_x_near(x) : exp_x - T(1) - x;
}

// exp(x) - 1, given exp(x).
template <class T>
SIVAE_HD T expm1_given_exp(T x, T exp_x) {
  return abs_(x) <= T(1) ? x + expm1_minus_x_near(x) : exp_x - T(1);
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
