// The CPU implementation of batch norm with leaky ReLU (schemas: sivae/ops/batch_norm.py).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
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

constexpr int64_t kSegment = 65536;  // elements; below this number another thread costs more than it saves

class Rows {
 public:
  Rows(const Tensor& x, double negative_slope) {
    check_images(x);
    TORCH_CHECK_VALUE(x.numel() > 0, "sivae: x has shape ", x.sizes(), ", expected images with pixels");
    args_.dtype = dtype_of(x.scalar_type());
    args_.channels = x.size(1);
    args_.rows = x.numel() / x.size(1);
    // By the shape alone, so that sums do not depend on the number of threads.
    args_.rows_each = std::max<int64_t>(kSegment / args_.channels / kBatchNormBlock, 1) * kBatchNormBlock;
    args_.negative_slope = negative_slope;
    args_.x = data(x, x);
  }

  // The data of images in channels-last memory; null where they are absent.
  const void* data(const Tensor& images, const Tensor& x) {
    if (!images.defined()) return nullptr;
    check_operand("an operand", images, x, x.sizes());
    TORCH_CHECK_TYPE(images.scalar_type() == x.scalar_type(), "sivae: operands have dtypes ", x.scalar_type(), " and ",
                     images.scalar_type(), ", expected one dtype");
    kept_.push_back(images.contiguous(at::MemoryFormat::ChannelsLast));
    return kept_.back().const_data_ptr();
  }

  BatchNorm& args() { return args_; }
  int64_t channels() const { return args_.channels; }
  int64_t count() const { return args_.rows; }
  int64_t segments() const { return (args_.rows + args_.rows_each - 1) / args_.rows_each; }
  int64_t rows_of(int64_t segment) const { return args_.end_of(segment) - segment * args_.rows_each; }

  void run(BatchNorm::Stage stage) {
    args_.stage = stage;
    at::parallel_for(0, segments(), 1,
                     [&](int64_t begin, int64_t end) { kernels().batch_norm(args_, begin, end); });
  }

  // Runs a stage of sums. Returns those of each segment, [segments, 2, C].
  std::vector<double> sums(BatchNorm::Stage stage) {
    std::vector<double> all(segments() * 2 * channels());
    args_.sums = all.data();
    run(stage);
    return all;
  }

 private:
  BatchNorm args_;
  std::vector<Tensor> kept_;
};

// The coefficients of a channel, in the order of `Coefficient` in batch_norm_kernels.cpp.
struct Coefficients {
  double mean, factor, constant, by_deviation = 0.0, by_constant = 0.0;
};

// The mean is rounded to the arithmetic type, and the constants make up for that.
Coefficients forward_coefficients(double mean, double rounded_mean, double variance, double weight, double bias,
                                  double eps) {
  const double factor = weight / std::sqrt(variance + eps);
  return {rounded_mean, factor, bias - (mean - rounded_mean) * factor};
}

Tensor tensor_of(const std::vector<Coefficients>& all, const Tensor& x) {
  const int64_t channels = static_cast<int64_t>(all.size());
  Tensor out = at::empty({5, channels}, x.options().dtype(sum_dtype(x.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "coefficients", [&] {
    scalar_t* to = out.data_ptr<scalar_t>();
    for (int64_t c = 0; c < channels; ++c) {
      const Coefficients& of = all[c];
      const double values[] = {of.mean, of.factor, of.constant, of.by_deviation, of.by_constant};
      for (int k = 0; k < 5; ++k) to[k * channels + c] = static_cast<scalar_t>(values[k]);
    }
  });
  return out;
}

double rounded(double value, const Tensor& x) {
  return x.scalar_type() == at::kDouble ? value : static_cast<double>(static_cast<float>(value));
}

// The values of a parameter, [C].
std::vector<double> values_of(const char* name, const Tensor& parameter, const Tensor& x) {
  check_operand(name, parameter, x, {x.size(1)});
  std::vector<double> out(parameter.numel());
  const int64_t stride = parameter.stride(0);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, parameter.scalar_type(), "values_of", [&] {
    const scalar_t* from = parameter.const_data_ptr<scalar_t>();
    for (size_t c = 0; c < out.size(); ++c) out[c] = static_cast<double>(from[static_cast<int64_t>(c) * stride]);
  });
  return out;
}

void write(const std::vector<double>& values, Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, out.scalar_type(), "write", [&] {
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for (size_t c = 0; c < values.size(); ++c) to[c] = static_cast<scalar_t>(values[c]);
  });
}

// Memory for images in channels-last order.
Tensor empty_images(const Tensor& x) {
  if (x.is_contiguous(at::MemoryFormat::ChannelsLast)) return empty_result(x);
  return at::empty_like(x, x.options(), at::MemoryFormat::ChannelsLast);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_leaky_relu(const Tensor& x, const optional<Tensor>& residual,
                                                         const Tensor& weight, const Tensor& bias,
                                                         double negative_slope, double eps) {
  Rows rows(x, negative_slope);
  const std::vector<double> w = values_of("weight", weight, x), b = values_of("bias", bias, x);
  const std::vector<double> sums = rows.sums(BatchNorm::kMoments);
  const int64_t channels = rows.channels();
  Tensor mean = at::empty({channels}, x.options().dtype(at::kDouble)), variance = at::empty_like(mean);
  double *means = mean.mutable_data_ptr<double>(), *variances = variance.mutable_data_ptr<double>();
  std::copy_n(sums.begin(), channels, means);
  std::copy_n(sums.begin() + channels, channels, variances);  // squares, so far
  double before = static_cast<double>(rows.rows_of(0));
  for (int64_t segment = 1; segment < rows.segments(); ++segment) {
    const double count = static_cast<double>(rows.rows_of(segment)), share = count / (before + count);
    const double *of_mean = &sums[segment * 2 * channels], *of_square = of_mean + channels;
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = of_mean[c] - means[c];
      means[c] += delta * share;
      variances[c] += of_square[c] + delta * delta * (before * share);
    }
    before += count;
  }
  std::vector<Coefficients> coefficients(channels);
  for (int64_t c = 0; c < channels; ++c) {
    variances[c] /= static_cast<double>(rows.count());
    coefficients[c] = forward_coefficients(means[c], rounded(means[c], x), variances[c], w[c], b[c], eps);
  }
  const Tensor kept = tensor_of(coefficients, x);
  Tensor y = empty_images(x);
  BatchNorm& args = rows.args();
  args.coefficients = kept.const_data_ptr();
  args.residual = rows.data(given(residual), x);
  args.out = y.mutable_data_ptr();
  rows.run(BatchNorm::kApply);
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_leaky_relu_backward(
    const Tensor& grad_y, const Tensor& x, const optional<Tensor>& y, const Tensor& weight, const Tensor& bias,
    const Tensor& mean, const Tensor& variance, double negative_slope, double eps, bool need_x, bool need_residual,
    bool need_weight, bool need_bias) {
  Rows rows(x, negative_slope);
  TORCH_CHECK_VALUE(!need_residual || y.has_value(), "sivae: the residual's gradient is requested, but y is not given");
  const std::vector<double> w = values_of("weight", weight, x), b = values_of("bias", bias, x);
  const std::vector<double> m = values_of("mean", mean, x), v = values_of("variance", variance, x);
  const int64_t channels = rows.channels();
  std::vector<Coefficients> coefficients(channels);
  for (int64_t c = 0; c < channels; ++c) {
    coefficients[c] = forward_coefficients(m[c], rounded(m[c], x), v[c], w[c], b[c], eps);
  }
  Tensor table = tensor_of(coefficients, x);
  BatchNorm& args = rows.args();
  args.coefficients = table.const_data_ptr();
  args.y = rows.data(given(y), x);
  args.grad_y = rows.data(grad_y, x);

  Tensor grad_weight = at::empty({need_weight ? channels : 0}, weight.options());
  Tensor grad_bias = at::empty({need_bias ? channels : 0}, bias.options());
  Tensor grad_x = need_x ? empty_images(x) : at::empty({0}, x.options());
  Tensor grad_residual = need_residual ? empty_images(x) : at::empty({0}, x.options());
  if (need_x || need_weight || need_bias) {
    const std::vector<double> sums = rows.sums(BatchNorm::kGradientSums);
    std::vector<double> by_weight(channels), by_bias(channels);
    const double count = static_cast<double>(rows.count());
    for (int64_t c = 0; c < channels; ++c) {
      Coefficients& of = coefficients[c];
      const int64_t stride = 2 * channels;
      const double grad = sum_in_pairs(&sums[c], rows.segments(), stride);
      const double dropped = m[c] - of.mean;  // lost by rounding the mean
      const double inverse = 1.0 / std::sqrt(v[c] + eps);
      const double grad_deviation = sum_in_pairs(&sums[channels + c], rows.segments(), stride) - dropped * grad;
      by_bias[c] = grad;
      by_weight[c] = grad_deviation * inverse;
      of.by_deviation = -of.factor * inverse * inverse * grad_deviation / count;
      of.by_constant = -of.factor * grad / count - of.by_deviation * dropped;
    }
    if (need_weight) write(by_weight, grad_weight);
    if (need_bias) write(by_bias, grad_bias);
    table = tensor_of(coefficients, x);
    args.coefficients = table.const_data_ptr();
  }
  if (need_x || need_residual) {
    args.out = need_x ? grad_x.mutable_data_ptr() : nullptr;
    args.grad_residual = need_residual ? grad_residual.mutable_data_ptr() : nullptr;
    rows.run(BatchNorm::kGradients);
  }
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("batch_norm_leaky_relu", &batch_norm_leaky_relu);
  m.impl("batch_norm_leaky_relu_backward", &batch_norm_leaky_relu_backward);
}

}  // namespace sivae::cpu
