// Group norm with an activation on CUDA tensors: group_norm_ops.h with the launchers of group_norm_launch.h.
#include "../group_norm_ops.h"
#include "dispatch.h"
#include "group_norm_launch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;

struct CudaGroupNorm {
  static Tensor empty_like(const Tensor& x) { return at::empty_like(x); }

  static PixelImages images_of(const GroupNormTensors& norm, const Tensor& images) {
    const ImageStrides strides = norm.order.strides_of(images);
    return {const_cast<void*>(images.const_data_ptr()), strides.batch, strides.channel, strides.pixel};
  }

  static GroupNormCall call_of(const GroupNormTensors& norm, const Tensor& mean, const Tensor& inverse_std) {
    GroupNormCall a;
    a.dtype = dtype_of(norm.x.scalar_type());
    a.cut = GroupNormCut(norm.batch(), norm.channels(), norm.groups, norm.order.pixels(), norm.order.rows());
    a.silu = norm.silu();
    a.negative_slope = norm.slope();
    a.x = images_of(norm, norm.x);
    a.weight = norm.weight.defined() ? norm.weight.const_data_ptr<double>() : nullptr;
    a.bias = norm.bias.defined() ? norm.bias.const_data_ptr<double>() : nullptr;
    a.mean = const_cast<double*>(mean.const_data_ptr<double>());
    a.inverse_std = const_cast<double*>(inverse_std.const_data_ptr<double>());
    return a;
  }

  static Tensor sums_for(const GroupNormCall& a, const Tensor& mean) {
    return at::empty({a.cut.batch, a.cut.splits, 2, a.cut.channels}, mean.options());
  }

  static void forward(const GroupNormTensors& norm, const Tensor& y, Tensor& mean, Tensor& inverse_std, double eps) {
    GroupNormCall a = call_of(norm, mean, inverse_std);
    const Tensor sums = sums_for(a, mean);
    a.sums = sums.mutable_data_ptr<double>();
    a.out = images_of(norm, y);
    a.eps = eps;
    for (const auto stage : {GroupNormStage::kMoments, GroupNormStage::kStatistics, GroupNormStage::kApply}) {
      check_launch("group_norm_silu", launch_group_norm(stage, a, current_stream(mean)));
    }
  }

  static ChannelGradients backward(const GroupNormTensors& norm, const Tensor& grad_y, const Tensor& mean,
                                   const Tensor& inverse_std, const Tensor& grad_x) {
    GroupNormCall a = call_of(norm, mean, inverse_std);
    const Tensor sums = sums_for(a, mean), through = at::empty({a.cut.batch, a.cut.groups, 2}, mean.options());
    ChannelGradients gradients;
    gradients.weight = at::empty({a.cut.batch, a.cut.channels}, mean.options());
    gradients.bias = at::empty_like(gradients.weight);
    a.sums = sums.mutable_data_ptr<double>();
    a.through = through.mutable_data_ptr<double>();
    a.by_weight = gradients.weight.mutable_data_ptr<double>();
    a.by_bias = gradients.bias.mutable_data_ptr<double>();
    a.grad_y = images_of(norm, grad_y);
    const auto run = [&](GroupNormStage stage) {
      check_launch("group_norm_silu_backward", launch_group_norm(stage, a, current_stream(mean)));
    };
    run(GroupNormStage::kSums);
    run(GroupNormStage::kThrough);
    if (grad_x.defined()) {
      a.out = images_of(norm, grad_x);
      run(GroupNormStage::kGradients);
    }
    return gradients;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) {
  m.impl("group_norm_silu", &GroupNormOps<CudaGroupNorm>::forward);
  m.impl("group_norm_silu_backward", &GroupNormOps<CudaGroupNorm>::backward);
}

}  // namespace sivae::cuda
