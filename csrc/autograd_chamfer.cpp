// The autograd function of the native Chamfer distance, for every device.
#include <torch/library.h>

#include <tuple>

#include "autograd.h"

namespace sivae {
namespace {

using Chamfer = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, int64_t);
using ChamferBackward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                   const Tensor&, int64_t, bool, bool);

struct ChamferFunction : Function<ChamferFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& points, const Tensor& targets, int64_t reduction) {
    static const auto op = find_op<Chamfer>("chamfer_distance");
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [distance, nearest_target, nearest_point] = op.call(points, targets, reduction);
    ctx->save_for_backward({points, targets, nearest_target, nearest_point});
    ctx->saved_data["reduction"] = reduction;
    ctx->mark_non_differentiable({nearest_target, nearest_point});
    ctx->set_materialize_grads(false);
    return {distance, nearest_target, nearest_point};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<ChamferBackward>("chamfer_distance_backward");
    if (!grads[0].defined()) return {Tensor(), Tensor(), Tensor()};
    const auto saved = ctx->get_saved_variables();
    const int64_t reduction = ctx->saved_data["reduction"].toInt();
    const bool need_points = ctx->needs_input_grad(0), need_targets = ctx->needs_input_grad(1);
    auto [grad_points, grad_targets] = once_differentiable("chamfer_distance", {grads[0], saved[0], saved[1]}, [&] {
      return op.call(grads[0], saved[0], saved[1], saved[2], saved[3], reduction, need_points, need_targets);
    });
    return {if_needed(grad_points, need_points), if_needed(grad_targets, need_targets), Tensor()};
  }
};

std::tuple<Tensor, Tensor, Tensor> chamfer_distance(const Tensor& points, const Tensor& targets, int64_t reduction) {
  return from_list<std::tuple<Tensor, Tensor, Tensor>>(ChamferFunction::apply(points, targets, reduction));
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) { m.impl("chamfer_distance", &chamfer_distance); }

}  // namespace sivae
