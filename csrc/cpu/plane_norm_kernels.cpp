// Group norm and an activation of images whose pixels are side by side, forward and backward. Compiled per instruction
// set. The stages are those of batch_norm_kernels.cpp.
#include <cstdint>

#include "activation_lanes.h"
#include "isa.h"
#include "vector_lanes.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

// Pixels of a block. Sums within a block are in the arithmetic type; blocks are added in double.
constexpr int64_t kBlock = 1024;
// Registers that each sum of a block is kept in.
constexpr int kRegisters = 4;

// A segment's place: pixels [first, end) of a channel's plane.
struct Run {
  int64_t channel, part, first, end;
};

SIVAE_HD Run run_of(const PlaneNorm& a, int64_t segment) {
  if (a.parts == 1) return {segment, 0, 0, a.rows};  // without divisions: planes may be small
  const int64_t channel = segment / a.parts, part = segment % a.parts;
  return {channel, part, part * a.rows_each, a.end_of(part)};
}

template <class S>
SIVAE_HD S* plane_of(const void* data, int64_t channel, int64_t stride) {
  return static_cast<S*>(const_cast<void*>(data)) + channel * stride;
}

// A channel's values, in the order of `Coefficient` in batch_norm_kernels.cpp.
template <class T>
struct Coefficients {
  T mean, factor, constant, by_deviation, by_constant;
};

template <class T>
SIVAE_HD Coefficients<T> coefficients_of(const PlaneNorm& a, int64_t channel) {
  const T* const of = static_cast<const T*>(a.coefficients) + channel;
  return {of[0], of[a.channels], of[2 * a.channels], of[3 * a.channels], of[4 * a.channels]};
}

// The sum of all lanes, in pairs.
template <class T>
SIVAE_HD double total_of(const Lanes<T> (&sums)[kRegisters]) {
  static_assert(kRegisters == 4);
  const Lanes<T> sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) return _mm512_reduce_add_ps(reinterpret_cast<__m512>(sum));
#endif
  T each[kLanes<T>];
  memcpy(each, &sum, sizeof each);
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) each[i] += each[i + half];
  }
  return static_cast<double>(each[0]);
}

// Adds up K terms over `count` pixels: terms(place, t) sets them for the lanes of a place, which are whole or the last
// ones. Sets sums[k].
template <int K, class T, class Terms>
SIVAE_HD void add_up(int64_t count, double (&sums)[K], Terms terms) {
  Lanes<T> lanes[K][kRegisters] = {};
  const auto add = [&](const auto& place, int r) __attribute__((always_inline)) {
    Lanes<T> t[K];
    terms(place, t);
    SIVAE_UNROLL
    for (int k = 0; k < K; ++k) lanes[k][r] += t[k];
  };
  int64_t i = 0;
  for (; i + kRegisters * kLanes<T> <= count; i += kRegisters * kLanes<T>) {
    SIVAE_UNROLL
    for (int r = 0; r < kRegisters; ++r) add(Place<T, true>{i + r * kLanes<T>, kLanes<T>}, r);
  }
  for (; i + kLanes<T> <= count; i += kLanes<T>) add(Place<T, true>{i, kLanes<T>}, 0);
  if (i < count) add(Place<T, false>{i, static_cast<int>(count - i)}, 0);
  SIVAE_UNROLL
  for (int k = 0; k < K; ++k) sums[k] = total_of<T>(lanes[k]);
}

// Calls visit(first pixel, pixels) for each block of a run.
template <class Visit>
SIVAE_HD void for_each_block(const Run& run, Visit visit) {
  for (int64_t at = run.first; at < run.end; at += kBlock) visit(at, run.end - at < kBlock ? run.end - at : kBlock);
}

template <class S, class T>
void moments(const PlaneNorm& a, const Run& run) {
  const S* const x = plane_of<S>(a.x, run.channel, a.x_channel);
  double before = 0.0, mean = 0.0, squares = 0.0;
  for_each_block(run, [&](int64_t first, int64_t pixels) {
    const S* const from = x + first;
    const double count = static_cast<double>(pixels), share = count / (before + count);
    const T pivot = widen(from[0]);
    double sum[1], sums[2];
    add_up<1, T>(pixels, sum, [&](const auto& p, Lanes<T>(&t)[1]) __attribute__((always_inline)) {
      t[0] = p.within(p.read(from) - pivot);
    });
    const T middle = static_cast<T>(static_cast<double>(pivot) + sum[0] / count);
    add_up<2, T>(pixels, sums, [&](const auto& p, Lanes<T>(&t)[2]) __attribute__((always_inline)) {
      t[0] = p.within(p.read(from) - middle);
      t[1] = t[0] * t[0];
    });
    // Merges the block (Chan, Golub & LeVeque 1983).
    const double deviation = sums[0] / count, of_block = sums[1] - sums[0] * deviation;
    const double delta = static_cast<double>(middle) + deviation - mean;
    mean += delta * share;
    squares += (of_block < 0.0 ? 0.0 : of_block) + delta * delta * (before * share);
    before += count;
  });
  double* const to = a.sums + run.part * 2 * a.channels + run.channel;
  to[0] = mean;
  to[a.channels] = squares;
}

template <class S, class T, class Activation>
void gradient_sums(const PlaneNorm& a, const Run& run, const Activation& activation) {
  const S* const x = plane_of<S>(a.x, run.channel, a.x_channel);
  const S* const grad_y = plane_of<S>(a.grad_y, run.channel, a.grad_y_channel);
  [[maybe_unused]] S* const kept = plane_of<S>(a.out, run.channel, a.out_channel);
  const Coefficients<T> c = coefficients_of<T>(a, run.channel);
  double total[2] = {};
  for_each_block(run, [&](int64_t first, int64_t pixels) {
    double sums[2];
    // Beyond the last pixel the gradient is 0.
    add_up<2, T>(pixels, sums, [&](const auto& p, Lanes<T>(&t)[2]) __attribute__((always_inline)) {
      const Lanes<T> d = p.read(x + first) - c.mean;
      t[0] = activation.backward(p.read(grad_y + first), d * c.factor + c.constant);
      t[1] = t[0] * d;
      if constexpr (kMayKeep<S, Activation>) {
        if (a.keeps_gradient) p.write(t[0], kept + first);
      }
    });
    total[0] += sums[0];
    total[1] += sums[1];
  });
  double* const to = a.sums + run.part * 2 * a.channels + run.channel;
  to[0] = total[0];
  to[a.channels] = total[1];
}

// Calls visit(place) for all lanes of a run.
template <class T, class Visit>
SIVAE_HD void for_each_place(const Run& run, Visit visit) {
  int64_t i = run.first;
  for (; i + kLanes<T> <= run.end; i += kLanes<T>) visit(Place<T, true>{i, kLanes<T>});
  if (i < run.end) visit(Place<T, false>{i, static_cast<int>(run.end - i)});
}

template <class S, class T, class Activation>
void apply(const PlaneNorm& a, const Run& run, const Activation& activation) {
  const S* const x = plane_of<S>(a.x, run.channel, a.x_channel);
  S* const y = plane_of<S>(a.out, run.channel, a.out_channel);
  const Coefficients<T> c = coefficients_of<T>(a, run.channel);
  for_each_place<T>(run, [&](const auto& p) __attribute__((always_inline)) {
    p.write(activation.forward((p.read(x) - c.mean) * c.factor + c.constant), y);
  });
}

template <class S, class T, class Activation>
void gradients(const PlaneNorm& a, const Run& run, const Activation& activation) {
  const S* const x = plane_of<S>(a.x, run.channel, a.x_channel);
  const S* const grad_y = plane_of<S>(a.grad_y, run.channel, a.grad_y_channel);
  S* const grad_x = plane_of<S>(a.out, run.channel, a.out_channel);
  const Coefficients<T> c = coefficients_of<T>(a, run.channel);
  for_each_place<T>(run, [&](const auto& p) __attribute__((always_inline)) {
    const Lanes<T> d = p.read(x) - c.mean;
    const Lanes<T> g = activation.backward(p.read(grad_y), d * c.factor + c.constant);
    p.write(g * c.factor + (d * c.by_deviation + c.by_constant), grad_x);
  });
}

template <class S, class T, class Activation>
void work(const PlaneNorm& a, const Run& run, const Activation& activation) {
  switch (a.stage) {
    case BatchNorm::kMoments: return moments<S, T>(a, run);
    case BatchNorm::kApply: return apply<S, T>(a, run, activation);
    case BatchNorm::kGradientSums: return gradient_sums<S, T>(a, run, activation);
    case BatchNorm::kGradients: return gradients<S, T>(a, run, activation);
  }
}

}  // namespace

void plane_norm(const PlaneNorm& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) {
    using T = typename ComputeType<decltype(s)>::type;
    with_activation<T>(a, [&](const auto& activation) {
      for (int64_t segment = begin; segment < end; ++segment) work<decltype(s), T>(a, run_of(a, segment), activation);
    });
  });
}

}  // namespace sivae::cpu::SIVAE_ISA
