// The styled instance norm, forward. Compiled per instruction set.
#include "isa.h"
#include "styled_norm_parts.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

// What the second reading of a plane does: y = (u - mean) * factor + constant.
template <class T>
struct PlaneAffine {
  T mean, factor, constant;
};

// From a plane's moments its mean and standard deviation, which are written, and its normalisation.
template <class T>
PlaneAffine<T> finish(const StyledNormForward& a, int64_t plane, double exact_mean, double variance) {
  const T mean = static_cast<T>(exact_mean);
  static_cast<T*>(a.mean)[plane] = mean;
  static_cast<T*>(a.std)[plane] = static_cast<T>(std::sqrt(variance));
  const double scale = static_cast<double>(value_or(a.norm.scale, plane, T(0)));
  const double shift = static_cast<double>(value_or(a.shift, plane, T(0)));
  const double factor = (1.0 + scale) / std::sqrt(variance + a.norm.eps);
  // What rounding the mean dropped goes into the constant.
  const double dropped = exact_mean - static_cast<double>(mean);
  return {mean, static_cast<T>(factor), static_cast<T>(shift - dropped * factor)};
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

  const PlaneAffine<T> affine =
      finish<T>(a, sample * norm.channels + channel, moments.mean[0], moments.squares[0] / moments.count);
  for_each_block(norm.plane.cols, [&](int64_t at, int64_t count) {
    const Piece block{0, 1, at, count};
    const T* in = load<S>(norm.plane, x, block, buffer);
    const T* n = noise == nullptr ? kNoNoise : noise + at;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[i] = (u(in[i], n[i]) - affine.mean) * affine.factor + affine.constant;
    put<S>(norm.plane, y, block, out, a.stream);
  });
}

template <int G, class S, class T>
void group_forward(const StyledNormForward& a, int64_t sample, int64_t first, int channels, Group<const S> from,
                   Group<S> to) {
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
    const T* first_row = row_of(from, at, channels, buffer);
    for (int g = 0; g < channels; ++g) pivot[g] = u(first_row[g], noise_at(at), g);
    double sum[1][G] = {}, sums[2][G] = {};
    const auto from_pivot = [&](int64_t i) {
      const T* row = row_of(from, at + i, channels, buffer);
      const T n = noise_at(at + i);
      return [&, row, n](int g, T(&t)[1]) { t[0] = u(row[g], n, g) - pivot[g]; };
    };
    add_pixels_of_group<1, T, G>(count, channels, sum, from_pivot, nothing);
    for (int g = 0; g < G; ++g) {
      middle[g] = static_cast<T>(static_cast<double>(pivot[g]) + sum[0][g] / static_cast<double>(count));
    }
    const auto from_middle = [&](int64_t i) {
      const T* row = row_of(from, at + i, channels, buffer);
      const T n = noise_at(at + i);
      return [&, row, n](int g, T(&t)[2]) {
        t[0] = u(row[g], n, g) - middle[g];
        t[1] = t[0] * t[0];
      };
    };
    add_pixels_of_group<2, T, G>(count, channels, sums, from_middle, nothing);
    moments.merge(count, middle, sums);
  });

  for (int g = 0; g < channels; ++g) {
    const PlaneAffine<T> affine =
        finish<T>(a, sample * norm.channels + first + g, moments.mean[g], moments.squares[g] / moments.count);
    mean[g] = affine.mean;
    factor[g] = affine.factor;
    constant[g] = affine.constant;
  }
  alignas(64) T buffer[G], out_buffer[G];
  for (int64_t i = 0; i < norm.plane.cols; ++i) {
    const T* row = row_of(from, i, channels, buffer);
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
  constexpr int kGroup = 64 / sizeof(S), kTile = 64 / sizeof(T);
  alignas(64) T x_tile[kSmallPlane * kTile] = {}, y_tile[kSmallPlane * kTile];
  for_each_unit(a.norm, begin, end, [&](int64_t sample, int64_t first, int channels) {
    if (a.norm.channels_last) {
      group_forward<kGroup, S, T>(a, sample, first, channels, group_of<const S>(a.norm.x, sample, first),
                                  group_of<S>(a.y, sample, first));
    } else if (a.norm.small_planes()) {
      bring<S, kTile>(a.norm.plane, a.norm.x, sample, first, channels, x_tile);
      group_forward<kTile, T, T>(a, sample, first, channels, {x_tile, kTile}, {y_tile, kTile});
      take_back<S, kTile>(a.norm.plane, a.y, sample, first, channels, y_tile);
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
