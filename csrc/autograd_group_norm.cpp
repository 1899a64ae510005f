// The autograd function of the native group norm with an activation, for every device.
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "autograd.h"

namespace sivae {
namespace {

using Given = optional<Tensor>;
using GroupNorm = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Given&, const Given&, int64_t, int64_t,
                                                     double, double);
using GroupNormBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Given&, const Given&,
                                                             const Tensor&, const Tensor&, int64_t, int64_t, double,
                                                             bool, bool, bool);

struct Settings {
  int64_t groups, activation;
  double negative_slope, eps;
};

// The gradient by v of the activation of v.
Tensor before_activation(const Tensor& grad, const Tensor& v, const Settings& settings) {
  if (settings.activation == 0) return grad;
  if (settings.activation == 1) return at::where(v > 0, grad, grad * settings.negative_slope);
  const Tensor sigmoid = at::sigmoid(v);
  return grad * (sigmoid * (1.0 + v * (1.0 - sigmoid)));
}

// The gradients of (x, weight, bias) in operators of torch, which can be differentiated again.
std::tuple<Tensor, Tensor, Tensor> composed_gradients(const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                                                      const Tensor& bias, const Settings& settings) {
  const auto dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t batch = x.size(0), channels = x.size(1), groups = settings.groups;
  const int64_t size = channels / groups, pixels = x.numel() == 0 ? 0 : x.numel() / batch / channels;
  const std::vector<int64_t> grouped{batch, groups, size, pixels}, group{2, 3}, by_channel{1, groups, size, 1};
  Tensor centred = x.to(dtype).reshape(grouped);
  // Minus one of its values, a group far from 0 keeps its digits.
  centred = centred - centred.slice(2, 0, 1).slice(3, 0, 1).detach();
  centred = centred - centred.mean(group, true);
  const Tensor inverse = ((centred * centred).mean(group, true) + settings.eps).rsqrt(), normal = centred * inverse;
  const auto values = [&](const Tensor& parameter) { return parameter.to(dtype).view(by_channel); };
  Tensor v = normal;
  if (weight.defined()) v = v * values(weight);
  if (bias.defined()) v = v + values(bias);
  const Tensor g = before_activation(grad_y.to(dtype).reshape(grouped), v, settings);
  const Tensor product = g * normal, scaled = weight.defined() ? g * values(weight) : g;
  const Tensor through = inverse * (scaled - scaled.mean(group, true) - normal * (scaled * normal).mean(group, true));
  const auto total = [&](const Tensor& of, const Tensor& parameter) {
    return parameter.defined() ? of.sum(std::vector<int64_t>{0, 3}).view({channels}).to(parameter.scalar_type())
                               : Tensor();
  };
  return {through.reshape(x.sizes()).to(x.scalar_type()), total(product, weight), total(g, bias)};
}

struct GroupNormFunction : Function<GroupNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Given& weight, const Given& bias,
                               int64_t groups, int64_t activation, double negative_slope, double eps) {
    static const auto op = find_op<GroupNorm>("group_norm_silu");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, mean, inverse_std] = op.call(x, weight, bias, groups, activation, negative_slope, eps);
    ctx->save_for_backward({x, weight.value_or(Tensor()), bias.value_or(Tensor()), mean, inverse_std});
    ctx->saved_data["settings"] = std::make_tuple(groups, activation, negative_slope, eps);
    ctx->mark_non_differentiable({mean, inverse_std});
    ctx->set_materialize_grads(false);
    return {y, mean, inverse_std};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<GroupNormBackward>("group_norm_silu_backward");
    if (!grads[0].defined()) return variable_list(7);
    const auto saved = ctx->get_saved_variables();
    const auto [groups, activation, negative_slope, eps] =
        ctx->saved_data["settings"].to<std::tuple<int64_t, int64_t, double, double>>();
    // Operands that are not given have no edge in the graph.
    size_t edge = 0;
    const auto needs_next = [&](const Tensor& operand) { return operand.defined() && ctx->needs_input_grad(edge++); };
    const bool need_x = needs_next(saved[0]), need_weight = needs_next(saved[1]), need_bias = needs_next(saved[2]);
    variable_list inputs(grads);
    inputs.insert(inputs.end(), saved.begin(), saved.end());
    std::tuple<Tensor, Tensor, Tensor> gradients;
    if (at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(inputs)) {
      // Under create_graph, a second backward pass may come.
      gradients = composed_gradients(grads[0], saved[0], saved[1], saved[2],
                                     {groups, activation, negative_slope, eps});
    } else {
      at::AutoDispatchBelowADInplaceOrView guard;
      gradients = op.call(grads[0], saved[0], if_defined(saved[1]), if_defined(saved[2]), saved[3], saved[4], groups,
                          activation, negative_slope, need_x, need_weight, need_bias);
    }
    auto& [grad_x, grad_weight, grad_bias] = gradients;
    variable_list out{if_needed(grad_x, need_x), if_needed(grad_weight, need_weight), if_needed(grad_bias, need_bias)};
    out.resize(7);
    return out;
  }
};

std::tuple<Tensor, Tensor, Tensor> group_norm_silu(const Tensor& x, const Given& weight, const Given& bias,
                                                   int64_t groups, int64_t activation, double negative_slope,
                                                   double eps) {
  return from_list<std::tuple<Tensor, Tensor, Tensor>>(
      GroupNormFunction::apply(x, weight, bias, groups, activation, negative_slope, eps));
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("group_norm_silu", &group_norm_silu); }

}  // namespace sivae
