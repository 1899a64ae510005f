// The autograd function of the native fully connected network with ReLU.
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "autograd.h"

namespace sivae {
namespace {

using ReluNetwork = std::tuple<Tensor, Tensor>(const Tensor&, at::TensorList, at::TensorList);
using ReluNetworkBackward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, at::TensorList, bool,
                                                       bool);

// The gradients of x, the weights and the biases in operators of torch, which can be differentiated again.
variable_list composed_gradients(const Tensor& grad_y, const Tensor& x, at::TensorList weights,
                                 at::TensorList biases) {
  std::vector<Tensor> inputs = {x};
  for (size_t layer = 0; layer + 1 < weights.size(); ++layer) {
    inputs.push_back(at::linear(inputs.back(), weights[layer], biases[layer]).relu());
  }
  const size_t count = weights.size();
  variable_list gradients(1 + 2 * count);
  Tensor grad = grad_y;
  for (size_t layer = count; layer-- > 0;) {
    gradients[1 + layer] = grad.t().mm(inputs[layer]);
    gradients[1 + count + layer] = grad.sum(0);
    grad = grad.mm(weights[layer]);
    if (layer > 0) grad = at::threshold_backward(grad, inputs[layer], 0);
  }
  gradients[0] = grad;
  return gradients;
}

struct ReluNetworkFunction : Function<ReluNetworkFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights, at::TensorList biases) {
    static const auto op = find_op<ReluNetwork>("relu_network");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, hidden] = op.call(x, weights, biases);
    variable_list saved = {x, hidden};
    saved.insert(saved.end(), weights.begin(), weights.end());
    saved.insert(saved.end(), biases.begin(), biases.end());
    ctx->save_for_backward(saved);
    ctx->mark_non_differentiable({hidden});
    ctx->set_materialize_grads(false);
    return {y, hidden};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<ReluNetworkBackward>("relu_network_backward");
    const auto saved = ctx->get_saved_variables();
    const size_t count = (saved.size() - 2) / 2;
    variable_list out(1 + 2 * count);
    if (!grads[0].defined()) return out;
    bool need_parameters = false;
    for (size_t edge = 1; edge < out.size(); ++edge) need_parameters |= ctx->needs_input_grad(edge);
    const at::TensorList weights(saved.data() + 2, count), biases(saved.data() + 2 + count, count);
    variable_list inputs(saved);
    inputs.push_back(grads[0]);
    const bool many = grads[0].unsafeGetTensorImpl()->key_set().has_any(
        c10::DispatchKeySet({c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched}));
    if (many || (at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(inputs))) {
      // Under create_graph, a second backward pass may come. Many gradients at once need operators of torch.
      out = composed_gradients(grads[0], saved[0], weights, biases);
    } else {
      at::AutoDispatchBelowADInplaceOrView guard;
      auto [of_x, of_parameters] =
          op.call(grads[0], saved[0], saved[1], weights, ctx->needs_input_grad(0), need_parameters);
      out[0] = of_x;
      int64_t from = 0;
      for (size_t edge = 1; need_parameters && edge < out.size(); ++edge) {
        const Tensor& parameter = saved[1 + edge];
        out[edge] = of_parameters.narrow(0, from, parameter.numel()).view(parameter.sizes());
        from += parameter.numel();
      }
    }
    for (size_t edge = 0; edge < out.size(); ++edge) out[edge] = if_needed(out[edge], ctx->needs_input_grad(edge));
    return out;
  }
};

std::tuple<Tensor, Tensor> relu_network(const Tensor& x, at::TensorList weights, at::TensorList biases) {
  auto out = ReluNetworkFunction::apply(x, weights, biases);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("relu_network", &relu_network); }

}  // namespace sivae
