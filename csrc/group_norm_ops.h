// Group norm with an activation on tensors, written once for all devices (schemas: sivae/ops/library.py).
//
// `Device` is a struct with the parts that differ (cpu/group_norm_ops.cpp, cuda/group_norm_ops.cpp):
//   empty_like(x)                                      memory for images
//   forward(norm, y, mean, inverse_std, eps)
//   backward(norm, grad_y, mean, inverse_std, grad_x)  gives ChannelGradients; grad_x is undefined where not needed
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "operands.h"
#include "torch_dtype.h"

namespace sivae {

// How images [B, C, ...] are in memory: the strides in elements of samples, channels and pixels, which are equally
// spaced in some order of their dimensions.
struct ImageStrides {
  int64_t batch = 0, channel = 0, pixel = 0;
};

// The order in which kernels visit the pixels of images: by the strides of x.
class PixelOrder {
 public:
  explicit PixelOrder(const at::Tensor& x) : channels_(x.size(1)) {
    for (int64_t d = 2; d < x.dim(); ++d) {
      if (x.size(d) != 1) dims_.push_back(d);
      pixels_ *= x.size(d);
    }
    std::stable_sort(dims_.begin(), dims_.end(), [&](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
    rows_ = channels_ > 1 && x.stride(1) == 1 && (pixels_ == 1 || strides_of(x).pixel == channels_);
  }

  // Whether the channels of a pixel are side by side, and else the pixels of a channel.
  bool rows() const { return rows_; }
  int64_t pixels() const { return pixels_; }

  bool fits(const at::Tensor& images) const {
    for (size_t k = 0; k + 1 < dims_.size(); ++k) {
      if (images.stride(dims_[k]) != images.stride(dims_[k + 1]) * images.size(dims_[k + 1])) return false;
    }
    const ImageStrides strides = strides_of(images);
    if (rows_) return strides.channel == 1 && (pixels_ == 1 || strides.pixel == channels_);
    return pixels_ == 1 || strides.pixel == 1;
  }

  ImageStrides strides_of(const at::Tensor& images) const {
    return {images.stride(0), images.stride(1), dims_.empty() ? 1 : images.stride(dims_.back())};
  }

  // Memory for images like x in this order.
  at::Tensor empty(const at::Tensor& x) const {
    std::vector<int64_t> strides(x.dim(), 1);
    strides[0] = channels_ * pixels_;
    strides[1] = rows_ ? 1 : pixels_;
    int64_t next = rows_ ? channels_ : 1;
    for (auto d = dims_.rbegin(); d != dims_.rend(); ++d) {
      strides[*d] = next;
      next *= x.size(*d);
    }
    return at::empty_strided(x.sizes(), strides, x.options());
  }

  // The images, copied where they are in another order.
  at::Tensor in_order(const at::Tensor& images) const {
    return fits(images) ? images : empty(images).copy_(images);
  }

 private:
  int64_t channels_, pixels_ = 1;
  std::vector<int64_t> dims_;  // of the pixels, the one with the smallest stride last
  bool rows_ = false;
};

struct GroupNormTensors {
  at::Tensor x;             // in the order
  PixelOrder order;
  at::Tensor weight, bias;  // [C] of double; undefined: 1 and 0
  int64_t groups;
  int64_t activation;
  double negative_slope;

  int64_t batch() const { return x.size(0); }
  int64_t channels() const { return x.size(1); }
  int64_t group_channels() const { return channels() / groups; }
  double group_count() const { return static_cast<double>(group_channels() * order.pixels()); }
  bool silu() const { return activation == 2; }
  // Of the leaky ReLU, as which "none" runs, too.
  double slope() const { return activation == 1 ? negative_slope : 1.0; }
};

// The gradients by weight and bias of each sample, [B, C] of double.
struct ChannelGradients {
  at::Tensor weight, bias;
};

template <class Device>
struct GroupNormOps {
  using Tensor = at::Tensor;
  using Given = std::optional<Tensor>;

  static std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Given& weight, const Given& bias,
                                                    int64_t groups, int64_t activation, double negative_slope,
                                                    double eps) {
    const c10::DeviceGuard device(x.device());
    const GroupNormTensors norm = tensors_of(x, weight, bias, groups, activation, negative_slope);
    Tensor y = Device::empty_like(x);
    Tensor mean = at::empty({x.size(0), groups}, x.options().dtype(at::kDouble)), inverse_std = at::empty_like(mean);
    if (x.numel() == 0) {
      const double nothing = std::numeric_limits<double>::quiet_NaN();
      return {y, mean.fill_(nothing), inverse_std.fill_(nothing)};
    }
    const Tensor written = place_for(norm, y);
    Device::forward(norm, written, mean, inverse_std, eps);
    if (!written.is_same(y)) y.copy_(written);
    return {y, mean, inverse_std};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const Given& weight,
                                                     const Given& bias, const Tensor& mean, const Tensor& inverse_std,
                                                     int64_t groups, int64_t activation, double negative_slope,
                                                     bool need_x, bool need_weight, bool need_bias) {
    const c10::DeviceGuard device(x.device());
    const GroupNormTensors norm = tensors_of(x, weight, bias, groups, activation, negative_slope);
    check_operand("grad_y", grad_y, x, x.sizes());
    TORCH_CHECK_TYPE(grad_y.scalar_type() == x.scalar_type(), "sivae: grad_y has dtype ", grad_y.scalar_type(),
                     ", expected ", x.scalar_type());
    for (const auto& [name, statistic] : {std::pair("mean", &mean), std::pair("inverse_std", &inverse_std)}) {
      check_operand(name, *statistic, x, {x.size(0), groups});
      TORCH_CHECK_TYPE(statistic->scalar_type() == at::kDouble, "sivae: ", name, " has dtype ",
                       statistic->scalar_type(), ", expected Double");
    }
    const auto gradient_of = [&](const char* name, const Given& parameter, bool needed) {
      TORCH_CHECK_VALUE(!needed || parameter.has_value(), "sivae: the gradient of ", name,
                        " is requested, but it is not given");
      return at::zeros({needed ? x.size(1) : 0}, parameter.has_value() ? parameter->options() : x.options());
    };
    Tensor grad_weight = gradient_of("weight", weight, need_weight), grad_bias = gradient_of("bias", bias, need_bias);
    Tensor grad_x = need_x ? Device::empty_like(x) : at::empty({0}, x.options());
    if (x.numel() == 0 || (!need_x && !need_weight && !need_bias)) return {grad_x, grad_weight, grad_bias};
    const Tensor written = need_x ? place_for(norm, grad_x) : Tensor();
    const ChannelGradients sums = Device::backward(norm, norm.order.in_order(grad_y), mean.contiguous(),
                                                   inverse_std.contiguous(), written);
    if (need_x && !written.is_same(grad_x)) grad_x.copy_(written);
    if (need_weight) grad_weight.copy_(sums.weight.sum(0));
    if (need_bias) grad_bias.copy_(sums.bias.sum(0));
    return {grad_x, grad_weight, grad_bias};
  }

 private:
  static Tensor place_for(const GroupNormTensors& norm, const Tensor& images) {
    return norm.order.fits(images) ? images : norm.order.empty(images);
  }

  static GroupNormTensors tensors_of(const Tensor& x, const Given& weight, const Given& bias, int64_t groups,
                                     int64_t activation, double negative_slope) {
    TORCH_CHECK_VALUE(x.dim() >= 2, "sivae: x has shape ", x.sizes(), ", expected [B, C, ...]");
    (void)dtype_of(x.scalar_type());
    TORCH_CHECK_VALUE(groups > 0 && x.size(1) % groups == 0, "sivae: ", groups, " groups of ", x.size(1),
                      " channels, expected groups of one size");
    TORCH_CHECK_VALUE(activation >= 0 && activation <= 2, "sivae: activation is ", activation, ", expected 0 to 2");
    const auto parameter = [&](const char* name, const Given& values) {
      if (!values.has_value()) return Tensor();
      check_operand(name, *values, x, {x.size(1)});
      TORCH_CHECK_TYPE(at::isFloatingType(values->scalar_type()), "sivae: ", name, " has dtype ",
                       values->scalar_type(), ", expected a floating one");
      return values->to(at::kDouble).contiguous();
    };
    const Tensor weights = parameter("weight", weight), biases = parameter("bias", bias);
    const PixelOrder given(x);
    if (given.fits(x)) return {x, given, weights, biases, groups, activation, negative_slope};
    const Tensor copy = x.contiguous();
    return {copy, PixelOrder(copy), weights, biases, groups, activation, negative_slope};
  }
};

}  // namespace sivae
