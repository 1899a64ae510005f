// The styled instance norm, backward. Compiled per instruction set.
#include "isa.h"
#include "plane_tiles.h"
#include "styled_norm_parts.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

// Sums over a plane, from its first read: of the gradient by y, of its products with u - mean, and of u - mean, which
// is not 0 where the mean was rounded.
enum Sum : int { kGrad, kGradDeviation, kDeviation, kSums };

// The coefficients for the second read of a plane, and the gradients of its style.
template <class T>
struct GradientOf {
  T by_grad, constant, by_deviation, by_shift, by_scale;
};

// A plane's values that do not depend on its gradient.
template <class T>
struct PlaneFacts {
  T std, scale, grad_mean, grad_std;
};

template <class T>
SIVAE_HD PlaneFacts<T> facts_of(const StyledNormBackward& a, int64_t plane) {
  return {static_cast<const T*>(a.std)[plane], value_or(a.norm.scale, plane, T(0)),
          value_or(a.grad_mean, plane, T(0)), value_or(a.grad_std, plane, T(0))};
}

// From the sums over a plane of `count` pixels.
template <class T>
SIVAE_HD GradientOf<T> gradient_of(const PlaneFacts<T>& plane, double count, double eps, double grad,
                                   double grad_deviation, double deviation) {
  const double std = static_cast<double>(plane.std);
  const double inverse = inverse_std(std, eps);
  const double dropped = deviation / count;  // lost by rounding the mean
  const double grad_normalised = (grad_deviation - dropped * grad) * inverse;
  const PlaneGradient<double> g =
      plane_gradient(std, inverse, 1.0 + static_cast<double>(plane.scale), count, grad, grad_normalised,
                     static_cast<double>(plane.grad_mean), static_cast<double>(plane.grad_std));
  return {static_cast<T>(g.by_grad), static_cast<T>(g.constant - g.by_deviation * dropped),
          static_cast<T>(g.by_deviation), static_cast<T>(grad), static_cast<T>(grad_normalised)};
}

template <class T>
void keep_style(const StyledNormBackward& a, int64_t plane, T by_shift, T by_scale) {
  if (a.grad_shift != nullptr) static_cast<T*>(a.grad_shift)[plane] = by_shift;
  if (a.grad_scale != nullptr) static_cast<T*>(a.grad_scale)[plane] = by_scale;
}

bool wants_second_reading(const StyledNormBackward& a) {
  return a.grad_x.pixels.data != nullptr || a.grad_bias != nullptr || a.grad_noise_weight != nullptr;
}

void keep(const StyledNormBackward& a, int64_t plane, double by_bias, double by_noise_weight) {
  if (a.grad_bias != nullptr) a.grad_bias[plane] = by_bias;
  if (a.grad_noise_weight != nullptr) a.grad_noise_weight[plane] = by_noise_weight;
}

template <class S>
void plane_backward(const StyledNormBackward& a, int64_t sample, int64_t channel) {
  using T = typename ComputeType<S>::type;
  alignas(64) static constexpr T kZeros[kNormBlock] = {};
  alignas(64) T x_buffer[kNormBlock], grad_buffer[kNormBlock], out[kNormBlock];
  const StyledNorm& norm = a.norm;
  const int64_t plane = sample * norm.channels + channel;
  const Strided x = plane_of<S>(norm.x, sample, channel), grad_y = plane_of<S>(a.grad_y, sample, channel),
                grad_x = plane_of<S>(a.grad_x, sample, channel);
  const Activation<T> u = activation_of<T>(norm, channel);
  const T* noise = noise_of_sample<T>(norm, sample);
  const T mean = static_cast<const T*>(a.mean)[plane];
  const auto grad_of = [&](const Piece& block) {
    return grad_y.data == nullptr ? kZeros : load<S>(norm.plane, grad_y, block, grad_buffer);
  };

  double sums[kSums][1] = {};
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const Piece block{0, 1, at, count};
    const T* in = load<S>(norm.plane, x, block, x_buffer);
    const T* g = grad_of(block);
    const T* n = noise == nullptr ? kZeros : noise + at;
    add_pixels<kSums, T>(count, sums, [&](int64_t i, T(&t)[kSums]) {
      const T d = u(in[i], n[i]) - mean;
      t[kGrad] = g[i];
      t[kGradDeviation] = g[i] * d;
      t[kDeviation] = d;
    });
  });
  const GradientOf<T> gradient =
      gradient_of<T>(facts_of<T>(a, plane), static_cast<double>(norm.plane.cols), norm.eps, sums[kGrad][0],
                     sums[kGradDeviation][0], sums[kDeviation][0]);
  keep_style(a, plane, gradient.by_shift, gradient.by_scale);
  if (!wants_second_reading(a)) return;

  double parameters[2][1] = {};
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const Piece block{0, 1, at, count};
    const T* in = load<S>(norm.plane, x, block, x_buffer);
    const T* g = grad_of(block);
    const T* n = noise == nullptr ? kZeros : noise + at;
    add_pixels<2, T>(count, parameters, [&](int64_t i, T(&t)[2]) {
      const T v = u.before(in[i], n[i]), d = leaky(v, u.negative_slope) - mean;
      const T by_u = g[i] * gradient.by_grad + (gradient.constant + d * gradient.by_deviation);
      t[0] = leaky_backward(by_u, v, u.negative_slope);
      t[1] = t[0] * n[i];
      out[i] = t[0];
    });
    if (grad_x.data != nullptr) put<S>(norm.plane, grad_x, block, out, a.stream);
  });
  keep(a, plane, parameters[0][0], parameters[1][0]);
}

// The gradient by y or by x may be absent.
template <int G, class S, class T, class Channels>
SIVAE_OUT_OF_LINE void group_backward(const StyledNormBackward& a, int64_t sample, int64_t first, Channels count,
                                      Group<const S> from, Group<const S> by_y_from, T* const (&kept)[2],
                                      Group<S> to) {
  const int channels = count;
  static constexpr S kNothing[G] = {};
  S nowhere[G];
  if (by_y_from.first == nullptr) by_y_from = {kNothing, 0};
  if (to.first == nullptr) to = {nowhere, 0};
  const Rows<G, S, T> rows{from, kept[0], channels}, by_y_rows{by_y_from, kept[1], channels};
  const StyledNorm& norm = a.norm;
  const int64_t plane = sample * norm.channels + first;
  const T* noise = noise_of_sample<T>(norm, sample);
  alignas(64) T weight[G] = {}, bias[G] = {}, mean[G] = {}, by_grad[G] = {}, constant[G] = {}, by_deviation[G] = {};
  for (int g = 0; g < channels; ++g) {
    const Activation<T> of_channel = activation_of<T>(norm, first + g);
    weight[g] = of_channel.noise_weight;
    bias[g] = of_channel.bias;
    mean[g] = static_cast<const T*>(a.mean)[plane + g];
  }
  const T slope = static_cast<T>(norm.negative_slope);
  const auto noise_at = [&](int64_t pixel) { return noise == nullptr ? T(0) : noise[pixel]; };
  alignas(64) T x_buffer[G], grad_buffer[G], out_buffer[G];

  double sums[kSums][G] = {};
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const auto pixel = [&](int64_t i) {
      const T* row = rows.first(at + i, x_buffer);
      const T* by_y = by_y_rows.first(at + i, grad_buffer);
      const T n = noise_at(at + i);
      return [&, row, by_y, n](int g, T(&t)[kSums]) {
        const T d = leaky(before_leaky(row[g], n, weight[g], bias[g]), slope) - mean[g];
        t[kGrad] = by_y[g];
        t[kGradDeviation] = by_y[g] * d;
        t[kDeviation] = d;
      };
    };
    add_pixels_of_group<kSums, T, G>(count, channels, sums, pixel, [](int64_t) {});
  });
  PlaneFacts<T> facts[G] = {};
  alignas(64) T by_shift[G], by_scale[G];
  for (int g = 0; g < channels; ++g) facts[g] = facts_of<T>(a, plane + g);
#pragma omp simd
  for (int g = 0; g < G; ++g) {
    const GradientOf<T> gradient = gradient_of<T>(facts[g], static_cast<double>(norm.plane.cols), norm.eps,
                                                  sums[kGrad][g], sums[kGradDeviation][g], sums[kDeviation][g]);
    by_grad[g] = gradient.by_grad;
    constant[g] = gradient.constant;
    by_deviation[g] = gradient.by_deviation;
    by_shift[g] = gradient.by_shift;
    by_scale[g] = gradient.by_scale;
  }
  for (int g = 0; g < channels; ++g) keep_style(a, plane + g, by_shift[g], by_scale[g]);
  if (!wants_second_reading(a)) return;

  double parameters[2][G] = {};
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const auto pixel = [&](int64_t i) {
      const T* row = rows.again(at + i, x_buffer);
      const T* by_y = by_y_rows.again(at + i, grad_buffer);
      T* out = place_of(to, at + i, out_buffer);
      const T n = noise_at(at + i);
      return [&, row, by_y, out, n](int g, T(&t)[2]) {
        const T v = before_leaky(row[g], n, weight[g], bias[g]), d = leaky(v, slope) - mean[g];
        const T by_u = by_y[g] * by_grad[g] + (constant[g] + d * by_deviation[g]);
        t[0] = leaky_backward(by_u, v, slope);
        t[1] = t[0] * n;
        out[g] = t[0];
      };
    };
    add_pixels_of_group<2, T, G>(count, channels, parameters, pixel,
                                 [&](int64_t i) { put_row(to, at + i, channels, out_buffer); });
  });
  for (int g = 0; g < channels; ++g) keep(a, plane + g, parameters[0][g], parameters[1][g]);
}

template <class S>
void backward(const StyledNormBackward& a, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  constexpr int kGroup = 64 / sizeof(S), kWide = sizeof(T) == 8 ? 32 : 64, kTile = 64 / sizeof(T);
  alignas(64) T x_tile[kSmallPlane * kTile] = {}, grad_tile[kSmallPlane * kTile] = {}, out_tile[kSmallPlane * kTile];
  alignas(64) T x_kept[kKeptPixels * kGroup], grad_kept[kKeptPixels * kGroup];
  const bool keeps = a.norm.plane.cols <= kKeptPixels, has_grad = a.grad_y.pixels.data != nullptr;
  T* const kept[2] = {keeps ? x_kept : nullptr, keeps ? grad_kept : nullptr};
  for_each_unit(a.norm, begin, end, [&](int64_t sample, int64_t first, int channels) {
    if (a.norm.channels_last) {
      with_channels<kGroup, kWide>(channels, [&](auto group, auto count) {
        group_backward<decltype(group)::value, S, T>(
            a, sample, first, count, group_of<const S>(a.norm.x, sample, first),
            group_of<const S>(a.grad_y, sample, first), kept, group_of<S>(a.grad_x, sample, first));
      });
    } else if (a.norm.small_planes()) {
      bring<S, kTile>(a.norm.plane, plane_of<S>(a.norm.x, sample, first), a.norm.x.channel, channels, x_tile);
      if (has_grad) {
        bring<S, kTile>(a.norm.plane, plane_of<S>(a.grad_y, sample, first), a.grad_y.channel, channels, grad_tile);
      }
      with_channels<kTile, kTile>(channels, [&](auto group, auto count) {
        group_backward<decltype(group)::value, T, T>(a, sample, first, count, {x_tile, kTile}, {grad_tile, kTile},
                                                     {nullptr, nullptr}, {out_tile, kTile});
      });
      if (a.grad_x.pixels.data != nullptr) {
        take_back<S, kTile>(a.norm.plane, plane_of<S>(a.grad_x, sample, first), a.grad_x.channel, channels, out_tile);
      }
    } else {
      plane_backward<S>(a, sample, first);
    }
  });
  if (a.stream) stream_fence();
}

}  // namespace

void styled_norm_backward(const StyledNormBackward& a, int64_t begin, int64_t end) {
  with_storage_type(a.norm.dtype, [&](auto s) { backward<decltype(s)>(a, begin, end); });
}

}  // namespace sivae::cpu::SIVAE_ISA
