// The styled instance norm, forward. Compiled per instruction set.
#include "isa.h"
#include "plane_tiles.h"
#include "styled_norm_parts.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

// A plane's standard deviation, and the coefficients of its second read: y = (u - mean) * factor + constant.
template <class T>
struct PlaneAffine {
  T mean, std, factor, constant;
};

template <class T>
SIVAE_HD PlaneAffine<T> affine_of(double exact_mean, double variance, double scale, double shift, double eps) {
  const T mean = static_cast<T>(exact_mean);
  const double factor = (1.0 + scale) / std::sqrt(variance + eps);
  // The constant makes up for the rounding of the mean.
  const double dropped = exact_mean - static_cast<double>(mean);
  return {mean, static_cast<T>(std::sqrt(variance)), static_cast<T>(factor), static_cast<T>(shift - dropped * factor)};
}

template <class S>
void plane_forward(const StyledNormForward& a, int64_t sample, int64_t channel) {
  using T = typename ComputeType<S>::type;
  alignas(64) static constexpr T kNoNoise[kNormBlock] = {};
  alignas(64) T buffer[kNormBlock], out[kNormBlock];
  const StyledNorm& norm = a.norm;
  const Strided x = plane_of<S>(norm.x, sample, channel), y = plane_of<S>(a.y, sample, channel);
  const Activation<T> u = activation_of<T>(norm, channel);
  const T* noise = noise_of_sample<T>(norm, sample);

  Moments<1> moments;
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const T* in = load<S>(norm.plane, x, {0, 1, at, count}, buffer);
    const T* n = noise == nullptr ? kNoNoise : noise + at;
    const T pivot = u(in[0], n[0]);
    double sum[1][1] = {}, sums[2][1] = {};
    add_pixels<1, T>(count, sum, [&](int64_t i, T(&t)[1]) { t[0] = u(in[i], n[i]) - pivot; });
    const T middle[1] = {static_cast<T>(static_cast<double>(pivot) + sum[0][0] / static_cast<double>(count))};
    add_pixels<2, T>(count, sums, [&](int64_t i, T(&t)[2]) {
      t[0] = u(in[i], n[i]) - middle[0];
      t[1] = t[0] * t[0];
    });
    moments.merge(count, middle, sums);
  });

  const int64_t plane = sample * norm.channels + channel;
  const PlaneAffine<T> affine = affine_of<T>(moments.mean[0], moments.squares[0] / moments.count,
                                             static_cast<double>(value_or(norm.scale, plane, T(0))),
                                             static_cast<double>(value_or(a.shift, plane, T(0))), norm.eps);
  static_cast<T*>(a.mean)[plane] = affine.mean;
  static_cast<T*>(a.std)[plane] = affine.std;
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const Piece block{0, 1, at, count};
    const T* in = load<S>(norm.plane, x, block, buffer);
    const T* n = noise == nullptr ? kNoNoise : noise + at;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = (u(in[i], n[i]) - affine.mean) * affine.factor + affine.constant;
    put<S>(norm.plane, y, block, out, a.stream);
  });
}

template <int G, class S, class T, class Channels>
SIVAE_OUT_OF_LINE void group_forward(const StyledNormForward& a, int64_t sample, int64_t first, Channels count,
                                     Group<const S> from, T* kept, Group<S> to) {
  const int channels = count;
  const Rows<G, S, T> rows{from, kept, channels};
  const StyledNorm& norm = a.norm;
  const T* noise = noise_of_sample<T>(norm, sample);
  alignas(64) T weight[G] = {}, bias[G] = {}, mean[G] = {}, factor[G] = {}, constant[G] = {};
  for (int g = 0; g < channels; ++g) {
    const Activation<T> of_channel = activation_of<T>(norm, first + g);
    weight[g] = of_channel.noise_weight;
    bias[g] = of_channel.bias;
  }
  const T slope = static_cast<T>(norm.negative_slope);
  const auto noise_at = [&](int64_t pixel) { return noise == nullptr ? T(0) : noise[pixel]; };
  const auto u = [&](T x, T n, int g) { return Activation<T>{weight[g], bias[g], slope}(x, n); };
  const auto nothing = [](int64_t) {};

  Moments<G> moments;
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    alignas(64) T buffer[G], pivot[G] = {}, middle[G] = {};
    const T* first_row = rows.first(at, buffer);
    for (int g = 0; g < channels; ++g) pivot[g] = u(first_row[g], noise_at(at), g);
    double sum[1][G] = {}, sums[2][G] = {};
    const auto from_pivot = [&](int64_t i) {
      const T* row = rows.first(at + i, buffer);
      const T n = noise_at(at + i);
      return [&, row, n](int g, T(&t)[1]) { t[0] = u(row[g], n, g) - pivot[g]; };
    };
    add_pixels_of_group<1, T, G>(count, channels, sum, from_pivot, nothing);
    for (int g = 0; g < G; ++g) {
      middle[g] = static_cast<T>(static_cast<double>(pivot[g]) + sum[0][g] / static_cast<double>(count));
    }
    const auto from_middle = [&](int64_t i) {
      const T* row = rows.again(at + i, buffer);
      const T n = noise_at(at + i);
      return [&, row, n](int g, T(&t)[2]) {
        t[0] = u(row[g], n, g) - middle[g];
        t[1] = t[0] * t[0];
      };
    };
    add_pixels_of_group<2, T, G>(count, channels, sums, from_middle, nothing);
    moments.merge(count, middle, sums);
  });

  const int64_t plane = sample * norm.channels + first;
  alignas(64) T std[G], scale[G] = {}, shift[G] = {};
  for (int g = 0; g < channels; ++g) {
    scale[g] = value_or(norm.scale, plane + g, T(0));
    shift[g] = value_or(a.shift, plane + g, T(0));
  }
#pragma omp simd
  for (int g = 0; g < G; ++g) {
    const PlaneAffine<T> affine = affine_of<T>(moments.mean[g], moments.squares[g] / moments.count,
                                               static_cast<double>(scale[g]), static_cast<double>(shift[g]), norm.eps);
    mean[g] = affine.mean;
    std[g] = affine.std;
    factor[g] = affine.factor;
    constant[g] = affine.constant;
  }
  for (int g = 0; g < channels; ++g) {
    static_cast<T*>(a.mean)[plane + g] = mean[g];
    static_cast<T*>(a.std)[plane + g] = std[g];
  }
  alignas(64) T buffer[G], out_buffer[G];
  for (int64_t i = 0; i < norm.plane.cols; ++i) {
    const T* row = rows.again(i, buffer);
    T* out = place_of(to, i, out_buffer);
    const T n = noise_at(i);
#pragma omp simd
    for (int g = 0; g < channels; ++g) out[g] = (u(row[g], n, g) - mean[g]) * factor[g] + constant[g];
    put_row(to, i, channels, out);
  }
}

template <class S>
void forward(const StyledNormForward& a, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  constexpr int kGroup = 64 / sizeof(S), kWide = sizeof(T) == 8 ? 32 : 64, kTile = 64 / sizeof(T);
  alignas(64) T x_tile[kSmallPlane * kTile] = {}, y_tile[kSmallPlane * kTile], x_kept[kKeptPixels * kGroup];
  T* const kept = a.norm.plane.cols <= kKeptPixels ? x_kept : nullptr;
  for_each_unit(a.norm, begin, end, [&](int64_t sample, int64_t first, int channels) {
    if (a.norm.channels_last) {
      with_channels<kGroup, kWide>(channels, [&](auto group, auto count) {
        group_forward<decltype(group)::value, S, T>(a, sample, first, count,
                                                    group_of<const S>(a.norm.x, sample, first), kept,
                                                    group_of<S>(a.y, sample, first));
      });
    } else if (a.norm.small_planes()) {
      bring<S, kTile>(a.norm.plane, plane_of<S>(a.norm.x, sample, first), a.norm.x.channel, channels, x_tile);
      with_channels<kTile, kTile>(channels, [&](auto group, auto count) {
        group_forward<decltype(group)::value, T, T>(a, sample, first, count, {x_tile, kTile}, nullptr, {y_tile, kTile});
      });
      take_back<S, kTile>(a.norm.plane, plane_of<S>(a.y, sample, first), a.y.channel, channels, y_tile);
    } else {
      plane_forward<S>(a, sample, first);
    }
  });
  if (a.stream) stream_fence();
}

}  // namespace

void styled_norm_forward(const StyledNormForward& a, int64_t begin, int64_t end) {
  with_storage_type(a.norm.dtype, [&](auto s) { forward<decltype(s)>(a, begin, end); });
}

}  // namespace sivae::cpu::SIVAE_ISA
