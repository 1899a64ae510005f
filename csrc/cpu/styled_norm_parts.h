// What both passes of the styled instance norm are made of: access to planes, the activation, and sums over pixels.
//
// Where the pixels of a plane follow each other a unit of work is a plane and loops run over its pixels; where the
// channels of a pixel do, it is a group of channels and loops run over these. Either way a plane is cut into the same
// blocks and its sums are added in the same order, so the results do not depend on the layout.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../styled_norm.h"
#include "access.h"

namespace sivae::cpu {

// Pixels whose sums are added in the arithmetic's own type; blocks are added in double.
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
  if (plane.data != nullptr) plane.data = static_cast<S*>(plane.data) + sample * images.batch + channel * images.channel;
  return plane;
}

// Calls visit(first pixel, pixels) for each block of a plane.
template <class Visit>
SIVAE_HD void for_each_block(int64_t pixels, Visit visit) {
  for (int64_t at = 0; at < pixels; at += kNormBlock) visit(at, pixels - at < kNormBlock ? pixels - at : kNormBlock);
}

// Mean and sum of squared deviations of what was merged so far (Chan, Golub & LeVeque 1983).
struct Moments {
  double count = 0.0, mean = 0.0, squares = 0.0;
  SIVAE_HD_MEMBER void merge(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * (other_count / total));
    count = total;
  }
  // A block's, from the sums over it of the deviations from `middle` and of their squares.
  SIVAE_HD_MEMBER void merge_block(int64_t block, double middle, double deviations, double squared) {
    const double n = static_cast<double>(block), squares_of_block = squared - deviations * (deviations / n);
    merge(n, middle + deviations / n, squares_of_block < 0.0 ? 0.0 : squares_of_block);
  }
};

// sums[k] += the sum over the pixels i of a block of t[k], as terms(i, t) sets them.
template <int K, class T, class Terms>
SIVAE_HD void add_pixels(int64_t count, double (&sums)[K], Terms terms) {
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
    sums[k] += static_cast<double>(lanes[k][0]);
  }
}

// The same for `channels` of a group of G side by side: terms(i, g, t).
template <int K, class T, int G, class Terms>
SIVAE_HD void add_pixels_of_group(int64_t count, int channels, double (&sums)[K][G], Terms terms) {
  alignas(64) T lanes[K][kNormLanes][G] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = i % kNormLanes;
#pragma omp simd
    for (int g = 0; g < channels; ++g) {
      T t[K];
      terms(i, g, t);
      SIVAE_UNROLL
      for (int k = 0; k < K; ++k) lanes[k][j][g] += t[k];
    }
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

// Calls plane(sample, channel), or group(sample, first channel, group size, channels) where channels lie side by side,
// for units [begin, end).
template <class S, class PlaneWork, class GroupWork>
SIVAE_HD void for_each_unit(const StyledNorm& norm, int64_t begin, int64_t end, PlaneWork plane, GroupWork group) {
  constexpr int kGroup = 64 / sizeof(S);
  const int64_t per_sample = (norm.channels + norm.group() - 1) / norm.group();
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t sample = unit / per_sample, first = unit % per_sample * norm.group();
    if (!norm.channels_last) {
      plane(sample, first);
    } else {
      const int64_t left = norm.channels - first;
      group(sample, first, std::integral_constant<int, kGroup>(), static_cast<int>(left < kGroup ? left : kGroup));
    }
  }
}

// Brings the values of a block to memory.
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

}  // namespace sivae::cpu
