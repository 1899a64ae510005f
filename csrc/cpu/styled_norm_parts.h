// Shared parts of the styled instance norm's two passes: access to planes, the activation, and sums over pixels.
//
// Where the pixels of a plane are neighbors in memory, a unit of work is a plane and loops run over its pixels. Where
// the channels of a pixel are neighbors, it is a group of channels and loops run over these. Both cut a plane into the
// same blocks and add its sums in the same order, so the results do not depend on the layout.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../styled_norm.h"
#include "access.h"

namespace sivae::cpu {

// Pixels of a block. Sums within a block are in the arithmetic type; blocks are added in double.
constexpr int64_t kNormBlock = 512;
// Pixel i of a block is added to lane i mod 16.
constexpr int kNormLanes = 16;

template <class T>
struct Activation {
  T noise_weight, bias, negative_slope;
  SIVAE_HD_MEMBER T before(T x, T noise) const { return before_leaky(x, noise, noise_weight, bias); }
  SIVAE_HD_MEMBER T operator()(T x, T noise) const { return leaky(before(x, noise), negative_slope); }
};

template <class T>
SIVAE_HD T value_or(const void* values, int64_t index, T absent) {
  return values == nullptr ? absent : static_cast<const T*>(values)[index];
}

template <class T>
SIVAE_HD Activation<T> activation_of(const StyledNorm& norm, int64_t channel) {
  return {value_or(norm.noise_weight, channel, T(0)), value_or(norm.bias, channel, T(0)),
          static_cast<T>(norm.negative_slope)};
}

template <class T>
SIVAE_HD const T* noise_of_sample(const StyledNorm& norm, int64_t sample) {
  return norm.noise == nullptr ? nullptr : static_cast<const T*>(norm.noise) + sample * norm.noise_stride;
}

// One plane, or null data where the images are absent.
template <class S>
SIVAE_HD Strided plane_of(const Images& images, int64_t sample, int64_t channel) {
  Strided plane = images.pixels;
  const int64_t offset = sample * images.batch + channel * images.channel;
  if (plane.data != nullptr) plane.data = static_cast<S*>(plane.data) + offset;
  return plane;
}

// Calls visit(first pixel, pixels) for each block of a plane.
template <class Visit>
SIVAE_HD void for_each_block(int64_t pixels, Visit visit) {
  for (int64_t at = 0; at < pixels; at += kNormBlock) visit(at, pixels - at < kNormBlock ? pixels - at : kNormBlock);
}

// Mean and sum of squared deviations of N planes, over the blocks merged so far (Chan, Golub & LeVeque 1983).
template <int N>
struct Moments {
  double count = 0.0, mean[N] = {}, squares[N] = {};
  // Merges a block, given the sums of its deviations from `middle` and of their squares.
  template <class T>
  SIVAE_HD_MEMBER void merge(int64_t block, const T (&middle)[N], const double (&sums)[2][N]) {
    const double n = static_cast<double>(block), total = count + n, share = n / total;
    for (int p = 0; p < N; ++p) {
      const double deviation = sums[0][p] / n, of_block = sums[1][p] - sums[0][p] * deviation;
      const double delta = static_cast<double>(middle[p]) + deviation - mean[p];
      mean[p] += delta * share;
      squares[p] += (of_block < 0.0 ? 0.0 : of_block) + delta * delta * (count * share);
    }
    count = total;
  }
};

// sums[k][0] += the sum over the pixels i of a block of t[k], as terms(i, t) sets them.
template <int K, class T, class Terms>
SIVAE_HD void add_pixels(int64_t count, double (&sums)[K][1], Terms terms) {
  alignas(64) T lanes[K][kNormLanes] = {};
  int64_t i = 0;
  for (; i + kNormLanes <= count; i += kNormLanes) {
#pragma omp simd
    for (int j = 0; j < kNormLanes; ++j) {
      T t[K];
      terms(i + j, t);
      SIVAE_UNROLL
      for (int k = 0; k < K; ++k) lanes[k][j] += t[k];
    }
  }
  for (int j = 0; i + j < count; ++j) {
    T t[K];
    terms(i + j, t);
    for (int k = 0; k < K; ++k) lanes[k][j] += t[k];
  }
  for (int k = 0; k < K; ++k) {
    for (int half = kNormLanes / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[k][j] += lanes[k][j + half];
    }
    sums[k][0] += static_cast<double>(lanes[k][0]);
  }
}

// Channels of one loop. GCC does not vectorise a loop of this size over all channels of a wide group.
constexpr int kNormVector = 16;

// The same for each of `channels` (at most G) neighboring channels: pixel(i) returns terms(g, t), then done(i) runs.
template <int K, class T, int G, class Pixel, class Done>
SIVAE_HD void add_pixels_of_group(int64_t count, int channels, double (&sums)[K][G], Pixel pixel, Done done) {
  alignas(64) T lanes[K][kNormLanes][G] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = i % kNormLanes;
    const auto terms = pixel(i);
    for (int from = 0; from < channels; from += kNormVector) {
      const int taken = channels - from < kNormVector ? channels - from : kNormVector;
#pragma omp simd
      for (int g = 0; g < taken; ++g) {
        T t[K];
        terms(from + g, t);
        SIVAE_UNROLL
        for (int k = 0; k < K; ++k) lanes[k][j][from + g] += t[k];
      }
    }
    done(i);
  }
  for (int k = 0; k < K; ++k) {
    for (int half = kNormLanes / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) {
        for (int g = 0; g < G; ++g) lanes[k][j][g] += lanes[k][j + half][g];
      }
    }
    for (int g = 0; g < channels; ++g) sums[k][g] += static_cast<double>(lanes[k][0][g]);
  }
}

// Stores the values of a block.
template <class S, class T>
SIVAE_HD void put(const Layout& layout, const Strided& plane, const Piece& block, const T* values, bool stream) {
  S* run = dense_run<S>(layout, plane, block);
  if (run == nullptr) return scatter<S>(layout, plane, block, values);
  if (stream) {
    stream_computed(run, block.cols, [&](int64_t at, int64_t count, S* to) { narrow_run(values + at, to, count); });
  } else {
    narrow_run(values, run, block.cols);
  }
}

// A group of channels for the kernels: in memory, or a tile with a copy of small planes.
template <class S>
struct Group {
  S* first = nullptr;
  int64_t pixel = 0;  // from one pixel to the next
};

template <class S>
SIVAE_HD Group<S> group_of(const Images& images, int64_t sample, int64_t channel) {
  using Element = std::remove_const_t<S>;
  return {static_cast<S*>(plane_of<Element>(images, sample, channel).data), images.pixels.strides[0]};
}

// Calls call(group, channels) with a group's size and its number of channels; for a full group both are constants. Only
// full groups are wide.
template <int G, int Wide, class Call>
SIVAE_HD void with_channels(int channels, Call call) {
  if (channels == Wide) return call(std::integral_constant<int, Wide>(), std::integral_constant<int, Wide>());
  if (channels == G) return call(std::integral_constant<int, G>(), std::integral_constant<int, G>());
  call(std::integral_constant<int, G>(), channels);
}

// Rows to prefetch ahead: the processor's own prefetcher stops at the end of a page, which is a row or two away.
constexpr int64_t kRowsAhead = 32;

// A group's rows, G channels of a pixel, as T. They are read once in order by `first`, then any number of times.
template <int G, class S, class T>
struct Rows {
  Group<const S> from;
  T* kept;  // [kKeptPixels] [G], or null
  int channels;

  // `buffer` holds rows that cannot be read in place.
  SIVAE_HD_MEMBER const T* first(int64_t pixel, T* buffer) const {
    const S* row = from.first + pixel * from.pixel;
    __builtin_prefetch(reinterpret_cast<const void*>(row + kRowsAhead * from.pixel));
    if constexpr (sizeof(S) == sizeof(T)) {
      if (kept == nullptr) return row;
    }
    T* to = kept == nullptr ? buffer : kept + pixel * G;
#pragma omp simd
    for (int g = 0; g < channels; ++g) to[g] = widen(row[g]);
    return to;
  }
  SIVAE_HD_MEMBER const T* again(int64_t pixel, T* buffer) const {
    return kept == nullptr ? first(pixel, buffer) : kept + pixel * G;
  }
};

// The place to write the channels of a pixel as T: memory, or `buffer`, which `put_row` then converts.
template <class S, class T>
SIVAE_HD T* place_of(const Group<S>& group, int64_t pixel, T* buffer) {
  __builtin_prefetch(reinterpret_cast<const void*>(group.first + (pixel + kRowsAhead) * group.pixel), 1);
  if constexpr (sizeof(S) == sizeof(T)) {
    return group.first + pixel * group.pixel;
  } else {
    return buffer;
  }
}

template <class S, class T>
SIVAE_HD void put_row(const Group<S>& group, int64_t pixel, int channels, const T* row) {
  if constexpr (sizeof(S) != sizeof(T)) narrow_run(row, group.first + pixel * group.pixel, channels);
}

// Calls visit(sample, first channel, channels) for units [begin, end).
template <class Visit>
SIVAE_HD void for_each_unit(const StyledNorm& norm, int64_t begin, int64_t end, Visit visit) {
  const int64_t group = norm.group(), per_sample = (norm.channels + group - 1) / group;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit % per_sample * group, left = norm.channels - first;
    visit(unit / per_sample, first, static_cast<int>(left < group ? left : group));
  }
}

}  // namespace sivae::cpu
