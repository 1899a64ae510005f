// Formulas of the Gaussian posterior: the sample, the KL against N(prior_mu, exp(prior_logvar)), and their gradients.
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

// The prior N(0, 1), with constants.
template <class T>
struct StandardPrior {
  static constexpr T mu = T(0), logvar = T(0), inv_std = T(1);
};

// Next to the prior exp(x) - 1 and exp(x) - 1 - x cancel. There they are computed from h = x / 2 and the tail
// exp(h) - 1 - h. The standard deviation uses the same parts.
template <class T>
SIVAE_HD auto cancels(T x) {
  return abs_(x) <= T(1.375);
}

// exp(x) - 1 - x = (exp(h) - 1)^2 + 2 tail, given exp(x).
template <class T>
SIVAE_HD T expm1_minus_x(T x, T exp_x) {
  T tail;
  exp_and_tail(T(0.5) * x, tail);
  const T half = T(0.5) * x + tail;
  return select(cancels(x), half * half + (tail + tail), exp_x - T(1) - x);
}

// exp(x) - 1 = (exp(h) - 1) (exp(h) + 1), given exp(x).
template <class T>
SIVAE_HD T expm1_given_exp(T x, T exp_x) {
  T tail;
  exp_and_tail(T(0.5) * x, tail);
  const T half = T(0.5) * x + tail;
  return select(cancels(x), half * (half + T(2)), exp_x - T(1));
}

template <class T>
SIVAE_HD T std_of(T logvar) {
  return exp_(T(0.5) * logvar);
}

// exp(logvar - prior.logvar) from std = exp(logvar / 2): the product is squared, so neither factor overflows alone.
template <class T, class P>
SIVAE_HD T variance_ratio(T std, const P& prior) {
  const T ratio = std * prior.inv_std;
  return ratio * ratio;
}

// One element of the KL in nats.
template <class T, class P>
SIVAE_HD T kl_term(T mu, T logvar, T std, const P& prior) {
  const T scaled = (mu - prior.mu) * prior.inv_std;
  return T(0.5) * (expm1_minus_x(logvar - prior.logvar, variance_ratio(std, prior)) + scaled * scaled);
}

template <class T, class P>
SIVAE_HD T kl_grad_mu(T mu, const P& prior) {
  return (mu - prior.mu) * prior.inv_std * prior.inv_std;
}

template <class T, class P>
SIVAE_HD T kl_grad_logvar(T logvar, T std, const P& prior) {
  return T(0.5) * expm1_given_exp(logvar - prior.logvar, variance_ratio(std, prior));
}

}  // namespace sivae
