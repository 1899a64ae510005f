// Formulas of the styled instance norm: the activation before it, and the normalisation of a plane with its gradient.
#pragma once

#include "platform.h"
#include "scalar_math.h"

namespace sivae {

// The argument of the leaky ReLU.
template <class T>
SIVAE_HD T before_leaky(T x, T noise, T noise_weight, T bias) {
  return x + noise * noise_weight + bias;
}

template <class T>
SIVAE_HD T leaky(T v, T negative_slope) {
  return v > T(0) ? v : v * negative_slope;
}

// The gradient by the leaky ReLU's argument v. At v = 0 it is the one of the negative side, as in torch.
template <class T>
SIVAE_HD T leaky_backward(T grad, T v, T negative_slope) {
  return v > T(0) ? grad : grad * negative_slope;
}

template <class T>
SIVAE_HD T inverse_std(T std, T eps) {
  return T(1) / sqrt_(std * std + eps);
}

// The gradient by u of a plane of `count` elements is by_grad g + constant + by_deviation (u - mean), where g is the
// gradient by y. The sums are those over the plane of g and of g (u - mean) inverse_std.
template <class T>
struct PlaneGradient {
  T by_grad, constant, by_deviation;
};

template <class T>
SIVAE_HD PlaneGradient<T> plane_gradient(T std, T inverse_std, T one_plus_scale, T count, T sum_grad,
                                         T sum_grad_normalised, T grad_mean, T grad_std) {
  const T by_grad = inverse_std * one_plus_scale;
  // The standard deviation of a constant plane has no derivative; 0 is one of its subgradients.
  const T through_std = std > T(0) ? grad_std / std : (std == T(0) ? T(0) : std);
  return {by_grad, (grad_mean - by_grad * sum_grad) / count,
          (through_std - by_grad * inverse_std * sum_grad_normalised) / count};
}

}  // namespace sivae
