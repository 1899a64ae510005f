// What a fully connected network needs beside large matrix products. Compiled per instruction set.
#include <type_traits>

#include "isa.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

static_assert(kFewFeatures == 4, "with_count and dots are written for up to four");

SIVAE_HD int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t kSumRows = 128;  // added in one go; longer sums are sums of these

template <class F>
void with_dtype(DType dtype, F call) {
  dtype == DType::kFloat64 ? call(double()) : call(float());
}

template <class F>
void with_count(int64_t count, F call) {
  switch (count) {
    case 0: return call(std::integral_constant<int, 0>());
    case 1: return call(std::integral_constant<int, 1>());
    case 2: return call(std::integral_constant<int, 2>());
    case 3: return call(std::integral_constant<int, 3>());
    default: return call(std::integral_constant<int, 4>());
  }
}

template <class F>
void with_finish(Finish finish, F call) {
  switch (finish) {
    case Finish::kNothing: return call(std::integral_constant<Finish, Finish::kNothing>());
    case Finish::kBias: return call(std::integral_constant<Finish, Finish::kBias>());
    case Finish::kBiasRelu: return call(std::integral_constant<Finish, Finish::kBiasRelu>());
    case Finish::kMask: return call(std::integral_constant<Finish, Finish::kMask>());
  }
}

// The element of column j, from its product. The comparisons let NaN through, as torch's do.
template <Finish kFinish, class T>
inline T finished(T product, const T* bias, const T* activation, int64_t j) {
  if constexpr (kFinish == Finish::kBias) return product + bias[j];
  if constexpr (kFinish == Finish::kBiasRelu) {
    const T sum = product + bias[j];
    return sum <= T(0) ? T(0) : sum;
  }
  if constexpr (kFinish == Finish::kMask) return activation[j] <= T(0) ? T(0) : product;
  return product;
}

template <class T>
const T* row_of(const void* matrix, int64_t row, int64_t cols) {
  return matrix == nullptr ? nullptr : static_cast<const T*>(matrix) + row * cols;
}

template <Finish kFinish, class T>
void finish(const LayerRows& layer) {
  const T* bias = static_cast<const T*>(layer.bias);
  for (int64_t row = 0; row < layer.rows; ++row) {
    const T* activation = row_of<T>(layer.activation, row, layer.cols);
    T* y = static_cast<T*>(layer.y) + row * layer.cols;
#pragma omp simd
    for (int64_t j = 0; j < layer.cols; ++j) y[j] = finished<kFinish>(y[j], bias, activation, j);
  }
}

template <int kInner, Finish kFinish, class T>
void outer(const LayerRows& layer) {
  const int64_t cols = layer.cols;
  const T* b = static_cast<const T*>(layer.b);
  const T* bias = static_cast<const T*>(layer.bias);
  for (int64_t row = 0; row < layer.rows; ++row) {
    T a[kInner > 0 ? kInner : 1];
    for (int k = 0; k < kInner; ++k) a[k] = row_of<T>(layer.a, row, kInner)[k];
    const T* activation = row_of<T>(layer.activation, row, cols);
    T* y = static_cast<T*>(layer.y) + row * cols;
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j) {
      T product = T(0);
      for (int k = 0; k < kInner; ++k) product += a[k] * b[k * cols + j];
      y[j] = finished<kFinish>(product, bias, activation, j);
    }
  }
}

template <Finish kFinish, class T>
void dots(const LayerRows& layer) {
  const T* bias = static_cast<const T*>(layer.bias);
  const T* b[kFewFeatures];
  // Columns that are not there repeat the last one, and are dropped.
  for (int64_t k = 0; k < kFewFeatures; ++k) {
    b[k] = static_cast<const T*>(layer.b) + smaller(k, layer.cols - 1) * layer.inner;
  }
  const T *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
  for (int64_t row = 0; row < layer.rows; ++row) {
    const T* a = row_of<T>(layer.a, row, layer.inner);
    T sum0 = T(0), sum1 = T(0), sum2 = T(0), sum3 = T(0);
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t i = 0; i < layer.inner; ++i) {
      sum0 += a[i] * b0[i];
      sum1 += a[i] * b1[i];
      sum2 += a[i] * b2[i];
      sum3 += a[i] * b3[i];
    }
    const T sums[] = {sum0, sum1, sum2, sum3};
    const T* activation = row_of<T>(layer.activation, row, layer.cols);
    T* y = static_cast<T*>(layer.y) + row * layer.cols;
    for (int64_t j = 0; j < layer.cols; ++j) y[j] = finished<kFinish>(sums[j], bias, activation, j);
  }
}

constexpr int64_t kTile = 256;  // columns whose sums stay in the L1 cache
constexpr int kRowsAtOnce = 4;

// Adds rows [kRows, width] and their products with factors [kRows, kFew] to sums [kFew + 1, kTile].
template <int kFew, int kRows, class T>
void add_rows(const T* values, int64_t stride, const T* factors, int64_t width, T (&sums)[kFew + 1][kTile]) {
  for (int k = 0; k < kFew; ++k) {
    T factor[kRows];
    for (int row = 0; row < kRows; ++row) factor[row] = factors[row * kFew + k];
    T* sum = sums[k];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      T products = factor[0] * values[j];
      for (int row = 1; row < kRows; ++row) products += factor[row] * values[row * stride + j];
      sum[j] += products;
    }
  }
  T* sum = sums[kFew];
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    T of_rows = values[j];
    for (int row = 1; row < kRows; ++row) of_rows += values[row * stride + j];
    sum[j] += of_rows;
  }
}

// Of `width` columns from `first` on.
template <int kFew, class T>
void sums(const LayerSums& layer, int64_t first, int64_t width) {
  for (int64_t begin = 0; begin < layer.rows; begin += kSumRows) {
    const int64_t end = smaller(begin + kSumRows, layer.rows);
    T part[kFew + 1][kTile] = {};
    const auto values = [&](int64_t row) { return row_of<T>(layer.values, row, layer.stride) + first; };
    const auto factors = [&](int64_t row) { return row_of<T>(layer.factors, row, kFew); };
    int64_t row = begin;
    for (; row + kRowsAtOnce <= end; row += kRowsAtOnce) {
      add_rows<kFew, kRowsAtOnce>(values(row), layer.stride, factors(row), width, part);
    }
    for (; row < end; ++row) add_rows<kFew, 1>(values(row), layer.stride, factors(row), width, part);
    const bool add = layer.add || begin > 0;
    for (int k = 0; k <= kFew; ++k) {
      T* to = static_cast<T*>(k < kFew ? layer.weighted : layer.plain);
      if (to == nullptr) continue;
      if (k < kFew) to += k * layer.stride;
      for (int64_t j = 0; j < width; ++j) to[first + j] = add ? to[first + j] + part[k][j] : part[k][j];
    }
  }
}

}  // namespace

void layer_finish(const LayerRows& layer) {
  if (layer.finish == Finish::kNothing) return;
  with_dtype(layer.dtype, [&](auto t) {
    with_finish(layer.finish, [&](auto how) { finish<how(), decltype(t)>(layer); });
  });
}

void layer_outer(const LayerRows& layer) {
  with_dtype(layer.dtype, [&](auto t) {
    with_count(layer.inner, [&](auto inner) {
      with_finish(layer.finish, [&](auto how) { outer<inner(), how(), decltype(t)>(layer); });
    });
  });
}

void layer_dots(const LayerRows& layer) {
  with_dtype(layer.dtype, [&](auto t) {
    with_finish(layer.finish, [&](auto how) { dots<how(), decltype(t)>(layer); });
  });
}

void layer_sums(const LayerSums& layer) {
  with_dtype(layer.dtype, [&](auto t) {
    using T = decltype(t);
    with_count(layer.few, [&](auto few) {
      for (int64_t first = 0; first < layer.cols; first += kTile) {
        sums<few(), T>(layer, first, smaller(kTile, layer.cols - first));
      }
    });
  });
}

}  // namespace sivae::cpu::SIVAE_ISA
