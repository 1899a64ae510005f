// The autograd side of the native fully connected network.
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "autograd.h"

namespace sivae {
namespace {

using at::TensorList;
using ReluMlp = Tensor(const Tensor&, TensorList, TensorList);
using ReluMlpWithHidden = std::tuple<Tensor, Tensor>(const Tensor&, TensorList, TensorList);
using ReluMlpBackward = std::tuple<Tensor, std::vector<Tensor>, std::vector<Tensor>>(
    const Tensor&, const Tensor&, TensorList, const Tensor&, bool, c10::List<bool>, c10::List<bool>);

struct ReluMlpFunction : Function<ReluMlpFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, TensorList weights, TensorList biases) {
    static const auto op = find_op<ReluMlpWithHidden>("relu_mlp_with_hidden");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, hidden] = op.call(x, weights, biases);
    variable_list saved{x, hidden};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(saved));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<ReluMlpBackward>("relu_mlp_backward");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &hidden = saved[1];
    const TensorList weights = TensorList(saved).slice(2);
    // The edges are those of x, the weights and the biases. Of these the caller may have asked for some only.
    const bool need_x = ctx->needs_input_grad(0);
    c10::List<bool> need_weights, need_biases;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
      need_weights.push_back(ctx->needs_input_grad(1 + layer));
      need_biases.push_back(ctx->needs_input_grad(1 + weights.size() + layer));
    }
    variable_list inputs(grads);
    inputs.insert(inputs.end(), saved.begin(), saved.end());
    variable_list out = once_differentiable("relu_mlp", inputs, [&] {
      auto [grad_x, grad_weights, grad_biases] =
          op.call(grads[0], x, weights, hidden, need_x, need_weights, need_biases);
      variable_list list{grad_x};
      list.insert(list.end(), grad_weights.begin(), grad_weights.end());
      list.insert(list.end(), grad_biases.begin(), grad_biases.end());
      return list;
    });
    for (size_t edge = 0; edge < out.size(); ++edge) {
      out[edge] = if_needed(std::move(out[edge]), ctx->needs_input_grad(edge));
    }
    return out;
  }
};

bool has_tangent(const Tensor& tensor) { return tensor._fw_grad(/*level=*/0).defined(); }

Tensor relu_mlp(const Tensor& x, TensorList weights, TensorList biases) {
  using torch::autograd::compute_requires_grad;
  const bool backward = at::GradMode::is_enabled() && compute_requires_grad(x, weights, biases);
  // Of forward-mode derivatives the function says that it has none, instead of losing them.
  if (backward || has_tangent(x) || std::any_of(weights.begin(), weights.end(), has_tangent) ||
      std::any_of(biases.begin(), biases.end(), has_tangent)) {
    return ReluMlpFunction::apply(x, weights, biases);
  }
  static const auto op = find_op<ReluMlp>("relu_mlp");
  at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(x, weights, biases);
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("relu_mlp", &relu_mlp); }

}  // namespace sivae
