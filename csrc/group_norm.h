// Formulas of group norm: what a group's statistics make of a channel, forward and backward.
#pragma once

#include <cmath>

#include "platform.h"

namespace sivae {

// 1 / sqrt(variance + eps); NaN where the variance overflowed, as a result of zeros would hide it.
SIVAE_HD double inverse_deviation(double variance, double eps) {
  return 1.0 / sqrt(variance + eps) + (variance - variance);
}

// Of a channel, for kernels that subtract `mean`, the group's mean rounded to the arithmetic type: before the activation
// v = (x - mean) factor + constant, and the gradient by x is factor g + (x - mean) by_deviation + by_constant, where g
// is the gradient by v. The constants make up for the rounding.
struct ChannelCoefficients {
  double mean, factor, constant, by_deviation = 0.0, by_constant = 0.0;
};

SIVAE_HD ChannelCoefficients forward_coefficients(double mean, double rounded_mean, double inverse_std, double weight,
                                                  double bias) {
  const double factor = weight * inverse_std;
  return {rounded_mean, factor, bias - (mean - rounded_mean) * factor};
}

// Adds the gradient's part, from the sums over the group of weight g and of weight g (x - the exact mean).
SIVAE_HD void add_backward(ChannelCoefficients& of, double mean, double inverse_std, double count, double grad,
                           double grad_deviation) {
  of.by_deviation = -inverse_std * inverse_std * inverse_std * grad_deviation / count;
  of.by_constant = -inverse_std * grad / count - of.by_deviation * (mean - of.mean);
}

}  // namespace sivae
