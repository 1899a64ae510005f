// The log density of a mixture of Gaussians on tensors, written once for all devices (schemas: sivae/ops/library.py).
//
// `Device` is a struct with the parts that differ (cpu/mixture_ops.cpp, cuda/mixture_ops.cpp):
//   empty_or_like(tensor, needed)        memory for a gradient
//   forward(mixture, densities, log_prob)
//   backward(mixture, grad, by_row, log_prob, densities, grad_z, wants_parameters)   gives MixtureSums;
//                                        `by_row` is grad as kernels read it, grad_z is undefined where not needed
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <tuple>

#include "arguments.h"
#include "operands.h"
#include "torch_dtype.h"

namespace sivae {

// z [N, L] as given, and the parameters in the type of the arithmetic, dense.
struct MixtureTensors {
  at::Tensor z, weights /* [K], those that count as 0 are 0 */, mu, logvar /* [K, L] */;
  int64_t rows() const { return z.size(0); }
  int64_t components() const { return mu.size(0); }
  int64_t dims() const { return z.size(1); }

  // log w, -inf for a weight of 0, NaN for a negative one.
  at::Tensor log_weights() const { return weights.log(); }
  at::Tensor inv_std() const { return at::exp(logvar * -0.5); }
  at::Tensor inv_variance() const { return at::exp(-logvar); }
  // The logarithm of each component's density at its mean.
  at::Tensor peaks() const {
    return (logvar.sum(1) + static_cast<double>(dims()) * std::log(2.0 * std::numbers::pi)) * -0.5;
  }
};

// Over parts of the rows, to be added. e = grad * N_k(z) / p(z) is the gradient by a weight, d = z - mu.
struct MixtureSums {
  at::Tensor weights;        // [S, K] e
  at::Tensor first, second;  // [S, K, L] w e d and w e d^2
};

template <class Device>
struct MixtureOps {
  using Tensor = at::Tensor;

  static std::tuple<Tensor, Tensor> forward(const Tensor& z, const Tensor& weights, const Tensor& mu,
                                            const Tensor& logvar) {
    const c10::DeviceGuard device(z.device());
    const MixtureTensors mixture = tensors_of(z, weights, mu, logvar);
    const auto options = z.options().dtype(mixture.mu.scalar_type());
    Tensor log_prob = at::empty({mixture.rows()}, options);
    Tensor densities = at::empty({mixture.rows(), mixture.components()}, options);
    if (densities.numel() > 0) {
      Device::forward(mixture, densities, log_prob);
    } else {
      log_prob.fill_(-std::numeric_limits<double>::infinity());
    }
    return {log_prob, densities};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& z,
                                                             const Tensor& weights, const Tensor& mu,
                                                             const Tensor& logvar, const Tensor& log_prob,
                                                             const Tensor& densities, bool need_z, bool need_weights,
                                                             bool need_mu, bool need_logvar) {
    const c10::DeviceGuard device(z.device());
    const MixtureTensors mixture = tensors_of(z, weights, mu, logvar);
    const RowGradient by_row = row_gradient_of(grad, z, 0);
    const auto saved = [&](const char* name, const Tensor& tensor, at::IntArrayRef shape) {
      check_operand(name, tensor, z, shape);
      TORCH_CHECK_TYPE(tensor.scalar_type() == mixture.mu.scalar_type(), "sivae: ", name, " has dtype ",
                       tensor.scalar_type(), ", expected ", mixture.mu.scalar_type());
      return tensor.contiguous();
    };
    const Tensor log_probs = saved("log_prob", log_prob, {mixture.rows()});
    const Tensor saved_densities = saved("densities", densities, {mixture.rows(), mixture.components()});
    Tensor grad_z = Device::empty_or_like(z, need_z);
    const auto zeros = [](const Tensor& like, bool needed) {
      return at::zeros(needed ? like.sizes() : at::IntArrayRef{0}, like.options());
    };
    Tensor grad_weights = zeros(weights, need_weights), grad_mu = zeros(mu, need_mu);
    Tensor grad_logvar = zeros(logvar, need_logvar);
    if (saved_densities.numel() == 0) {
      if (need_z) grad_z.zero_();
      return {grad_z, grad_weights, grad_mu, grad_logvar};
    }
    if (!need_z && !need_weights && !need_mu && !need_logvar) return {grad_z, grad_weights, grad_mu, grad_logvar};
    const MixtureSums sums =
        Device::backward(mixture, grad, by_row, log_probs, saved_densities, need_z ? grad_z : Tensor(),
                         need_mu || need_logvar);
    const Tensor by_weight = sums.weights.sum(0, false, at::kDouble);
    if (need_weights) grad_weights.copy_(by_weight);
    if (need_mu) grad_mu.copy_(sums.first.sum(0, false, at::kDouble).mul_(mixture.inv_variance()));
    if (need_logvar) {
      const Tensor squares = sums.second.sum(0, false, at::kDouble).mul_(mixture.inv_variance());
      grad_logvar.copy_(squares.sub_((by_weight * mixture.weights).unsqueeze(1)).mul_(0.5));
    }
    return {grad_z, grad_weights, grad_mu, grad_logvar};
  }

 private:
  static MixtureTensors tensors_of(const Tensor& z, const Tensor& weights, const Tensor& mu, const Tensor& logvar) {
    TORCH_CHECK_VALUE(z.dim() == 2 && mu.dim() == 2 && z.size(1) == mu.size(1) && z.size(1) > 0,
                      "sivae: z and mu have shapes ", z.sizes(), " and ", mu.sizes(), ", expected [N, L] and [K, L]");
    check_operand("weights", weights, z, {mu.size(0)});
    check_operand("mu", mu, z, mu.sizes());
    check_operand("logvar", logvar, z, mu.sizes());
    const at::ScalarType dtype = sum_dtype(z.scalar_type());
    (void)dtype_of(z.scalar_type());
    const auto dense = [&](const char* name, const Tensor& tensor) {
      TORCH_CHECK_TYPE(tensor.scalar_type() == z.scalar_type(), "sivae: ", name, " has dtype ", tensor.scalar_type(),
                       ", expected ", z.scalar_type());
      return tensor.to(dtype).contiguous();
    };
    const Tensor given = dense("weights", weights);
    // Below the smallest normal number a weight counts as 0, on every device.
    const double least = dtype == at::kDouble ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min();
    return {z, given.masked_fill(given.abs() < least, 0.0), dense("mu", mu), dense("logvar", logvar)};
  }
};

}  // namespace sivae
