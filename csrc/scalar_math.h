// exp, log, log1p and the sine pair for float and double. On the host the float versions have no branches, so that
// loops over them vectorise; the templates also take several floats at once (cpu/float_lanes.h). They are accurate to a
// few ulp (tests/ops/test_accuracy.py tests the ops for it); double uses the C library.
// On the device exp, log and log1p are CUDA's accurate single-precision functions. The logarithm and the sine pair of
// the normals stay the same: they need no special cases, and give the device the host's normals.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "platform.h"

namespace sivae {

SIVAE_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

SIVAE_HD float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The bits of a float as two's complement, without its mantissa.
SIVAE_HD float signed_exponent(uint32_t bits) { return static_cast<float>(static_cast<int32_t>(bits) >> 23); }

// a where the condition holds, else b; both are computed.
SIVAE_HD float select(bool condition, float a, float b) { return condition ? a : b; }
SIVAE_HD double select(bool condition, double a, double b) { return condition ? a : b; }

// a b + c, rounded once where the processor can, even if a b is used elsewhere.
SIVAE_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// The float polynomials are minimax fits of the result's relative error (weighted least squares, reweighted towards the
// maximum, in double): a few parts in 10^9 of an exponential or a sine, 1.6 in 10^8 of a logarithm.

// c[0] + x (c[1] + x (c[2] + ...)).
template <int n, int k = 0, class F>
SIVAE_HD F polynomial(const float (&c)[n], F x) {
  if constexpr (k == n - 1) {
    return F(c[k]);
  } else {
    return c[k] + x * polynomial<n, k + 1>(c, x);
  }
}

// The comparisons below are false for NaN, which passes through unchanged.
// x, limited from above and from below.
SIVAE_HD float at_most(float limit, float x) { return limit < x ? limit : x; }
SIVAE_HD float at_least(float limit, float x) { return limit > x ? limit : x; }

// y 4^m; `shifted` has m in its low bits, biased like float's exponent. The even power makes the factor the square of a
// normal float, where a single factor would be outside float's range.
template <class F>
SIVAE_HD F times_four_to(F /* m */, F shifted, F y) {
  const F power = float_of(bits_of(shifted) << 23);
  return y * power * power;
}

// (exp(x) - 1 - x) / x^2 for |x| <= ln 2.
template <class F>
SIVAE_HD F exp_series(F x) {
  constexpr float kExp[] = {0.5f,          0.16666675f,    0.041666526f, 0.0083325263f,
                            0.0013893711f, 0.00020110063f, 2.4439814e-05f};
  return polynomial(kExp, x);
}

// exp(x); and for |x| <= 0.69, where they cancel, `tail` is exp(x) - 1 - x to full relative accuracy.
template <class F>
SIVAE_HD F exp_and_tail(F x, F& tail) {
#if defined(__CUDA_ARCH__)
  tail = x * x * exp_series(x);
  return expf(x);
#else
  constexpr float kShift = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the bias of float's exponent
  x = at_most(89.0f, x);                          // above, the result is infinite anyway
  x = at_least(-104.0f, x);                       // below, it is 0 anyway
  // x = 2 m ln 2 + r with an integer m: adding kShift rounds to m and puts it, biased, into the low bits.
  // Where the tail is used, m is 0 and r is x.
  const F shifted = x * 0.721347520f + kShift;
  const F m = shifted - kShift;
  const F r = (x - m * 1.38671875f) - m * -4.24388880e-4f;  // 2 ln 2 in two parts, the products by the first exact
  const F rest = r * exp_series(r);
  tail = r * rest;
  return times_four_to(m, shifted, 1.0f + multiply_add(r, rest, r));
#endif
}

template <class F>
SIVAE_HD F exp_(F x) {
  F tail;
  return exp_and_tail(x, tail);
}

// ln x of a positive normal x.
template <class F>
SIVAE_HD F log_of_normal(F x) {
  // (ln(1 + f) - f) / f^2, its first coefficient exact.
  constexpr float kLog[] = {-0.5f,         0.333339095f, -0.250013381f, 0.199630633f,
                            -0.165775836f, 0.149147704f, -0.142674923f, 0.0870043784f};
  // x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), so that the result keeps its relative accuracy next to x = 1.
  const auto shifted = bits_of(x) - 0x3f3504f3u;
  const F e = signed_exponent(shifted);
  const F f = float_of((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  // ln 2 in two parts, the product by the first exact.
  return e * 0.693359375f + (f * f * polynomial(kLog, f) + (e * -2.12194440e-4f + f));
}

SIVAE_HD float log_(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  const bool subnormal = x < 1.17549435e-38f;
  const float result = log_of_normal(subnormal ? x * 8388608.0f : x) - (subnormal ? 15.9423847f : 0.0f);  // 23 ln 2
  const float edge = x == 0.0f ? -INFINITY : (x > 3.4028235e38f ? INFINITY : NAN);
  return (x > 0.0f && x <= 3.4028235e38f) ? result : edge;
#endif
}

// ln(1 + x) from x >= -1.
SIVAE_HD float log1p_(float x) {
#if defined(__CUDA_ARCH__)
  return log1pf(x);
#else
  const float u = 1.0f + x;
  const float lost = x - (u - 1.0f);  // the rounding error of 1 + x
  const float correction = (u > 0.0f && u <= 3.4028235e38f) ? lost / u : 0.0f;
  return log_(u) + correction;
#endif
}

// ln(1 + x) for x in [0, 1]; NaN stays NaN.
SIVAE_HD float log1p_of_unit(float x) {
#if defined(__CUDA_ARCH__)
  return log1pf(x);
#else
  const float u = 1.0f + x;
  return log_of_normal(u) + (x - (u - 1.0f)) / u;
#endif
}

// sin(pi x) for |x| <= 1/2.
template <class F>
SIVAE_HD F sin_half_turn(F x) {
  constexpr float kSin[] = {3.14159274f, -5.16770983f, 2.55006981f, -0.598242104f, 0.0775603801f};
  return x * polynomial(kSin, x * x);
}

SIVAE_HD float sqrt_(float x) { return sqrtf(x); }
SIVAE_HD float abs_(float x) { return fabsf(x); }

SIVAE_HD double exp_(double x) { return exp(x); }
SIVAE_HD double exp_and_tail(double x, double& tail) {
  double sum = 1.0;  // nested Taylor terms; the first left out, 2 x^17/19!, is under 1e-19 of the sum
  SIVAE_UNROLL
  for (int k = 18; k > 2; --k) sum = 1.0 + sum * (x / k);
  tail = 0.5 * x * x * sum;
  return exp(x);
}
SIVAE_HD double log_(double x) { return log(x); }
SIVAE_HD double log_of_normal(double x) { return log(x); }
SIVAE_HD double log1p_(double x) { return log1p(x); }
SIVAE_HD double log1p_of_unit(double x) { return log1p(x); }
SIVAE_HD double sqrt_(double x) { return sqrt(x); }
SIVAE_HD double abs_(double x) { return fabs(x); }
// cos and sin of 2 pi u.
SIVAE_HD void cos_sin_turn(double u, double& cosine, double& sine) {
#if defined(__CUDA_ARCH__)
  sincospi(2.0 * u, &sine, &cosine);  // without the large-angle reduction, which takes local memory
#else
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  cosine = cos(kTwoPi * u);
  sine = sin(kTwoPi * u);
#endif
}

}  // namespace sivae
