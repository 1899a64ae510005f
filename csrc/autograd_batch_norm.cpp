// The autograd function of the native batch norm with leaky ReLU.
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "autograd.h"

namespace sivae {
namespace {

using BatchNorm = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const optional<Tensor>&, const Tensor&,
                                                     const Tensor&, double, double);
using BatchNormBackward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&,
                                                                     const optional<Tensor>&, const Tensor&,
                                                                     const Tensor&, const Tensor&, const Tensor&,
                                                                     double, double, bool, bool, bool, bool);

// The gradients of (x, residual, weight, bias) in operators of torch, which can be differentiated again. y is undefined
// where there is no residual.
std::tuple<Tensor, Tensor, Tensor, Tensor> composed_gradients(const Tensor& grad_y, const Tensor& x, const Tensor& y,
                                                              const Tensor& weight, const Tensor& bias,
                                                              const Tensor& mean, double negative_slope, double eps) {
  const auto dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const std::vector<int64_t> pixels = {0, 2, 3}, channels = {1, -1, 1, 1};
  // The kept mean has no gradient. Minus it, a channel far from 0 keeps its digits.
  Tensor centred = x.to(dtype) - mean.to(dtype).view(channels);
  centred = centred - centred.mean(pixels, true);
  const Tensor inverse = ((centred * centred).mean(pixels, true) + eps).rsqrt(), normal = centred * inverse;
  const Tensor scale = weight.to(dtype).view(channels);
  const Tensor before_leaky = y.defined() ? y : normal * scale + bias.to(dtype).view(channels);
  Tensor g = grad_y.to(dtype);
  g = at::where(before_leaky > 0, g, g * negative_slope);
  const Tensor product = g * normal;
  const Tensor grad_x = scale * inverse * (g - g.mean(pixels, true) - normal * product.mean(pixels, true));
  return {grad_x.to(x.scalar_type()), g.to(x.scalar_type()), product.sum(pixels).to(weight.scalar_type()),
          g.sum(pixels).to(bias.scalar_type())};
}

struct BatchNormFunction : Function<BatchNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const optional<Tensor>& residual,
                               const Tensor& weight, const Tensor& bias, double negative_slope, double eps) {
    static const auto op = find_op<BatchNorm>("batch_norm_leaky_relu");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, mean, variance] = op.call(x, residual, weight, bias, negative_slope, eps);
    // Without a residual, x tells the sign before the leaky ReLU. With one, y does, which the next layer keeps anyway.
    ctx->save_for_backward({x, residual.has_value() ? y : Tensor(), weight, bias, mean, variance});
    ctx->saved_data["settings"] = std::make_tuple(negative_slope, eps);
    ctx->mark_non_differentiable({mean, variance});
    ctx->set_materialize_grads(false);
    return {y, mean, variance};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<BatchNormBackward>("batch_norm_leaky_relu_backward");
    if (!grads[0].defined()) return variable_list(6);
    const auto saved = ctx->get_saved_variables();
    const auto settings = ctx->saved_data["settings"].to<std::tuple<double, double>>();
    // A residual that is not given has no edge in the graph.
    const bool has_residual = saved[1].defined();
    size_t edge = 0;
    const bool need_x = ctx->needs_input_grad(edge++);
    const bool need_residual = has_residual && ctx->needs_input_grad(edge++);
    const bool need_weight = ctx->needs_input_grad(edge++), need_bias = ctx->needs_input_grad(edge++);
    variable_list inputs(grads);
    inputs.insert(inputs.end(), saved.begin(), saved.end());
    const auto& [negative_slope, eps] = settings;
    std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
    if (at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(inputs)) {
      // Under create_graph, a second backward pass may come.
      gradients = composed_gradients(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], negative_slope, eps);
    } else {
      at::AutoDispatchBelowADInplaceOrView guard;
      gradients = op.call(grads[0], saved[0], if_defined(saved[1]), saved[2], saved[3], saved[4], saved[5],
                          negative_slope, eps, need_x, need_residual, need_weight, need_bias);
    }
    auto& [grad_x, grad_residual, grad_weight, grad_bias] = gradients;
    return {if_needed(grad_x, need_x), if_needed(grad_residual, need_residual), if_needed(grad_weight, need_weight),
            if_needed(grad_bias, need_bias), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor, Tensor> batch_norm_leaky_relu(const Tensor& x, const optional<Tensor>& residual,
                                                         const Tensor& weight, const Tensor& bias,
                                                         double negative_slope, double eps) {
  auto out = BatchNormFunction::apply(x, residual, weight, bias, negative_slope, eps);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("batch_norm_leaky_relu", &batch_norm_leaky_relu); }

}  // namespace sivae
