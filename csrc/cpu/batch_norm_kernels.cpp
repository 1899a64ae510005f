// Batch or group norm, a sum and an activation of channels-last images, forward and backward. Compiled per instruction
// set.
//
// Images are rows of channels, one for each pixel. Each pass reads them twice: for sums over the rows of a segment, and
// to write the result.
#include <type_traits>

#include "activation_lanes.h"
#include "isa.h"
#include "vector_lanes.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

// Registers of a group of channels, whose sums all stay in registers.
#if defined(__AVX512F__)
constexpr int kGroup = 4;
#else
constexpr int kGroup = 2;
#endif

// A channel's values in both passes, each an array [C] of T: v = (x - mean) * factor + constant, and the gradient by x
// is factor g + (x - mean) by_deviation + by_constant, where g is the gradient by v.
enum Coefficient : int { kMean, kFactor, kConstant, kByDeviation, kByConstant };

template <class T>
SIVAE_HD const T* coefficients(const BatchNorm& a, Coefficient which) {
  return static_cast<const T*>(a.coefficients) + which * a.channels;
}

template <class S>
SIVAE_HD const S* values_of(const void* data) {
  return static_cast<const S*>(data);
}

// Calls visit(group of registers, place of register r) for all channels.
template <class T, class Visit>
SIVAE_HD void for_each_group(int64_t channels, Visit visit) {
  constexpr int64_t kWide = kGroup * kLanes<T>;
  int64_t at = 0;
  for (; at + kWide <= channels; at += kWide) visit(std::integral_constant<int, kGroup>(), std::true_type(), at);
  for (; at + kLanes<T> <= channels; at += kLanes<T>) visit(std::integral_constant<int, 1>(), std::true_type(), at);
  if (at < channels) visit(std::integral_constant<int, 1>(), std::false_type(), at);
}

template <class T, bool Whole>
SIVAE_HD Place<T, Whole> place(int64_t at, int r, int64_t channels) {
  const int64_t first = at + r * kLanes<T>;
  return {first, static_cast<int>(Whole ? kLanes<T> : channels - first)};
}

// Calls visit(first row, rows) for each block of a segment's rows.
template <class Visit>
SIVAE_HD void for_each_block(const BatchNorm& a, int64_t segment, Visit visit) {
  const int64_t end = a.end_of(segment);
  for (int64_t at = segment * a.rows_each; at < end; at += kBatchNormBlock) {
    visit(at, end - at < kBatchNormBlock ? end - at : kBatchNormBlock);
  }
}

template <class S, class T>
void moments(const BatchNorm& a, int64_t segment) {
  double* const mean = a.sums + segment * 2 * a.channels;
  double* const squares = mean + a.channels;
  int64_t before = 0;
  for_each_block(a, segment, [&](int64_t first, int64_t rows) {
    const S* const x = values_of<S>(a.x) + first * a.channels;
    const double count = static_cast<double>(rows), total = count + static_cast<double>(before);
    const double share = count / total, weight = static_cast<double>(before) * share;
    for_each_group<T>(a.channels, [&](auto registers, auto whole, int64_t at) {
      constexpr int kRegisters = decltype(registers)::value;
      constexpr bool kWhole = decltype(whole)::value;
      Lanes<T> pivot[kRegisters], middle[kRegisters], sum[kRegisters] = {}, square[kRegisters] = {};
      SIVAE_UNROLL
      for (int r = 0; r < kRegisters; ++r) pivot[r] = place<T, kWhole>(at, r, a.channels).read(x);
      for (int64_t row = 1; row < rows; ++row) {
        SIVAE_UNROLL
        for (int r = 0; r < kRegisters; ++r) {
          sum[r] += place<T, kWhole>(at, r, a.channels).read(x + row * a.channels) - pivot[r];
        }
      }
      SIVAE_UNROLL
      for (int r = 0; r < kRegisters; ++r) {
        middle[r] = pivot[r] + sum[r] * static_cast<T>(1.0 / count);
        sum[r] = Lanes<T>{};
      }
      for (int64_t row = 0; row < rows; ++row) {
        SIVAE_UNROLL
        for (int r = 0; r < kRegisters; ++r) {
          const Lanes<T> d = place<T, kWhole>(at, r, a.channels).read(x + row * a.channels) - middle[r];
          sum[r] += d;
          square[r] += d * d;
        }
      }
      SIVAE_UNROLL
      for (int r = 0; r < kRegisters; ++r) {
        T middles[kLanes<T>], sums[kLanes<T>], squared[kLanes<T>];
        memcpy(middles, &middle[r], sizeof middles);
        memcpy(sums, &sum[r], sizeof sums);
        memcpy(squared, &square[r], sizeof squared);
        const auto lanes = place<T, kWhole>(at, r, a.channels);
        // Merges the block (Chan, Golub & LeVeque 1983).
#pragma omp simd
        for (int i = 0; i < lanes.count; ++i) {
          const int64_t c = lanes.at + i;
          const double deviation = static_cast<double>(sums[i]) / count;
          const double of_block = static_cast<double>(squared[i]) - static_cast<double>(sums[i]) * deviation;
          const double of_mean = static_cast<double>(middles[i]) + deviation;
          const double delta = before == 0 ? 0.0 : of_mean - mean[c];
          mean[c] = before == 0 ? of_mean : mean[c] + delta * share;
          squares[c] = (before == 0 ? 0.0 : squares[c]) + (of_block < 0.0 ? 0.0 : of_block) + delta * delta * weight;
        }
      }
    });
    before += rows;
  });
}

// The gradient by v: that by y through the activation. Of a leaky ReLU, the sign of v is that of y, where it was kept.
template <class S, class T, bool Whole, class Activation>
SIVAE_HD Lanes<T> grad_before(const BatchNorm& a, const Place<T, Whole>& p, int64_t row, const Lanes<T>& v,
                              const Activation& activation) {
  return activation.backward(p.read(values_of<S>(a.grad_y) + row * a.channels), v);
}

template <class S, class T, class Activation>
void gradient_sums(const BatchNorm& a, int64_t segment, const Activation& activation) {
  double* const by_constant = a.sums + segment * 2 * a.channels;
  double* const by_deviation = by_constant + a.channels;
  for (int64_t c = 0; c < 2 * a.channels; ++c) by_constant[c] = 0.0;
  const S* const x = values_of<S>(a.x);
  const S* const y = values_of<S>(a.y);
  for_each_block(a, segment, [&](int64_t first, int64_t rows) {
    for_each_group<T>(a.channels, [&](auto registers, auto whole, int64_t at) {
      constexpr int kRegisters = decltype(registers)::value;
      constexpr bool kWhole = decltype(whole)::value;
      Lanes<T> mean[kRegisters], factor[kRegisters], constant[kRegisters], sum[kRegisters] = {}, product[kRegisters] = {};
      SIVAE_UNROLL
      for (int r = 0; r < kRegisters; ++r) {
        const auto p = place<T, kWhole>(at, r, a.channels);
        mean[r] = p.read(coefficients<T>(a, kMean));
        factor[r] = p.read(coefficients<T>(a, kFactor));
        constant[r] = p.read(coefficients<T>(a, kConstant));
      }
      const auto add = [&](auto kept) __attribute__((always_inline)) {
        for (int64_t row = first; row < first + rows; ++row) {
          SIVAE_UNROLL
          for (int r = 0; r < kRegisters; ++r) {
            const auto p = place<T, kWhole>(at, r, a.channels);
            const Lanes<T> d = p.read(x + row * a.channels) - mean[r];
            Lanes<T> v;
            if constexpr (decltype(kept)::value) {
              v = p.read(y + row * a.channels);
            } else {
              v = d * factor[r] + constant[r];
            }
            const Lanes<T> g = grad_before<S>(a, p, row, v, activation);
            if constexpr (kMayKeep<S, Activation>) {
              if (a.keeps_gradient) p.write(g, static_cast<S*>(a.out) + row * a.channels);
            }
            sum[r] += g;
            product[r] += g * d;
          }
        }
      };
      if (y != nullptr) {
        add(std::true_type());
      } else {
        add(std::false_type());
      }
      SIVAE_UNROLL
      for (int r = 0; r < kRegisters; ++r) {
        T sums[kLanes<T>], products[kLanes<T>];
        memcpy(sums, &sum[r], sizeof sums);
        memcpy(products, &product[r], sizeof products);
        const auto lanes = place<T, kWhole>(at, r, a.channels);
#pragma omp simd
        for (int i = 0; i < lanes.count; ++i) {
          by_constant[lanes.at + i] += static_cast<double>(sums[i]);
          by_deviation[lanes.at + i] += static_cast<double>(products[i]);
        }
      }
    });
  });
}

// Calls visit(row, place) for all lanes of a segment, in the order of memory.
template <class T, class Visit>
SIVAE_HD void for_each_place(const BatchNorm& a, int64_t segment, Visit visit) {
  const int64_t end = a.end_of(segment);
  for (int64_t row = segment * a.rows_each; row < end; ++row) {
    int64_t at = 0;
    for (; at + kLanes<T> <= a.channels; at += kLanes<T>) visit(row, Place<T, true>{at, kLanes<T>});
    if (at < a.channels) visit(row, Place<T, false>{at, static_cast<int>(a.channels - at)});
  }
}

template <class S, class T, class Activation>
void apply(const BatchNorm& a, int64_t segment, const Activation& activation) {
  const T* const mean = coefficients<T>(a, kMean);
  const T* const factor = coefficients<T>(a, kFactor);
  const T* const constant = coefficients<T>(a, kConstant);
  const S* const x = values_of<S>(a.x);
  const S* const residual = values_of<S>(a.residual);
  S* const y = static_cast<S*>(a.out);
  const auto run = [&](auto has_residual) __attribute__((always_inline)) {
    for_each_place<T>(a, segment, [&](int64_t row, const auto& p) __attribute__((always_inline)) {
      const int64_t from = row * a.channels;
      Lanes<T> v = (p.read(x + from) - p.read(mean)) * p.read(factor) + p.read(constant);
      if constexpr (decltype(has_residual)::value) v += p.read(residual + from);
      p.write(activation.forward(v), y + from);
    });
  };
  if (residual != nullptr) {
    run(std::true_type());
  } else {
    run(std::false_type());
  }
}

template <class S, class T, class Activation>
void gradients(const BatchNorm& a, int64_t segment, const Activation& activation) {
  const T* const mean = coefficients<T>(a, kMean);
  const T* const factor = coefficients<T>(a, kFactor);
  const T* const constant = coefficients<T>(a, kConstant);
  const T* const by_deviation = coefficients<T>(a, kByDeviation);
  const T* const by_constant = coefficients<T>(a, kByConstant);
  const S* const x = values_of<S>(a.x);
  const S* const y = values_of<S>(a.y);
  S* const grad_x = static_cast<S*>(a.out);
  S* const grad_residual = static_cast<S*>(a.grad_residual);
  const auto run = [&](auto kept, auto by_residual) __attribute__((always_inline)) {
    for_each_place<T>(a, segment, [&](int64_t row, const auto& p) __attribute__((always_inline)) {
      const int64_t from = row * a.channels;
      const Lanes<T> d = p.read(x + from) - p.read(mean), by_grad = p.read(factor);
      Lanes<T> v;
      if constexpr (decltype(kept)::value) {
        v = p.read(y + from);
      } else {
        v = d * by_grad + p.read(constant);
      }
      const Lanes<T> g = grad_before<S>(a, p, row, v, activation);
      if (grad_x != nullptr) p.write(g * by_grad + (d * p.read(by_deviation) + p.read(by_constant)), grad_x + from);
      if constexpr (decltype(by_residual)::value) p.write(g, grad_residual + from);
    });
  };
  if (y == nullptr) {
    run(std::false_type(), std::false_type());
  } else if (grad_residual == nullptr) {
    run(std::true_type(), std::false_type());
  } else {
    run(std::true_type(), std::true_type());
  }
}

template <class S, class T, class Activation>
void work(const BatchNorm& a, int64_t segment, const Activation& activation) {
  switch (a.stage) {
    case BatchNorm::kMoments: return moments<S, T>(a, segment);
    case BatchNorm::kApply: return apply<S, T>(a, segment, activation);
    case BatchNorm::kGradientSums: return gradient_sums<S, T>(a, segment, activation);
    case BatchNorm::kGradients: return gradients<S, T>(a, segment, activation);
  }
}

}  // namespace

void batch_norm(const BatchNorm& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) {
    using T = typename ComputeType<decltype(s)>::type;
    with_activation<T>(a, [&](const auto& activation) {
      for (int64_t segment = begin; segment < end; ++segment) work<decltype(s), T>(a, segment, activation);
    });
  });
}

}  // namespace sivae::cpu::SIVAE_ISA
