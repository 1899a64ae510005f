// Mean and variance without cancellation: every thread sums the differences from its own first element, and then the
// threads' moments are merged about the mean of all, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../scalar_math.h"

namespace sivae::cuda {

template <class T>
__device__ __forceinline__ bool is_finite(T x) {
  return x - x == T(0);
}

// x, or 0 where x is not finite.
template <class T>
__device__ __forceinline__ T pivot_of(T x) {
  return is_finite(x) ? x : T(0);
}

// Moments of some elements. Their mean is mean + rest, so that deviations from it have no error from rounding the mean.
template <class T>
struct Moments {
  T mean, rest, squares;  // squares: the sum of squared deviations
};

// Moments of a thread's elements; the caller knows their number.
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
    // Rounding may make the difference negative; an infinite square stays.
    return {pivot, offset, is_finite(square) ? (squares < T(0) ? T(0) : squares) : square};
  }
};

// The share of a part of `count` elements in the mean of all, which is pivot + (sum of the shares) / (number of all).
template <class T>
__device__ __forceinline__ T mean_part(const Moments<T>& part, T count, T pivot) {
  return count == T(0) ? T(0) : count * ((part.mean - pivot) + part.rest);
}

// Its share in the sum of deviations from the first estimate of that mean, and in the sum of their squares.
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

// The moments of all elements, from the sums of the parts. The sum of deviations corrects the estimate.
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
