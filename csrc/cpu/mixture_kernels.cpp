// The log density of a mixture of Gaussians, forward and backward. Compiled per instruction set.
//
// Forward, the lanes of a vector are components: a group of rows stays in registers while the dimensions pass by, so no
// sum goes across lanes. Backward, the lanes are dimensions: for a few components a block of rows passes by, and each
// difference z - mu serves the gradients of z, mu and logvar.
#include "isa.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTogether = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kTogether = 2;
#else
constexpr int kVectorBytes = 16, kTogether = 2;
#endif
static_assert(kMixtureComponents % kTogether == 0);
constexpr int kRows = kMixtureRows;
constexpr int64_t kDimsOfSum = 64;  // added in a row, before the next level of the sum

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  static constexpr float kLargestExponent = 88.0f;
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  static constexpr double kLargestExponent = 709.0;
};
template <class T>
constexpr int kWidth = kVectorBytes / sizeof(T);

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

// Copies rows of z: element l of row q to to[q * row + l * step].
template <class S, class T>
void bring(const MixtureRows& z, int64_t first, int64_t count, int64_t dims, T* to, int64_t row, int64_t step) {
  for (int64_t q = 0; q < count; ++q) {
    const S* from = static_cast<const S*>(z.data) + (first + q) * z.row;
    for (int64_t l = 0; l < dims; ++l) to[q * row + l * step] = widen(from[l * z.column]);
  }
}

// The log densities of kRows rows, z[dims][kRows], for a vector of components.
template <class T>
SIVAE_HD void densities_of(const MixtureForward& a, const T* z, int64_t k, T* out, int64_t out_row) {
  using V = typename VectorOf<T>::type;
  const int64_t block = mixture_lanes(sizeof(T)), at = k / block * block * a.dims + k % block;
  const T* mu = static_cast<const T*>(a.mu) + at;
  const T* inv_std = static_cast<const T*>(a.inv_std) + at;
  V sums[kRows];
  SIVAE_UNROLL
  for (int q = 0; q < kRows; ++q) sums[q] = V{};
  for (int64_t first = 0; first < a.dims; first += kDimsOfSum) {
    const int64_t last = first + kDimsOfSum < a.dims ? first + kDimsOfSum : a.dims;
    V part[kRows];
    SIVAE_UNROLL
    for (int q = 0; q < kRows; ++q) part[q] = V{};
    for (int64_t l = first; l < last; ++l) {
      const V m = load_lanes<V>(mu + l * block), s = load_lanes<V>(inv_std + l * block);
      SIVAE_UNROLL
      for (int q = 0; q < kRows; ++q) {
        const V scaled = (z[l * kRows + q] - m) * s;
        part[q] += scaled * scaled;
      }
    }
    SIVAE_UNROLL
    for (int q = 0; q < kRows; ++q) sums[q] += part[q];
  }
  const V peak = load_lanes<V>(static_cast<const T*>(a.peaks) + k);
  SIVAE_UNROLL
  for (int q = 0; q < kRows; ++q) store_lanes(peak - T(0.5) * sums[q], out + q * out_row + k);
}

// log sum_k exp(log_weights_k + densities_k); NaN stays NaN.
template <class T>
double log_sum(const T* __restrict log_weights, const T* __restrict densities, int64_t count) {
  T most = static_cast<T>(-INFINITY);
#pragma omp simd reduction(max : most)
  for (int64_t k = 0; k < count; ++k) {
    const T term = log_weights[k] + densities[k];
    most = term > most ? term : most;
  }
  const T shift = most > static_cast<T>(-INFINITY) ? most : T(0);
  T sum = T(0);
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < count; ++k) sum += exp_(log_weights[k] + densities[k] - shift);
  return static_cast<double>(shift) + log_(static_cast<double>(sum));
}

template <class S>
void forward(const MixtureForward& a, int64_t begin, int64_t end, void* scratch) {
  using T = typename ComputeType<S>::type;
  const int64_t padded = mixture_padded(a.components, sizeof(T));
  T* z = static_cast<T*>(scratch);
  T* of_rows = z + kRows * a.dims;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kRows, count = a.rows - first < kRows ? a.rows - first : kRows;
    for (int64_t i = 0; count < kRows && i < kRows * a.dims; ++i) z[i] = T(0);
    bring<S>(a.z, first, count, a.dims, z, 1, kRows);
    for (int64_t k = 0; k < padded; k += kWidth<T>) densities_of(a, z, k, of_rows, padded);
    for (int64_t q = 0; q < count; ++q) {
      const T* row = of_rows + q * padded;
      T* out = static_cast<T*>(a.densities) + (first + q) * a.components;
      for (int64_t k = 0; k < a.components; ++k) out[k] = row[k];
      static_cast<T*>(a.log_prob)[first + q] =
          static_cast<T>(log_sum(static_cast<const T*>(a.log_weights), row, padded));
    }
  }
}

// The gradient by each weight, e = grad N_k / p, of one row, added to `sums`; and w e, `shares`.
template <class T>
void shares_of(const T* __restrict densities, const T* __restrict weights, T log_prob, T grad, int64_t count,
               T* __restrict sums, T* __restrict shares) {
  constexpr T kLargest = VectorOf<T>::kLargestExponent;
  if (log_prob == static_cast<T>(-INFINITY)) {
    for (int64_t k = 0; k < count; ++k) shares[k] = T(0);
    return;
  }
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) {
    const T x = densities[k] - log_prob;
    const T e = grad * exp_(x > kLargest ? kLargest : x);
    sums[k] += e;
    shares[k] = weights[k] * e;
  }
}

// A block of `count` rows and all components: adds to sums over rows, and to grad_z.
template <bool kByZ, bool kByParameters, class T>
void add_block(const MixtureBackward& a, int64_t count, const T* z, const T* shares, T* grad_z, T* first, T* second) {
  using V = typename VectorOf<T>::type;
  const int64_t dims = mixture_padded(a.dims, sizeof(T)), components = mixture_together(a.components);
  for (int64_t k = 0; k < components; k += kTogether) {
    for (int64_t l = 0; l < dims; l += kWidth<T>) {
      V mu[kTogether], inv_variance[kTogether], by_mu[kTogether], by_square[kTogether];
      SIVAE_UNROLL
      for (int q = 0; q < kTogether; ++q) {
        mu[q] = load_lanes<V>(static_cast<const T*>(a.mu) + (k + q) * dims + l);
        inv_variance[q] = load_lanes<V>(static_cast<const T*>(a.inv_variance) + (k + q) * dims + l);
        by_mu[q] = by_square[q] = V{};
      }
      for (int64_t n = 0; n < count; ++n) {
        const V point = load_lanes<V>(z + n * dims + l);
        V by_z = V{};
        if constexpr (kByZ) by_z = load_lanes<V>(grad_z + n * dims + l);
        SIVAE_UNROLL
        for (int q = 0; q < kTogether; ++q) {
          const V difference = point - mu[q], term = shares[n * components + k + q] * difference;
          if constexpr (kByZ) by_z -= term * inv_variance[q];
          if constexpr (kByParameters) {
            by_mu[q] += term;
            by_square[q] += term * difference;
          }
        }
        if constexpr (kByZ) store_lanes(by_z, grad_z + n * dims + l);
      }
      if constexpr (kByParameters) {
        SIVAE_UNROLL
        for (int q = 0; q < kTogether; ++q) {
          T* const at_first = first + (k + q) * dims + l;
          T* const at_second = second + (k + q) * dims + l;
          store_lanes(load_lanes<V>(at_first) + by_mu[q], at_first);
          store_lanes(load_lanes<V>(at_second) + by_square[q], at_second);
        }
      }
    }
  }
}

template <class S>
void backward(const MixtureBackward& a, int64_t begin, int64_t end, void* scratch) {
  using T = typename ComputeType<S>::type;
  const int64_t dims = mixture_padded(a.dims, sizeof(T)), components = mixture_together(a.components);
  const int64_t cells = components * dims;
  T* z = static_cast<T*>(scratch);
  T* grad_z = z + kMixtureBlock * dims;
  T* shares = grad_z + kMixtureBlock * dims;
  T* sums = shares + kMixtureBlock * components;
  const bool by_z = a.grad_z.data != nullptr, by_parameters = a.first != nullptr;
  for (int64_t i = 0; i < kMixtureBlock * dims; ++i) z[i] = T(0);
  for (int64_t i = 0; i < kMixtureBlock * components; ++i) shares[i] = T(0);
  for (int64_t part = begin; part < end; ++part) {
    double* weights = a.weight_sums + part * a.components;
    T* first = by_parameters ? static_cast<T*>(a.first) + part * cells : nullptr;
    T* second = by_parameters ? static_cast<T*>(a.second) + part * cells : nullptr;
    for (int64_t k = 0; k < a.components; ++k) weights[k] = 0.0;
    for (int64_t i = 0; by_parameters && i < cells; ++i) first[i] = second[i] = T(0);
    const int64_t last = (part + 1) * a.rows_each < a.rows ? (part + 1) * a.rows_each : a.rows;
    for (int64_t row = part * a.rows_each; row < last; row += kMixtureBlock) {
      const int64_t count = last - row < kMixtureBlock ? last - row : kMixtureBlock;
      for (int64_t k = 0; k < a.components; ++k) sums[k] = T(0);
      for (int64_t n = 0; n < count; ++n) {
        shares_of(static_cast<const T*>(a.densities) + (row + n) * a.components, static_cast<const T*>(a.weights),
                  static_cast<const T*>(a.log_prob)[row + n], static_cast<T>(row_gradient<T>(a.grad, row + n)),
                  a.components, sums, shares + n * components);
      }
      for (int64_t k = 0; k < a.components; ++k) weights[k] += static_cast<double>(sums[k]);
      if (!by_z && !by_parameters) continue;
      bring<S>(a.z, row, count, a.dims, z, dims, 1);
      if (by_z) {
        for (int64_t i = 0; i < count * dims; ++i) grad_z[i] = T(0);
        if (by_parameters) {
          add_block<true, true>(a, count, z, shares, grad_z, first, second);
        } else {
          add_block<true, false>(a, count, z, shares, grad_z, first, second);
        }
        for (int64_t n = 0; n < count; ++n) {
          S* out = static_cast<S*>(a.grad_z.data) + (row + n) * a.grad_z.row;
          for (int64_t l = 0; l < a.dims; ++l) narrow(grad_z[n * dims + l], out[l * a.grad_z.column]);
        }
      } else {
        add_block<false, true>(a, count, z, shares, grad_z, first, second);
      }
    }
  }
}

}  // namespace

void mixture_forward(const MixtureForward& a, int64_t begin, int64_t end, void* scratch) {
  with_storage_type(a.dtype, [&](auto s) { forward<decltype(s)>(a, begin, end, scratch); });
}

void mixture_backward(const MixtureBackward& a, int64_t begin, int64_t end, void* scratch) {
  with_storage_type(a.dtype, [&](auto s) { backward<decltype(s)>(a, begin, end, scratch); });
}

}  // namespace sivae::cpu::SIVAE_ISA
