// Mean and variance without cancellation: every thread sums the differences from its own first element, and the threads'
// moments are then taken about the mean of all, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../scalar_math.h"

namespace sivae::cuda {

template <class T>
__device__ __forceinline__ bool is_finite(T x) {
  return x - x == T(0);
}

// x, or 0 where it is no number to take differences from.
template <class T>
__device__ __forceinline__ T pivot_of(T x) {
  return is_finite(x) ? x : T(0);
}

// Of some elements. Their mean is mean + rest, so that deviations from it do not err by the rounding of a large mean.
template <class T>
struct Moments {
  T mean, rest, squares;  // the last: the sum of squared deviations
};

// Of a thread's elements; how many, it is told.
template <class T>
struct ShiftedSums {
  T pivot = T(0), sum = T(0), square = T(0);

  __device__ __forceinline__ void add(T value) {
    const T difference = value - pivot;
    sum += difference;
    square += difference * difference;
  }

  __device__ __forceinline__ Moments<T> moments(int count) const {
    if (count == 0) return {T(0), T(0), T(0)};
    const T offset = sum / static_cast<T>(count);
    const T squares = square - sum * offset;
    // The roundings of a difference may leave it below 0; an infinite square stays.
    return {pivot, offset, is_finite(square) ? (squares < T(0) ? T(0) : squares) : square};
  }
};

// What a part of `count` elements adds to the mean of all, which is pivot + (sum of these) / (number of all).
template <class T>
__device__ __forceinline__ T mean_part(const Moments<T>& part, T count, T pivot) {
  return count == T(0) ? T(0) : count * ((part.mean - pivot) + part.rest);
}

// What it adds to the moments about the first estimate of that mean: to the sum of deviations, and of their squares.
template <class T>
struct DeviationParts {
  T deviation, square;
};
template <class T>
__device__ __forceinline__ DeviationParts<T> deviation_parts(const Moments<T>& part, T count, T estimate) {
  if (count == T(0)) return {T(0), T(0)};
  const T distance = (part.mean - estimate) + part.rest;
  return {count * distance, part.squares + count * distance * distance};
}

// All elements' moments, from the sums of the parts. What the estimate errs by, the deviations from it make good.
template <class T>
__device__ __forceinline__ Moments<T> combined(const DeviationParts<T>& sum, T count, T estimate) {
  const T correction = pivot_of(sum.deviation / count), mean = estimate + correction;
  const T squares = sum.square - sum.deviation * correction;
  return {mean, pivot_of((estimate - mean) + correction),
          is_finite(sum.square) ? (squares < T(0) ? T(0) : squares) : sum.square};
}

template <class T>
__device__ __forceinline__ T std_of_moments(const Moments<T>& all, T count) {
  return sqrt_(all.squares / count);
}

}  // namespace sivae::cuda
