// The styled instance norm on CUDA tensors (schemas: sivae/ops/library.py), without a CUDA header.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <tuple>

#include "../operands.h"
#include "../torch_dtype.h"
#include "dispatch.h"
#include "styled_norm_launch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;
using std::optional;

// Checks that the dtype is x's or float32, and returns whether it is float32.
bool is_float(const char* name, const Tensor& tensor, const Tensor& x) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type() || tensor.scalar_type() == at::kFloat, "sivae: ", name,
                   " has dtype ", tensor.scalar_type(), ", expected ", x.scalar_type(), " or Float");
  return tensor.scalar_type() == at::kFloat;
}

// Strides of dimensions of size 1 mean nothing; they are set so that no check of strides fails on them.
Images images_of(const Tensor& t, bool written) {
  Images images;
  images.data = written ? t.mutable_data_ptr() : const_cast<void*>(t.const_data_ptr());
  images.batch = t.size(0) == 1 ? 0 : t.stride(0);
  images.channel = t.size(1) == 1 ? 0 : t.stride(1);
  images.row = t.size(2) == 1 ? 0 : t.stride(2);
  images.column = t.size(3) == 1 ? images.row : t.stride(3);
  if (t.size(2) == 1) images.row = images.column * t.size(3);
  return images;
}

Images images_like(const char* name, const Tensor& tensor, const Tensor& x, bool written = false) {
  if (!tensor.defined()) return {};
  check_operand(name, tensor, x, x.sizes());
  TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type(), "sivae: ", name, " has dtype ", tensor.scalar_type(),
                   ", expected ", x.scalar_type());
  return images_of(tensor, written);
}

// [B, C], or [C] where `per_sample` is not set.
Parameter parameter_of(const char* name, const Tensor& tensor, const Tensor& x, bool per_sample) {
  if (!tensor.defined()) return {};
  check_operand(name, tensor, x, x.sizes().slice(per_sample ? 0 : 1, per_sample ? 2 : 1));
  return {tensor.const_data_ptr(), per_sample ? tensor.stride(0) : 0, tensor.stride(-1), is_float(name, tensor, x)};
}

Parameter statistic_of(const char* name, const Tensor& tensor, const Tensor& x) {
  if (!tensor.defined()) return {};
  check_operand(name, tensor, x, x.sizes().slice(0, 2));
  TORCH_CHECK_TYPE(tensor.scalar_type() == sum_dtype(x.scalar_type()), "sivae: ", name, " has dtype ",
                   tensor.scalar_type(), ", expected ", sum_dtype(x.scalar_type()));
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1)};
}

ParameterGradient gradient_of(const Tensor& gradient, bool needed) {
  if (!needed) return {};
  return {gradient.data_ptr(), gradient.scalar_type() == at::kFloat};
}

StyledNorm norm_of(const Tensor& x, const Tensor& noise, const Tensor& noise_weight, const Tensor& bias,
                   const Tensor& scale, double negative_slope, double eps) {
  StyledNorm norm{.dtype = dtype_of(x.scalar_type()),
                  .batch = x.size(0),
                  .channels = x.size(1),
                  .height = x.size(2),
                  .width = x.size(3),
                  .x = images_of(x, false),
                  .noise_weight = parameter_of("noise_weight", noise_weight, x, false),
                  .bias = parameter_of("bias", bias, x, false),
                  .scale = parameter_of("scale", scale, x, true),
                  .negative_slope = negative_slope,
                  .eps = eps};
  TORCH_CHECK_VALUE(noise.defined() == noise_weight.defined(),
                    "sivae: noise and noise_weight are given together or not at all");
  if (noise.defined()) {
    TORCH_CHECK_VALUE(noise.dim() == 4, "sivae: noise has shape ", noise.sizes(), ", expected [B, 1, H, W]");
    check_operand("noise", noise, x, {noise.size(0) == 1 ? 1 : x.size(0), 1, x.size(2), x.size(3)});
    norm.noise = images_of(noise, false);
    norm.noise_is_float = is_float("noise", noise, x);
  }
  return norm;
}

std::tuple<Tensor, Tensor, Tensor> styled_instance_norm(const Tensor& x, const optional<Tensor>& noise,
                                                        const optional<Tensor>& noise_weight,
                                                        const optional<Tensor>& bias, const optional<Tensor>& scale,
                                                        const optional<Tensor>& shift, double negative_slope,
                                                        double eps) {
  check_images(x);
  const c10::DeviceGuard device(x.device());
  const auto options = x.options().dtype(sum_dtype(x.scalar_type()));
  Tensor y = at::empty_like(x), mean = at::empty({x.size(0), x.size(1)}, options), std = at::empty_like(mean);
  StyledNormForward args{
      .norm = norm_of(x, given(noise), given(noise_weight), given(bias), given(scale), negative_slope, eps),
      .shift = parameter_of("shift", given(shift), x, true)};
  if (x.numel() == 0) {
    // A mean of no pixels is NaN, as in torch.
    return {y, mean.fill_(std::numeric_limits<double>::quiet_NaN()), std.copy_(mean)};
  }
  args.y = images_like("y", y, x, true);
  args.mean = mean.data_ptr();
  args.std = std.data_ptr();
  const int64_t segments = segments_of(args);
  Tensor parts, rest;
  if (segments > 1) {
    parts = at::empty({3, x.size(0), segments, x.size(1)}, options);
    rest = at::empty_like(mean);
    args.segment_mean = parts[0].data_ptr();
    args.segment_rest = parts[1].data_ptr();
    args.segment_squares = parts[2].data_ptr();
    args.rest = rest.data_ptr();
  }
  check_launch("styled_instance_norm", launch_styled_norm_forward(args, current_stream(x)));
  return {y, mean, std};
}

// Memory for a gradient, contiguous even where the parameter is not.
Tensor parameter_like(const Tensor& tensor, const Tensor& x, bool needed) {
  TORCH_CHECK_VALUE(!needed || tensor.defined(),
                    "sivae: the gradient of a parameter is requested, but the parameter is not given");
  return needed ? at::empty(tensor.sizes(), tensor.options())
                : at::empty({0}, (tensor.defined() ? tensor : x).options());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> styled_instance_norm_backward(
    const optional<Tensor>& grad_y, const optional<Tensor>& grad_mean, const optional<Tensor>& grad_std,
    const Tensor& x, const optional<Tensor>& noise, const optional<Tensor>& noise_weight, const optional<Tensor>& bias,
    const optional<Tensor>& scale, const Tensor& mean, const Tensor& std, double negative_slope, double eps,
    bool need_x, bool need_noise_weight, bool need_bias, bool need_scale, bool need_shift) {
  check_images(x);
  const c10::DeviceGuard device(x.device());
  const auto options = x.options().dtype(sum_dtype(x.scalar_type()));
  Tensor grad_x = need_x ? at::empty_like(x) : at::empty({0}, x.options());
  Tensor grad_noise_weight = parameter_like(given(noise_weight), x, need_noise_weight);
  Tensor grad_bias = parameter_like(given(bias), x, need_bias);
  Tensor grad_scale = parameter_like(given(scale), x, need_scale);
  Tensor grad_shift = parameter_like(given(scale), x, need_shift);  // the two go together
  const Tensor by_y = given(grad_y), by_mean = given(grad_mean), by_std = given(grad_std);
  if (x.numel() == 0 || !(by_y.defined() || by_mean.defined() || by_std.defined())) {
    return {grad_x.zero_(), grad_noise_weight.zero_(), grad_bias.zero_(), grad_scale.zero_(), grad_shift.zero_()};
  }

  StyledNormBackward args{
      .norm = norm_of(x, given(noise), given(noise_weight), given(bias), given(scale), negative_slope, eps),
      .grad_y = images_like("grad_y", by_y, x),
      .grad_mean = statistic_of("grad_mean", by_mean, x),
      .grad_std = statistic_of("grad_std", by_std, x)};
  const Tensor own_mean = mean.contiguous(), own_std = std.contiguous();
  args.mean = statistic_of("mean", own_mean, x).data;
  args.std = statistic_of("std", own_std, x).data;
  args.grad_x = images_like("grad_x", need_x ? grad_x : Tensor(), x, true);
  args.grad_noise_weight = gradient_of(grad_noise_weight, need_noise_weight);
  args.grad_bias = gradient_of(grad_bias, need_bias);
  args.grad_scale = gradient_of(grad_scale, need_scale && by_y.defined());
  args.grad_shift = gradient_of(grad_shift, need_shift && by_y.defined());
  if (!by_y.defined()) {
    grad_scale.zero_();
    grad_shift.zero_();
  }
  const int64_t segments = segments_of(args), planes = x.size(0) * x.size(1), parts = planes * segments;
  const bool sums = segments > 1 && by_y.defined();
  const int64_t size = at::elementSize(options.dtype().toScalarType());
  Tensor scratch = at::empty({(sums ? 2 * (parts + planes) : 0) + (need_bias + need_noise_weight) * parts}, options);
  char* next = static_cast<char*>(scratch.data_ptr());
  const auto take = [&](int64_t count) {
    void* taken = next;
    next += count * size;
    return taken;
  };
  for (int k = 0; k < 2 && sums; ++k) {
    args.segment_sums[k] = take(parts);
    args.plane_sums[k] = take(planes);
  }
  if (need_bias) args.segment_grads[0] = take(parts);
  if (need_noise_weight) args.segment_grads[1] = take(parts);
  check_launch("styled_instance_norm_backward", launch_styled_norm_backward(args, current_stream(x)));
  return {grad_x, grad_noise_weight, grad_bias, grad_scale, grad_shift};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) {
  m.impl("styled_instance_norm", &styled_instance_norm);
  m.impl("styled_instance_norm_backward", &styled_instance_norm_backward);
}

}  // namespace sivae::cuda
