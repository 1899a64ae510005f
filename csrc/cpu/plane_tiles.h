// Copy small planes into tiles [pixels] [channels] and back, so that loops run over channels.
#pragma once

#include <cstdint>
#include <type_traits>

#include "access.h"
#include "kernels.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace sivae::cpu {

constexpr int kTurned = 8;  // rows that are transposed together

#if defined(__AVX__)
// Transposes 8 x 8: pairs, pairs of pairs, then the registers' halves.
SIVAE_HD void transpose(__m256 (&r)[8]) {
  __m256 pairs[8], fours[8];
  SIVAE_UNROLL
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  SIVAE_UNROLL
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
  SIVAE_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}
#endif

// columns[i * stride + j] = rows[j * length + i] for j below `count` and i below `length`.
template <class T>
SIVAE_HD void turn(const T* rows, int count, int64_t length, T* columns, int64_t stride) {
  int64_t i = 0;
#if defined(__AVX__)
  if constexpr (std::is_same_v<T, float>) {
    for (; count == kTurned && i + kTurned <= length; i += kTurned) {
      __m256 r[kTurned];
      SIVAE_UNROLL
      for (int j = 0; j < kTurned; ++j) r[j] = _mm256_loadu_ps(rows + j * length + i);
      transpose(r);
      SIVAE_UNROLL
      for (int j = 0; j < kTurned; ++j) _mm256_storeu_ps(columns + (i + j) * stride, r[j]);
    }
  }
#endif
  for (; i < length; ++i) {
    for (int j = 0; j < count; ++j) columns[i * stride + j] = rows[j * length + i];
  }
}

// The inverse.
template <class T>
SIVAE_HD void turn_back(const T* columns, int64_t stride, T* rows, int count, int64_t length) {
  int64_t i = 0;
#if defined(__AVX__)
  if constexpr (std::is_same_v<T, float>) {
    for (; count == kTurned && i + kTurned <= length; i += kTurned) {
      __m256 r[kTurned];
      SIVAE_UNROLL
      for (int j = 0; j < kTurned; ++j) r[j] = _mm256_loadu_ps(columns + (i + j) * stride);
      transpose(r);
      SIVAE_UNROLL
      for (int j = 0; j < kTurned; ++j) _mm256_storeu_ps(rows + j * length + i, r[j]);
    }
  }
#endif
  for (; i < length; ++i) {
    for (int j = 0; j < count; ++j) rows[j * length + i] = columns[i * stride + j];
  }
}

// Copies `channels` planes, `step` elements apart, to a tile [pixels] [G].
template <class S, int G, class T>
SIVAE_HD void bring(const Layout& layout, Strided planes, int64_t step, int channels, T* tile) {
  T buffer[kTurned * kSmallPlane];
  planes.row_stride = step;
  for (int first = 0; first < channels; first += kTurned) {
    const int count = channels - first < kTurned ? channels - first : kTurned;
    const T* rows = load_in_turn<S>(layout, planes, {first, count, 0, layout.cols}, buffer);
    turn(rows, count, layout.cols, tile + first, G);
  }
}

template <class S, int G, class T>
SIVAE_HD void take_back(const Layout& layout, Strided planes, int64_t step, int channels, const T* tile) {
  T buffer[kTurned * kSmallPlane];
  planes.row_stride = step;
  for (int first = 0; first < channels; first += kTurned) {
    const int count = channels - first < kTurned ? channels - first : kTurned;
    const Piece some{first, count, 0, layout.cols};
    T* rows = place_for<S>(layout, planes, some, buffer);
    turn_back(tile + first, G, rows, count, layout.cols);
    store<S>(layout, planes, some, rows);
  }
}

}  // namespace sivae::cpu
