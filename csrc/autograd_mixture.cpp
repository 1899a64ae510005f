// The autograd function of the native log density of a mixture, for every device.
#include <torch/library.h>

#include <tuple>

#include "autograd.h"

namespace sivae {
namespace {

using Mixture = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&);
using MixtureBackward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                   const Tensor&, const Tensor&, const Tensor&,
                                                                   const Tensor&, bool, bool, bool, bool);

struct MixtureFunction : Function<MixtureFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& z, const Tensor& weights, const Tensor& mu,
                               const Tensor& logvar) {
    static const auto op = find_op<Mixture>("mixture_log_prob");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [log_prob, densities] = op.call(z, weights, mu, logvar);
    ctx->save_for_backward({z, weights, mu, logvar, log_prob, densities});
    ctx->mark_non_differentiable({densities});
    ctx->set_materialize_grads(false);
    return {log_prob, densities};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<MixtureBackward>("mixture_log_prob_backward");
    if (!grads[0].defined()) return {Tensor(), Tensor(), Tensor(), Tensor()};
    const auto saved = ctx->get_saved_variables();
    bool need[4];
    for (size_t i = 0; i < 4; ++i) need[i] = ctx->needs_input_grad(i);
    auto [by_z, by_weights, by_mu, by_logvar] =
        once_differentiable("mixture_log_prob", {grads[0], saved[0], saved[1], saved[2], saved[3]}, [&] {
          return op.call(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], need[0], need[1],
                         need[2], need[3]);
        });
    return {if_needed(by_z, need[0]), if_needed(by_weights, need[1]), if_needed(by_mu, need[2]),
            if_needed(by_logvar, need[3])};
  }
};

std::tuple<Tensor, Tensor> mixture_log_prob(const Tensor& z, const Tensor& weights, const Tensor& mu,
                                            const Tensor& logvar) {
  return from_list<std::tuple<Tensor, Tensor>>(MixtureFunction::apply(z, weights, mu, logvar));
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("mixture_log_prob", &mixture_log_prob); }

}  // namespace sivae
