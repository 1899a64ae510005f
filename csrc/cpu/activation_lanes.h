// Activations of numbers side by side in a vector register, and their gradients.
#pragma once

#include <type_traits>

#include "../scalar_math.h"
#include "isa.h"
#include "vector_lanes.h"

namespace sivae::cpu::SIVAE_ISA {

template <class T>
struct LeakyReLU {
  T negative_slope;
  SIVAE_HD_MEMBER Lanes<T> forward(const Lanes<T>& v) const { return v > T(0) ? v : v * negative_slope; }
  SIVAE_HD_MEMBER Lanes<T> backward(const Lanes<T>& grad, const Lanes<T>& v) const {
    return v > T(0) ? grad : grad * negative_slope;
  }
};

template <class T>
SIVAE_HD Lanes<T> exp_lanes(const Lanes<T>& x) {
  T each[kLanes<T>];
  memcpy(each, &x, sizeof each);
#pragma omp simd
  for (int i = 0; i < kLanes<T>; ++i) each[i] = exp_(each[i]);
  return load<T>(each);
}

// 1 / (1 + exp(-v)); 0 where exp(-v) or its reciprocal is no normal number, and for NaN.
template <class T>
SIVAE_HD Lanes<T> sigmoid(const Lanes<T>& v) {
  constexpr T kLeast = sizeof(T) == sizeof(float) ? T(-87) : T(-708);
  const Lanes<T> inside = reciprocal<T>(T(1) + exp_lanes<T>(-v));
  return v > kLeast ? inside : Lanes<T>{};
}

template <class T>
struct SiLU {
  SIVAE_HD_MEMBER Lanes<T> forward(const Lanes<T>& v) const { return v * sigmoid<T>(v); }
  SIVAE_HD_MEMBER Lanes<T> backward(const Lanes<T>& grad, const Lanes<T>& v) const {
    const Lanes<T> s = sigmoid<T>(v);
    return grad * (s * (T(1) + v * (T(1) - s)));
  }
};

// See BatchNorm::keeps_gradient.
template <class S, class Activation>
constexpr bool kMayKeep = std::is_same_v<Activation, SiLU<S>>;

template <class T, class Call>
SIVAE_HD void with_activation(const BatchNorm& a, Call call) {
  if (a.silu) return call(SiLU<T>());
  call(LeakyReLU<T>{static_cast<T>(a.negative_slope)});
}

}  // namespace sivae::cpu::SIVAE_ISA
