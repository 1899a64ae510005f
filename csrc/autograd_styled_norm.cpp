// The autograd function of the native styled instance norm, for every device.
#include <torch/library.h>

#include <tuple>

#include "autograd.h"

namespace sivae {
namespace {

using Given = optional<Tensor>;
using StyledNorm = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Given&, const Given&, const Given&,
                                                      const Given&, const Given&, double, double);
using StyledNormBackward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
    const Given&, const Given&, const Given&, const Tensor&, const Given&, const Given&, const Given&, const Given&,
    const Tensor&, const Tensor&, double, double, bool, bool, bool, bool, bool);

struct StyledNormFunction : Function<StyledNormFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Given& noise, const Given& noise_weight,
                               const Given& bias, const Given& scale, const Given& shift, double negative_slope,
                               double eps) {
    static const auto op = find_op<StyledNorm>("styled_instance_norm");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, mean, std] = op.call(x, noise, noise_weight, bias, scale, shift, negative_slope, eps);
    const auto or_undefined = [](const Given& tensor) { return tensor.value_or(Tensor()); };
    ctx->save_for_backward(
        {x, or_undefined(noise), or_undefined(noise_weight), or_undefined(bias), or_undefined(scale), mean, std});
    ctx->saved_data["settings"] = std::make_tuple(negative_slope, eps);
    ctx->set_materialize_grads(false);
    return {y, mean, std};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<StyledNormBackward>("styled_instance_norm_backward");
    const auto saved = ctx->get_saved_variables();
    const auto settings = ctx->saved_data["settings"].to<std::tuple<double, double>>();
    // Operands that are not given have no edge in the graph.
    size_t edge = 0;
    const auto needs_next = [&](const Tensor& operand) { return operand.defined() && ctx->needs_input_grad(edge++); };
    const bool need_x = needs_next(saved[0]);
    needs_next(saved[1]);
    const bool need_noise_weight = needs_next(saved[2]), need_bias = needs_next(saved[3]);
    const bool need_scale = needs_next(saved[4]), need_shift = needs_next(saved[4]);  // shift comes with scale
    variable_list inputs(grads);
    inputs.insert(inputs.end(), saved.begin(), saved.end());
    auto [grad_x, grad_noise_weight, grad_bias, grad_scale, grad_shift] =
        once_differentiable("styled_instance_norm", inputs, [&] {
          const auto& [negative_slope, eps] = settings;
          return op.call(if_defined(grads[0]), if_defined(grads[1]), if_defined(grads[2]), saved[0],
                         if_defined(saved[1]), if_defined(saved[2]), if_defined(saved[3]), if_defined(saved[4]),
                         saved[5], saved[6], negative_slope, eps, need_x, need_noise_weight, need_bias, need_scale,
                         need_shift);
        });
    variable_list out{if_needed(grad_x, need_x), Tensor(), if_needed(grad_noise_weight, need_noise_weight),
                      if_needed(grad_bias, need_bias), if_needed(grad_scale, need_scale),
                      if_needed(grad_shift, need_shift)};
    out.resize(8);
    return out;
  }
};

std::tuple<Tensor, Tensor, Tensor> styled_instance_norm(const Tensor& x, const Given& noise, const Given& noise_weight,
                                                        const Given& bias, const Given& scale, const Given& shift,
                                                        double negative_slope, double eps) {
  auto out = StyledNormFunction::apply(x, noise, noise_weight, bias, scale, shift, negative_slope, eps);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("styled_instance_norm", &styled_instance_norm); }

}  // namespace sivae
