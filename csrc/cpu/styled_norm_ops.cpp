// The CPU implementation of the styled instance norm (schemas: sivae/ops/library.py).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "../operands.h"
#include "../torch_dtype.h"
#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;
using std::optional;

constexpr int64_t kGrain = 32768;  // below this number of elements another thread costs more than it saves

// A dense copy of a parameter in the arithmetic type, where a copy is needed; null where not given.
class Values {
 public:
  Values(const char* name, const Tensor& tensor, const Tensor& x, at::IntArrayRef shape) {
    if (!tensor.defined()) return;
    check_operand(name, tensor, x, shape);
    TORCH_CHECK_TYPE(at::isFloatingType(tensor.scalar_type()), "sivae: ", name, " has dtype ", tensor.scalar_type());
    kept_ = tensor.to(sum_dtype(x.scalar_type())).contiguous();
  }
  const void* data() const { return kept_.defined() ? kept_.const_data_ptr() : nullptr; }

 private:
  Tensor kept_;
};

struct ImageOperand {
  const char* name;
  const Tensor* tensor;  // undefined: absent
  Images* images;
  bool written = false;
};

// The plane that all images (of one shape [B, C, H, W] and dtype) share, with their strides filled in.
void share_plane(StyledNorm& norm, std::initializer_list<ImageOperand> operands) {
  const Tensor& x = *operands.begin()->tensor;
  norm.dtype = dtype_of(x.scalar_type());
  norm.batch = x.size(0);
  norm.channels = x.size(1);
  const int64_t height = x.size(2), width = x.size(3);
  bool one_run = true, side_by_side = true;
  for (const ImageOperand& operand : operands) {
    const Tensor& tensor = *operand.tensor;
    if (!tensor.defined()) continue;
    check_operand(operand.name, tensor, x, x.sizes());
    TORCH_CHECK_TYPE(tensor.scalar_type() == x.scalar_type(), "sivae: ", operand.name, " has dtype ",
                     tensor.scalar_type(), ", expected ", x.scalar_type());
    operand.images->pixels.data =
        operand.written ? tensor.mutable_data_ptr() : const_cast<void*>(tensor.const_data_ptr());
    operand.images->batch = tensor.stride(0);
    operand.images->channel = tensor.stride(1);
    one_run = one_run && (height == 1 || width == 1 || tensor.stride(2) == tensor.stride(3) * width);
    side_by_side = side_by_side && tensor.stride(1) == 1;
  }
  norm.channels_last = one_run && side_by_side && norm.channels > 1;
  norm.plane.rows = 1;
  norm.plane.cols = height * width;
  norm.plane.ndim = one_run ? 1 : 2;
  norm.plane.sizes[0] = one_run ? height * width : height;
  norm.plane.sizes[1] = width;
  for (const ImageOperand& operand : operands) {
    if (!operand.tensor->defined()) continue;
    int64_t* strides = operand.images->pixels.strides;
    const int64_t row = operand.tensor->stride(2), pixel = operand.tensor->stride(3);
    strides[0] = one_run ? (width == 1 ? row : pixel) : row;
    strides[1] = pixel;
  }
}

// The operands of both passes.
struct Operands {
  Values noise, noise_weight, bias, scale;
  int64_t noise_stride;

  Operands(const Tensor& x, const Tensor& noise_maps, const Tensor& weight, const Tensor& bias, const Tensor& scale)
      : noise("noise", noise_maps, x, noise_shape(x, noise_maps)),
        noise_weight("noise_weight", weight, x, {x.size(1)}),
        bias("bias", bias, x, {x.size(1)}),
        scale("scale", scale, x, {x.size(0), x.size(1)}),
        noise_stride(noise_maps.defined() && noise_maps.size(0) > 1 ? x.size(2) * x.size(3) : 0) {
    TORCH_CHECK_VALUE(noise_maps.defined() == weight.defined(),
                      "sivae: noise and noise_weight are given together or not at all");
  }

  void fill(StyledNorm& norm, double negative_slope, double eps) const {
    norm.noise = noise.data();
    norm.noise_stride = noise_stride;
    norm.noise_weight = noise_weight.data();
    norm.bias = bias.data();
    norm.scale = scale.data();
    norm.negative_slope = negative_slope;
    norm.eps = eps;
  }

 private:
  static std::vector<int64_t> noise_shape(const Tensor& x, const Tensor& noise) {
    const bool shared = noise.defined() && noise.dim() > 0 && noise.size(0) == 1;
    return {shared ? 1 : x.size(0), 1, x.size(2), x.size(3)};
  }
};

// Takes wider units, which read memory faster, where there are still enough of them for all threads.
void widen_units(StyledNorm& norm) {
  if (!norm.channels_last || norm.plane.cols <= kKeptPixels) return;
  StyledNorm wide = norm;
  wide.wide = true;
  if (norm.channels % wide.group() == 0 && wide.units() >= 2 * at::get_num_threads()) norm.wide = true;
}

int64_t grain_of(const StyledNorm& norm) {
  return std::max<int64_t>(kGrain / std::max<int64_t>(norm.plane.cols * norm.group(), 1), 1);
}

std::tuple<Tensor, Tensor, Tensor> styled_instance_norm(const Tensor& x, const optional<Tensor>& noise,
                                                        const optional<Tensor>& noise_weight,
                                                        const optional<Tensor>& bias, const optional<Tensor>& scale,
                                                        const optional<Tensor>& shift, double negative_slope,
                                                        double eps) {
  check_images(x);
  const auto options = x.options().dtype(sum_dtype(x.scalar_type()));
  Tensor y = empty_result(x), mean = at::empty({x.size(0), x.size(1)}, options), std = at::empty_like(mean);
  // A mean of no pixels is NaN, as in torch.
  if (x.numel() == 0) return {y, mean.fill_(std::numeric_limits<double>::quiet_NaN()), std.copy_(mean)};
  const Operands operands(x, given(noise), given(noise_weight), given(bias), given(scale));
  const Values shifts("shift", given(shift), x, {x.size(0), x.size(1)});
  StyledNormForward args;
  operands.fill(args.norm, negative_slope, eps);
  share_plane(args.norm, {{"x", &x, &args.norm.x}, {"y", &y, &args.y, true}});
  args.shift = shifts.data();
  args.mean = mean.mutable_data_ptr();
  args.std = std.mutable_data_ptr();
  args.stream = y.nbytes() >= kStreamBytes;
  widen_units(args.norm);
  at::parallel_for(0, args.norm.units(), grain_of(args.norm),
                   [&](int64_t begin, int64_t end) { kernels().styled_norm_forward(args, begin, end); });
  return {y, mean, std};
}

// Memory for a parameter's gradient by plane, [B, C] of a dtype; undefined where none is needed.
Tensor plane_gradient(const Tensor& like, const Tensor& x, at::ScalarType dtype, bool needed) {
  TORCH_CHECK_VALUE(!needed || like.defined(),
                    "sivae: the gradient of a parameter is requested, but the parameter is not given");
  if (!needed) return Tensor();
  const auto options = x.options().dtype(dtype);
  // Without pixels no kernel fills it.
  return x.numel() > 0 ? at::empty({x.size(0), x.size(1)}, options) : at::zeros({x.size(0), x.size(1)}, options);
}

// The gradient [B, C] in the dtype of `like`, empty where not needed.
Tensor of_planes(const Tensor& planes, const Tensor& like, const Tensor& x) {
  const Tensor& shown = like.defined() ? like : x;
  return planes.defined() ? planes.to(shown.scalar_type()) : at::empty({0}, shown.options());
}

// Its sum over the batch, [C].
Tensor of_channels(const Tensor& planes, const Tensor& like, const Tensor& x) {
  const Tensor& shown = like.defined() ? like : x;
  if (!planes.defined()) return at::empty({0}, shown.options());
  const int64_t batch = planes.size(0), count = planes.size(1);
  Tensor sums = at::empty({count}, planes.options());
  const double* from = planes.const_data_ptr<double>();
  double* to = sums.mutable_data_ptr<double>();
  for (int64_t c = 0; c < count; ++c) to[c] = sum_in_pairs(from + c, batch, count);
  return sums.to(shown.scalar_type());
}

template <class T>
T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> styled_instance_norm_backward(
    const optional<Tensor>& grad_y, const optional<Tensor>& grad_mean, const optional<Tensor>& grad_std,
    const Tensor& x, const optional<Tensor>& noise, const optional<Tensor>& noise_weight, const optional<Tensor>& bias,
    const optional<Tensor>& scale, const Tensor& mean, const Tensor& std, double negative_slope, double eps,
    bool need_x, bool need_noise_weight, bool need_bias, bool need_scale, bool need_shift) {
  check_images(x);
  Tensor grad_x = need_x ? empty_result(x) : at::empty({0}, x.options());
  const Tensor noise_weights = given(noise_weight), biases = given(bias), scales = given(scale);
  const at::ScalarType arithmetic = sum_dtype(x.scalar_type());
  const Tensor by_noise_weight = plane_gradient(noise_weights, x, at::kDouble, need_noise_weight);
  const Tensor by_bias = plane_gradient(biases, x, at::kDouble, need_bias);
  const Tensor by_scale = plane_gradient(scales, x, arithmetic, need_scale);
  const Tensor by_shift = plane_gradient(scales, x, arithmetic, need_shift);  // the two go together
  const Tensor by_y = given(grad_y);
  if (x.numel() > 0) {
    const Operands operands(x, given(noise), noise_weights, biases, scales);
    const std::vector<int64_t> planes{x.size(0), x.size(1)};
    const Values means("mean", mean, x, planes), stds("std", std, x, planes);
    const Values by_mean("grad_mean", given(grad_mean), x, planes), by_std("grad_std", given(grad_std), x, planes);
    StyledNormBackward args;
    operands.fill(args.norm, negative_slope, eps);
    const Tensor written = need_x ? grad_x : Tensor();
    share_plane(args.norm, {{"x", &x, &args.norm.x},
                            {"grad_y", &by_y, &args.grad_y},
                            {"grad_x", &written, &args.grad_x, true}});
    args.mean = means.data();
    args.std = stds.data();
    args.grad_mean = by_mean.data();
    args.grad_std = by_std.data();
    args.grad_scale = data_or_null<void>(by_scale);
    args.grad_shift = data_or_null<void>(by_shift);
    args.grad_noise_weight = data_or_null<double>(by_noise_weight);
    args.grad_bias = data_or_null<double>(by_bias);
    args.stream = need_x && grad_x.nbytes() >= kStreamBytes;
    widen_units(args.norm);
    at::parallel_for(0, args.norm.units(), grain_of(args.norm),
                     [&](int64_t begin, int64_t end) { kernels().styled_norm_backward(args, begin, end); });
  }
  return {grad_x, of_channels(by_noise_weight, noise_weights, x), of_channels(by_bias, biases, x),
          of_planes(by_scale, scales, x), of_planes(by_shift, scales, x)};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("styled_instance_norm", &styled_instance_norm);
  m.impl("styled_instance_norm_backward", &styled_instance_norm_backward);
}

}  // namespace sivae::cpu
