// Sampling and KL of the posterior, forward and backward, and plain Philox normals. Compiled per instruction set.
#include "access.h"
#include "float_lanes.h"
#include "isa.h"
#include "philox_lanes.h"
#include "../gaussian.h"
#include "../philox.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

constexpr int64_t kBuffer = kLatentSegment + 256;  // a segment, and slack for noise that starts inside a group of four
constexpr int64_t kGroups = kBuffer / 4;           // and for whole vectors of counters

// Prefetches memory that is read or written after the noise is computed, while computing the noise, which reads none.
// The processor's own prefetcher stops at the end of a page, and a segment of float32 is a page. The first half of each
// run is prefetched while the random words are computed, the second while they become normals, because the number of
// pending prefetches is limited.
struct Ahead {
  uintptr_t runs[3];    // addresses, 0 where there is none
  int64_t group_bytes;  // of four elements

  // May go past a run's end: prefetching an invalid address does nothing.
  SIVAE_HD_MEMBER void touch(int64_t group, int64_t groups) const {
    for (const uintptr_t run : runs) {
      if (run == 0) continue;
      for (int64_t at = group * group_bytes; at < (group + groups) * group_bytes; at += kLine) {
        __builtin_prefetch(reinterpret_cast<const void*>(run + at));
      }
    }
  }
};

// Each tensor may be null.
template <class S>
Ahead ahead_of(const Layout& layout, const Piece& p, const Strided* a, const Strided* b, const Strided* c) {
  const auto run = [&](const Strided* t) -> uintptr_t {
    if (t == nullptr || t->data == nullptr) return 0;
    return reinterpret_cast<uintptr_t>(dense_run<const S>(layout, *t, p));
  };
  return {{run(a), run(b), run(c)}, 4 * sizeof(S)};
}

// Computes the random words of `groups` counters from `group` on, plane by plane, up to a whole number of vectors.
SIVAE_OUT_OF_LINE void fill_words(uint32_t (&words)[4][kGroups], uint64_t seed, uint64_t offset, uint64_t group,
                                  int32_t groups, const Ahead& ahead) {
  const uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t offset_low = static_cast<uint32_t>(offset), offset_high = static_cast<uint32_t>(offset >> 32);
#if defined(SIVAE_PHILOX_LANES)
  groups = (groups + PhiloxLanes::kCount - 1) / PhiloxLanes::kCount * PhiloxLanes::kCount;
#endif
  // In stretches with the same high word of the counter; there is nearly always only one.
  for (int32_t begin = 0, end; begin < groups; begin = end) {
    const uint32_t low = static_cast<uint32_t>(group + begin), high = static_cast<uint32_t>((group + begin) >> 32);
    const uint64_t left = (uint64_t{1} << 32) - low;
    end = left < static_cast<uint64_t>(groups - begin) ? begin + static_cast<int32_t>(left) : groups;
#if defined(SIVAE_PHILOX_LANES)
    for (int32_t g = begin; g < end; g += PhiloxLanes::kCount) {
      ahead.touch(g / 2, PhiloxLanes::kCount / 2);
      PhiloxLanes out[4];
      philox4x32_10(counting_from(low + static_cast<uint32_t>(g - begin)), high, offset_low, offset_high, k0, k1, out);
      SIVAE_UNROLL
      for (int w = 0; w < 4; ++w) store_lanes(out[w], &words[w][g]);
    }
#else
    ahead.touch(begin / 2, (end - begin) / 2);
    for (int32_t g = begin; g < end; ++g) {
      uint32_t out[4];
      philox4x32_10(low + static_cast<uint32_t>(g - begin), high, offset_low, offset_high, k0, k1, out);
      for (int w = 0; w < 4; ++w) words[w][g] = out[w];
    }
#endif
  }
}

// Normals of the logical indices [first, first + count); the result points into `buffer`.
template <class T>
SIVAE_OUT_OF_LINE const T* fill_normals(T* buffer, uint64_t seed, uint64_t offset, uint64_t first, int64_t count,
                                        const Ahead& ahead = {}) {
  alignas(64) uint32_t words[4][kGroups];
  const int64_t skip = static_cast<int64_t>(first % 4);
  const int32_t groups = static_cast<int32_t>((skip + count + 3) / 4);
  fill_words(words, seed, offset, first / 4, groups, ahead);
#if defined(SIVAE_FLOAT_LANES)
  if constexpr (sizeof(T) == sizeof(float)) {
    for (int32_t g = 0; g < groups; g += FloatLanes::kCount) {
      ahead.touch((groups + g) / 2, FloatLanes::kCount / 2);
      FloatLanes normals[4];
      SIVAE_UNROLL
      for (int w = 0; w < 4; w += 2) {
        box_muller(load_bits(&words[w][g]), load_bits(&words[w + 1][g]), normals[w], normals[w + 1]);
      }
      store_interleaved(normals, buffer + 4 * g);
    }
    return buffer + skip;
  }
#endif
  ahead.touch(groups / 2, groups - groups / 2);
#pragma omp simd
  for (int32_t g = 0; g < groups; ++g) {
    box_muller(words[0][g], words[1][g], buffer[4 * g], buffer[4 * g + 1]);
    box_muller(words[2][g], words[3][g], buffer[4 * g + 2], buffer[4 * g + 3]);
  }
  return buffer + skip;
}

template <class S, class T>
const T* noise_of(const Layout& layout, const Noise& noise, const Piece& p, T* buffer, const Ahead& ahead) {
  if (noise.eps.data != nullptr) return load<S>(layout, noise.eps, p, buffer);
  const uint64_t first = static_cast<uint64_t>(p.row) * layout.cols + p.col;
  return fill_normals(buffer, static_cast<uint64_t>(*noise.seed), noise.offset, first, p.rows * p.cols, ahead);
}

template <class T>
SIVAE_OUT_OF_LINE double sum_run(const T* values, int64_t count) {
  constexpr int64_t kChains = 32;  // independent sums
  T sum = T(0);
  int64_t i = 0;
  if (count >= kChains) {
    alignas(64) T sums[kChains] = {};
    for (; i + kChains <= count; i += kChains) {
#pragma omp simd
      for (int64_t k = 0; k < kChains; ++k) sums[k] += values[i + k];
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < kChains; ++k) sum += sums[k];
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t k = i; k < count; ++k) sum += values[k];
  return static_cast<double>(sum);
}

// Calls call(prior) in the compute type of S, for N(0, 1) with its own type.
template <class S, class Call>
SIVAE_HD void with_prior(const Prior<double>& prior, Call call) {
  using T = typename ComputeType<S>::type;
  if (prior.mu == 0.0 && prior.logvar == 0.0) {
    call(StandardPrior<T>());
  } else {
    call(prior.template to<T>());
  }
}

// The arithmetic of one segment. Conversion and strides are handled outside, so it is compiled once per compute type.
#define SIVAE_EACH [&](auto at) __attribute__((always_inline))

template <class T>
SIVAE_OUT_OF_LINE void sample_run(const T* __restrict mu, const T* __restrict logvar, const T* __restrict eps,
                                  T* __restrict z, int64_t count) {
  for_lanes<T>(count, SIVAE_EACH { at.store(at.load(mu) + std_of(at.load(logvar)) * at.load(eps), z); });
}

template <class T, class P>
SIVAE_OUT_OF_LINE void kl_run(const T* __restrict mu, const T* __restrict logvar, const P& prior,
                              T* __restrict kl, int64_t count) {
  for_lanes<T>(count, SIVAE_EACH {
    const auto lv = at.load(logvar);
    at.store(kl_term(at.load(mu), lv, std_of(lv), prior), kl);
  });
}

template <class T, class P>
SIVAE_OUT_OF_LINE void sample_kl_run(const T* __restrict mu, const T* __restrict logvar, const T* __restrict eps,
                                     const P& prior, T* __restrict z, T* __restrict kl, int64_t count) {
  for_lanes<T>(count, SIVAE_EACH {
    const auto lv = at.load(logvar), mean = at.load(mu), std = std_of(lv);
    at.store(mean + std * at.load(eps), z);
    at.store(kl_term(mean, lv, std, prior), kl);
  });
}

// Gradients; a null grad_z or grad_kl is a gradient of 0.
template <class T, class P>
SIVAE_OUT_OF_LINE void grad_mu_run(const T* __restrict grad_z, const T* __restrict grad_kl, const T* __restrict mu,
                                   const P& prior, T* __restrict out, int64_t count) {
  if (grad_kl == nullptr) {
    for (int64_t i = 0; i < count; ++i) out[i] = grad_z[i];
  } else if (grad_z == nullptr) {
    for_lanes<T>(count, SIVAE_EACH { at.store(at.load(grad_kl) * kl_grad_mu(at.load(mu), prior), out); });
  } else {
    for_lanes<T>(count, SIVAE_EACH {
      at.store(at.load(grad_z) + at.load(grad_kl) * kl_grad_mu(at.load(mu), prior), out);
    });
  }
}

template <class T, class P>
SIVAE_OUT_OF_LINE void grad_logvar_run(const T* __restrict grad_z, const T* __restrict grad_kl,
                                       const T* __restrict logvar, const T* __restrict eps, const P& prior,
                                       T* __restrict out, int64_t count) {
  if (grad_kl == nullptr) {
    for_lanes<T>(count, SIVAE_EACH {
      at.store(T(0.5) * at.load(grad_z) * std_of(at.load(logvar)) * at.load(eps), out);
    });
  } else if (grad_z == nullptr) {
    for_lanes<T>(count, SIVAE_EACH {
      const auto lv = at.load(logvar);
      at.store(at.load(grad_kl) * kl_grad_logvar(lv, std_of(lv), prior), out);
    });
  } else {
    for_lanes<T>(count, SIVAE_EACH {
      const auto lv = at.load(logvar), std = std_of(lv);
      at.store(T(0.5) * at.load(grad_z) * std * at.load(eps) + at.load(grad_kl) * kl_grad_logvar(lv, std, prior), out);
    });
  }
}

template <class T>
SIVAE_OUT_OF_LINE void grad_eps_run(const T* __restrict grad_z, const T* __restrict logvar, T* __restrict out,
                                    int64_t count) {
  for_lanes<T>(count, SIVAE_EACH { at.store(at.load(grad_z) * std_of(at.load(logvar)), out); });
}

template <class S, class P>
void forward(const LatentForward& a, const P& prior, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  alignas(64) T mu_buffer[kLatentSegment], logvar_buffer[kLatentSegment], noise_buffer[kBuffer];
  alignas(64) T z_buffer[kLatentSegment], kl_buffer[kLatentSegment];
  const Segments segments(a.layout, kLatentSegment);
  const bool wants_z = a.z.data != nullptr, wants_kl = a.kl_sums != nullptr;
  for (int64_t index = begin; index < end; ++index) {
    const Piece p = piece_of(a.layout, segments, index);
    const int64_t count = p.rows * p.cols;
    const Ahead ahead = ahead_of<S>(a.layout, p, &a.mu, &a.logvar, &a.z);
    const T* eps = wants_z ? noise_of<S>(a.layout, a.noise, p, noise_buffer, ahead) : nullptr;
    const T* mu = load<S>(a.layout, a.mu, p, mu_buffer);
    const T* logvar = load<S>(a.layout, a.logvar, p, logvar_buffer);
    if (wants_z) {
      T* z = place_for<S>(a.layout, a.z, p, z_buffer);
      if (wants_kl) {
        sample_kl_run(mu, logvar, eps, prior, z, kl_buffer, count);
      } else {
        sample_run(mu, logvar, eps, z, count);
      }
      store<S>(a.layout, a.z, p, z);
    } else {
      kl_run(mu, logvar, prior, kl_buffer, count);
    }
    if (wants_kl) {
      double* sums = static_cast<double*>(a.kl_sums) + (segments.per_row == 1 ? p.row : index);
      for (int64_t r = 0; r < p.rows; ++r) sums[r] = sum_run(kl_buffer + r * p.cols, p.cols);
    }
  }
}

template <class S, class P>
void backward_segments(const LatentBackward& a, const P& prior, const Segments& segments, int64_t begin,
                       int64_t end) {
  using T = typename ComputeType<S>::type;
  alignas(64) T mu_buffer[kLatentSegment], logvar_buffer[kLatentSegment], noise_buffer[kBuffer];
  alignas(64) T grad_z_buffer[kLatentSegment], grad_kl_buffer[kLatentSegment], out_buffer[kLatentSegment];
  const bool through_z = a.grad_z.data != nullptr;
  for (int64_t index = begin; index < end; ++index) {
    const Piece p = piece_of(a.layout, segments, index);
    const bool needs_eps = through_z && a.grad_logvar.data != nullptr;
    const bool reads_mu = a.grad_mu.data != nullptr && a.grad_kl.data != nullptr;
    const Ahead ahead = ahead_of<S>(a.layout, p, reads_mu ? &a.mu : nullptr, &a.logvar, &a.grad_z);
    const T* eps = needs_eps ? noise_of<S>(a.layout, a.noise, p, noise_buffer, ahead) : nullptr;
    const T* grad_z = through_z ? load<S>(a.layout, a.grad_z, p, grad_z_buffer) : nullptr;
    const T* grad_kl = nullptr;
    if (a.grad_kl.data != nullptr) {
      for (int64_t r = 0; r < p.rows; ++r) {
        const T g = static_cast<T>(row_gradient<T>(a.grad_kl, p.row + r));
        for (int64_t i = 0; i < p.cols; ++i) grad_kl_buffer[r * p.cols + i] = g;
      }
      grad_kl = grad_kl_buffer;
    }
    const auto part = [](const T* values, int64_t at) { return values == nullptr ? nullptr : values + at; };
    if (a.grad_mu.data != nullptr) {
      const T* mu = load<S>(a.layout, a.mu, p, mu_buffer);
      write_piece<S>(a.layout, a.grad_mu, p, out_buffer, a.stream, [&](int64_t at, int64_t size, T* to) {
        grad_mu_run(part(grad_z, at), part(grad_kl, at), mu + at, prior, to, size);
      });
    }
    if (a.grad_logvar.data == nullptr && a.grad_eps.data == nullptr) continue;
    const T* logvar = load<S>(a.layout, a.logvar, p, logvar_buffer);
    if (a.grad_logvar.data != nullptr) {
      write_piece<S>(a.layout, a.grad_logvar, p, out_buffer, a.stream, [&](int64_t at, int64_t size, T* to) {
        grad_logvar_run(part(grad_z, at), part(grad_kl, at), logvar + at, part(eps, at), prior, to, size);
      });
    }
    if (a.grad_eps.data != nullptr) {
      write_piece<S>(a.layout, a.grad_eps, p, out_buffer, a.stream, [&](int64_t at, int64_t size, T* to) {
        grad_eps_run(grad_z + at, logvar + at, to, size);
      });
    }
  }
}

template <class S, class P>
void backward(const LatentBackward& a, const P& prior, int64_t begin, int64_t end) {
  const Segments segments(a.layout, kLatentSegment);
  from_the_end(begin, end, kLatentSegment,
               [&](int64_t first, int64_t last) { backward_segments<S>(a, prior, segments, first, last); });
  if (a.stream) stream_fence();
}

template <class S>
void normals(S* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end) {
  using T = typename ComputeType<S>::type;
  alignas(64) T buffer[kBuffer];
  for (int64_t at = begin; at < end; at += kLatentSegment) {
    const int64_t count = end - at < kLatentSegment ? end - at : kLatentSegment;
    const T* values = fill_normals(buffer, seed, offset, static_cast<uint64_t>(at), count);
    narrow_run(values, out + at, count);
  }
}

}  // namespace

void latent_forward(const LatentForward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) {
    with_prior<decltype(s)>(a.prior, [&](auto prior) { forward<decltype(s)>(a, prior, begin, end); });
  });
}

void latent_backward(const LatentBackward& a, int64_t begin, int64_t end) {
  with_storage_type(a.dtype, [&](auto s) {
    with_prior<decltype(s)>(a.prior, [&](auto prior) { backward<decltype(s)>(a, prior, begin, end); });
  });
}

void philox_normal(DType dtype, void* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end) {
  with_storage_type(dtype, [&](auto s) { normals(static_cast<decltype(s)*>(out), seed, offset, begin, end); });
}

}  // namespace sivae::cpu::SIVAE_ISA
