// The Chamfer distance, forward and backward. Compiled per instruction set.
//
// Each distance is computed once, for both directions. A group of points stays in registers while the targets pass by,
// a vector of them at a time. The loop keeps minima only; which point it was is noted less often: for a point the block
// of targets, for a target the group of points. At the end the distances of that block or group are computed again.
#include "isa.h"
#include "../chamfer.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sivae::cpu::SIVAE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kGroup = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kGroup = 4;
#else
constexpr int kVectorBytes = 16, kGroup = 2;
#endif
constexpr int kBlockVectors = 8;
static_assert(kChamferPad % kGroup == 0 && kChamferPad * sizeof(float) % kVectorBytes == 0);

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float values __attribute__((vector_size(kVectorBytes)));
  typedef int32_t indices __attribute__((vector_size(kVectorBytes)));
  using index = int32_t;
  static constexpr float kInfinity = __builtin_inff(), kLargest = 3.40282347e38f;
};
template <>
struct LanesOf<double> {
  typedef double values __attribute__((vector_size(kVectorBytes)));
  typedef int64_t indices __attribute__((vector_size(kVectorBytes)));
  using index = int64_t;
  static constexpr double kInfinity = __builtin_inf(), kLargest = 1.7976931348623157e308;
};
template <class T>
constexpr int kWidth = kVectorBytes / sizeof(T);

// The smaller one, and b where one of them is NaN. As a selection, compilers take two instructions for it.
template <class V>
SIVAE_HD V smaller(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(a[0]) == 4) return (V)_mm512_min_ps((__m512)a, (__m512)b);
  else return (V)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(a[0]) == 4) return (V)_mm256_min_ps((__m256)a, (__m256)b);
  else return (V)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
  return a < b ? a : b;
#endif
}

// One pair of clouds, coordinate by coordinate: x[d * x_stride + i], padded with inf, and y, padded with -inf, so that
// the distance of a padding is infinite.
template <class T>
struct Pair {
  using Index = typename LanesOf<T>::index;
  int64_t dims, x_count, x_stride, y_count, y_stride;
  T *x, *y;
  T* y_distances;     // [y_stride], the smallest so far
  Index* y_groups;    // [y_stride], the group of x where it was
  T* x_distances;     // results: [x_count]
  int32_t* x_nearest;
  T* y_results;       // [y_count]
  int32_t* y_nearest;
};

template <int kDims, class T>
SIVAE_HD int dims_of(const Pair<T>& p) {
  return kDims > 0 ? kDims : static_cast<int>(p.dims);
}

template <class V, class T>
SIVAE_HD V load_lanes(const T* from) {
  V out;
  __builtin_memcpy(&out, from, sizeof out);
  return out;
}

template <class V, class T>
SIVAE_HD void store_lanes(const V& x, T* to) {
  __builtin_memcpy(to, &x, sizeof x);
}

// The squared distances of a group of points to a vector of targets.
template <int kDims, int kPoints, class T, class V = typename LanesOf<T>::values>
SIVAE_HD void distances(const Pair<T>& p, const V (&points)[kPoints][kDims > 0 ? kDims : 1], int64_t i, int64_t j,
                        V (&out)[kPoints]) {
  if constexpr (kDims > 0) {
    V y[kDims];
    SIVAE_UNROLL
    for (int d = 0; d < kDims; ++d) y[d] = load_lanes<V>(p.y + d * p.y_stride + j);
    SIVAE_UNROLL
    for (int q = 0; q < kPoints; ++q) {
      V sum = (points[q][0] - y[0]) * (points[q][0] - y[0]);
      SIVAE_UNROLL
      for (int d = 1; d < kDims; ++d) sum = sum + (points[q][d] - y[d]) * (points[q][d] - y[d]);
      out[q] = sum;
    }
  } else {
    SIVAE_UNROLL
    for (int q = 0; q < kPoints; ++q) out[q] = V{};
    for (int64_t d = 0; d < p.dims; ++d) {
      const V y = load_lanes<V>(p.y + d * p.y_stride + j);
      SIVAE_UNROLL
      for (int q = 0; q < kPoints; ++q) {
        const V difference = p.x[d * p.x_stride + i + q] - y;
        out[q] = out[q] + difference * difference;
      }
    }
  }
}

template <int kDims, int kPoints, class T, class V = typename LanesOf<T>::values>
SIVAE_HD void spread(const Pair<T>& p, int64_t i, V (&points)[kPoints][kDims > 0 ? kDims : 1]) {
  if constexpr (kDims > 0) {
    SIVAE_UNROLL
    for (int q = 0; q < kPoints; ++q) {
      SIVAE_UNROLL
      for (int d = 0; d < kDims; ++d) points[q][d] = V{} + p.x[d * p.x_stride + i + q];
    }
  }
}

// The smallest value of the lanes, and of the lanes that have it the smallest index.
template <class T>
struct First {
  T value;
  typename LanesOf<T>::index index;
};

template <class T, class V = typename LanesOf<T>::values, class I = typename LanesOf<T>::indices>
SIVAE_HD First<T> first_of(const V& values, const I& indices) {
  alignas(kVectorBytes) T value[kWidth<T>];
  alignas(kVectorBytes) typename LanesOf<T>::index index[kWidth<T>];
  store_lanes(values, value);
  store_lanes(indices, index);
  First<T> first{LanesOf<T>::kInfinity, INT32_MAX};
  T least = first.value;
  typename LanesOf<T>::index where = first.index;
#pragma omp simd reduction(min : least)
  for (int lane = 0; lane < kWidth<T>; ++lane) least = value[lane] < least ? value[lane] : least;
#pragma omp simd reduction(min : where)
  for (int lane = 0; lane < kWidth<T>; ++lane) {
    const auto candidate = value[lane] == least ? index[lane] : first.index;
    where = candidate < where ? candidate : where;
  }
  first = {least, where};
  return first;
}

// The nearest target of point i among those from `first` to `last`.
template <int kDims, class T>
__attribute__((noinline)) int32_t nearest_in(const Pair<T>& p, int64_t i, int64_t first, int64_t last) {
  using V = typename LanesOf<T>::values;
  using I = typename LanesOf<T>::indices;
  V points[1][kDims > 0 ? kDims : 1], d[1], best = V{} + LanesOf<T>::kInfinity;
  I index = I{} + static_cast<typename LanesOf<T>::index>(first), at;
  for (int lane = 0; lane < kWidth<T>; ++lane) at[lane] = first + lane;
  spread<kDims, 1, T>(p, i, points);
  for (int64_t j = first; j < last; j += kWidth<T>) {
    distances<kDims, 1, T>(p, points, i, j, d);
    index = d[0] < best ? at : index;
    best = smaller(d[0], best);
    at += kWidth<T>;
  }
  return static_cast<int32_t>(first_of<T>(best, index).index);
}

template <int kDims, class T>
T distance_of(const Pair<T>& p, int64_t i, int64_t j) {
  T sum = T(0);
  for (int64_t d = 0; d < dims_of<kDims>(p); ++d) {
    const T difference = p.x[d * p.x_stride + i] - p.y[d * p.y_stride + j];
    sum = sum + difference * difference;
  }
  return sum;
}

// For clouds of finite coordinates.
template <int kDims, class T>
void sweep(const Pair<T>& p) {
  using V = typename LanesOf<T>::values;
  using I = typename LanesOf<T>::indices;
  using Index = typename LanesOf<T>::index;
  constexpr int64_t kBlock = kBlockVectors * kWidth<T>;
  const V infinity = V{} + LanesOf<T>::kInfinity;
  for (int64_t j = 0; j < p.y_stride; ++j) p.y_distances[j] = LanesOf<T>::kInfinity, p.y_groups[j] = 0;
  for (int64_t i = 0; i < p.x_count; i += kGroup) {
    V points[kGroup][kDims > 0 ? kDims : 1], best[kGroup];
    I blocks[kGroup];
    spread<kDims, kGroup, T>(p, i, points);
    for (int q = 0; q < kGroup; ++q) best[q] = infinity, blocks[q] = I{};
    const I group = I{} + static_cast<Index>(i);
    for (int64_t first = 0; first < p.y_count; first += kBlock) {
      const int64_t last = first + kBlock < p.y_stride ? first + kBlock : p.y_stride;
      V least[kGroup];
      SIVAE_UNROLL
      for (int q = 0; q < kGroup; ++q) least[q] = infinity;
      for (int64_t j = first; j < last; j += kWidth<T>) {
        V d[kGroup];
        distances<kDims, kGroup, T>(p, points, i, j, d);
        V of_group = d[0];
        SIVAE_UNROLL
        for (int q = 0; q < kGroup; ++q) {
          least[q] = smaller(d[q], least[q]);
          if (q > 0) of_group = smaller(d[q], of_group);
        }
        const V before = load_lanes<V>(p.y_distances + j);
        const I groups = load_lanes<I>(p.y_groups + j);
        store_lanes(of_group < before ? group : groups, p.y_groups + j);
        store_lanes(smaller(of_group, before), p.y_distances + j);
      }
      const I block = I{} + static_cast<Index>(first);
      SIVAE_UNROLL
      for (int q = 0; q < kGroup; ++q) {
        blocks[q] = least[q] < best[q] ? block : blocks[q];
        best[q] = smaller(least[q], best[q]);
      }
    }
    for (int q = 0; q < kGroup && i + q < p.x_count; ++q) {
      const First<T> found = first_of<T>(best[q], blocks[q]);
      const int64_t end = found.index + kBlock;
      p.x_distances[i + q] = found.value;
      p.x_nearest[i + q] = nearest_in<kDims>(p, i + q, found.index, end < p.y_stride ? end : p.y_stride);
    }
  }
  for (int64_t j = 0; j < p.y_count; ++j) {
    const int64_t first = p.y_groups[j];
    int64_t nearest = first;
    T best = distance_of<kDims>(p, first, j);
    for (int q = 1; q < kGroup; ++q) {
      const T d = distance_of<kDims>(p, first + q, j);
      nearest = d < best ? first + q : nearest;
      best = d < best ? d : best;
    }
    p.y_results[j] = p.y_distances[j];
    p.y_nearest[j] = static_cast<int32_t>(nearest);
  }
}

// For any clouds: NaN is the nearest, as is_nearer has it.
template <class T>
void compare_all(const Pair<T>& p) {
  for (int64_t j = 0; j < p.y_count; ++j) p.y_results[j] = LanesOf<T>::kInfinity, p.y_nearest[j] = 0;
  for (int64_t i = 0; i < p.x_count; ++i) {
    First<T> best{LanesOf<T>::kInfinity, 0};
    for (int64_t j = 0; j < p.y_count; ++j) {
      const T d = distance_of<0>(p, i, j);
      if (is_nearer(d, best.value)) best = {d, static_cast<typename LanesOf<T>::index>(j)};
      if (is_nearer(d, p.y_results[j])) p.y_results[j] = d, p.y_nearest[j] = static_cast<int32_t>(i);
    }
    p.x_distances[i] = best.value;
    p.x_nearest[i] = static_cast<int32_t>(best.index);
  }
}

// Copies points from `first` on, coordinate by coordinate; returns whether all of them are finite.
template <class S, class T>
bool bring(const Clouds& from, int64_t sample, int64_t first, int64_t count, int64_t dims, T padding, int64_t stride,
           T* to) {
  bool finite = true;
  for (int64_t d = 0; d < dims; ++d) {
    const S* data = static_cast<const S*>(from.data) + sample * from.batch + first * from.point + d * from.coordinate;
    T* row = to + d * stride;
    for (int64_t i = 0; i < count; ++i) {
      row[i] = widen(data[i * from.point]);
      finite &= abs_(row[i]) <= LanesOf<T>::kLargest;
    }
    for (int64_t i = count; i < stride; ++i) row[i] = padding;
  }
  return finite;
}

template <class S>
void forward(const ChamferForward& a, int64_t begin, int64_t end, void* scratch) {
  using T = typename ComputeType<S>::type;
  const int64_t y_stride = chamfer_padded(a.targets.count);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t sample = unit / a.parts, part = unit % a.parts, first = part * a.points_each;
    const int64_t count = a.points.count - first < a.points_each ? a.points.count - first : a.points_each;
    Pair<T> p{};
    p.dims = a.dims;
    p.x_count = count;
    p.x_stride = chamfer_padded(count);
    p.y_count = a.targets.count;
    p.y_stride = y_stride;
    p.x = static_cast<T*>(scratch);
    p.y = p.x + a.dims * p.x_stride;
    p.y_distances = p.y + a.dims * y_stride;
    p.y_groups = reinterpret_cast<typename LanesOf<T>::index*>(p.y_distances + y_stride);
    p.x_distances = static_cast<T*>(a.point_distances) + sample * a.points.count + first;
    p.x_nearest = a.nearest_target + sample * a.points.count + first;
    p.y_results = static_cast<T*>(a.target_distances) + unit * p.y_count;
    p.y_nearest = a.nearest_point + unit * p.y_count;
    const bool finite = bring<S>(a.points, sample, first, count, a.dims, LanesOf<T>::kInfinity, p.x_stride, p.x) &
                        bring<S>(a.targets, sample, 0, p.y_count, a.dims, -LanesOf<T>::kInfinity, y_stride, p.y);
    if (!finite) {
      compare_all(p);
    } else if (a.dims == 3) {
      sweep<3>(p);
    } else if (a.dims == 2) {
      sweep<2>(p);
    } else {
      sweep<0>(p);
    }
    for (int64_t j = 0; j < p.y_count; ++j) p.y_nearest[j] += static_cast<int32_t>(first);
  }
}

// A coordinate of a point, in double: the difference of two is then exact but for 2^-53.
template <class S>
SIVAE_HD double coordinate(const Clouds& clouds, int64_t sample, int64_t point, int64_t d) {
  const int64_t at = sample * clouds.batch + point * clouds.point + d * clouds.coordinate;
  return static_cast<double>(widen(static_cast<const S*>(clouds.data)[at]));
}

// Adds the terms of one direction, in the order of `from`: to the gradient of each point and, with the other sign, to
// that of its nearest one. Without the factor 2.
template <class S>
void add_terms(const Clouds& from, const Clouds& to, const int32_t* nearest, int64_t sample, int64_t dims,
               double* by_from, double* by_to) {
  for (int64_t i = 0; i < from.count; ++i) {
    const int64_t j = nearest[sample * from.count + i];
    if (j < 0 || j >= to.count) continue;
    for (int64_t d = 0; d < dims; ++d) {
      const double difference = coordinate<S>(from, sample, i, d) - coordinate<S>(to, sample, j, d);
      by_from[i * dims + d] += difference;
      by_to[j * dims + d] -= difference;
    }
  }
}

template <class S>
void put_gradient(const Clouds& gradient, int64_t sample, int64_t dims, double factor, const double* sums) {
  if (gradient.data == nullptr) return;
  for (int64_t i = 0; i < gradient.count; ++i) {
    for (int64_t d = 0; d < dims; ++d) {
      const int64_t at = sample * gradient.batch + i * gradient.point + d * gradient.coordinate;
      narrow(static_cast<typename ComputeType<S>::type>(factor * sums[i * dims + d]),
             static_cast<S*>(gradient.data)[at]);
    }
  }
}

template <class S>
void backward(const ChamferBackward& a, int64_t begin, int64_t end, double* scratch) {
  double* by_points = scratch;
  double* by_targets = scratch + a.points.count * a.dims;
  for (int64_t sample = begin; sample < end; ++sample) {
    for (int64_t k = 0; k < a.scratch(); ++k) scratch[k] = 0.0;
    add_terms<S>(a.points, a.targets, a.nearest_target, sample, a.dims, by_points, by_targets);
    add_terms<S>(a.targets, a.points, a.nearest_point, sample, a.dims, by_targets, by_points);
    const double factor = 2.0 * row_gradient<typename ComputeType<S>::type>(a.grad, sample);
    put_gradient<S>(a.grad_points, sample, a.dims, factor, by_points);
    put_gradient<S>(a.grad_targets, sample, a.dims, factor, by_targets);
  }
}

}  // namespace

void chamfer_forward(const ChamferForward& a, int64_t begin, int64_t end, void* scratch) {
  with_storage_type(a.dtype, [&](auto s) { forward<decltype(s)>(a, begin, end, scratch); });
}

void chamfer_backward(const ChamferBackward& a, int64_t begin, int64_t end, double* scratch) {
  with_storage_type(a.dtype, [&](auto s) { backward<decltype(s)>(a, begin, end, scratch); });
}

}  // namespace sivae::cpu::SIVAE_ISA
