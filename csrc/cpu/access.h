// Read and write pieces of strided tensors through small buffers.
#pragma once

#include <cstdint>

#include "dtypes.h"
#include "kernels.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace sivae::cpu {

// The place of a segment: rows [row, row + rows), columns [col, col + cols).
struct Piece {
  int64_t row, rows, col, cols;
};

SIVAE_HD Piece piece_of(const Layout& layout, const Segments& segments, int64_t index) {
  if (segments.per_row == 1) {
    const int64_t row = index * segments.rows_each;
    const int64_t rows = layout.rows - row < segments.rows_each ? layout.rows - row : segments.rows_each;
    return {row, rows, 0, layout.cols};
  }
  const int64_t row = index / segments.per_row;
  const int64_t col = (index % segments.per_row) * segments.cols_each;
  return {row, 1, col, layout.cols - col < segments.cols_each ? layout.cols - col : segments.cols_each};
}

SIVAE_HD bool is_contiguous_row(const Layout& layout, const Strided& t) {
  return layout.ndim == 1 && (t.strides[0] == 1 || layout.sizes[0] == 1);
}

// The start of the piece where it is one run of memory, else null.
template <class S>
SIVAE_HD S* dense_run(const Layout& layout, const Strided& t, const Piece& p) {
  if (!is_contiguous_row(layout, t) || (p.rows > 1 && t.row_stride != layout.cols)) return nullptr;
  return static_cast<S*>(t.data) + p.row * t.row_stride + p.col;
}

// Calls visit(first, last) for all of the segments [begin, end), the last ones first: a backward pass usually comes
// just after the forward pass, whose last reads are still in the cache. Each stretch is walked forward, because the
// processor's prefetcher expects it; `elements` is a segment's size.
template <class Visit>
SIVAE_HD void from_the_end(int64_t begin, int64_t end, int64_t elements, Visit visit) {
  constexpr int64_t kStretch = 128 * kPieceElements;
  const int64_t stretch = kStretch / elements;
  for (int64_t last = end; last > begin;) {
    const int64_t first = last - begin < stretch ? begin : last - stretch;
    visit(first, last);
    last = first;
  }
}

// Strided access is not inlined or unrolled: it has many loops, and each takes little time next to the arithmetic.
#define SIVAE_OUT_OF_LINE static __attribute__((noinline))

// Calls visit(memory offset, index within the piece's row, run length, stride) for each run along the innermost
// dimension, in logical order.
template <class Visit>
SIVAE_HD void for_each_run(const Layout& layout, const Strided& t, int64_t col, int64_t cols, Visit visit) {
  const int inner = layout.ndim - 1;
  int64_t index[kMaxDims];
  int64_t rest = col;
  for (int d = inner; d >= 0; --d) {
    index[d] = rest % layout.sizes[d];
    rest /= layout.sizes[d];
  }
  for (int64_t done = 0; done < cols;) {
    int64_t offset = 0;
    for (int d = 0; d <= inner; ++d) offset += index[d] * t.strides[d];
    const int64_t left = layout.sizes[inner] - index[inner];
    const int64_t run = left < cols - done ? left : cols - done;
    visit(offset, done, run, t.strides[inner]);
    done += run;
    index[inner] = 0;
    for (int d = inner - 1; d >= 0; --d) {
      if (++index[d] < layout.sizes[d]) break;
      index[d] = 0;
    }
  }
}

template <class S, class T>
SIVAE_OUT_OF_LINE void gather(const Layout& layout, const Strided& t, const Piece& p, T* buffer) {
  for (int64_t r = 0; r < p.rows; ++r) {
    const S* row = static_cast<const S*>(t.data) + (p.row + r) * t.row_stride;
    T* out = buffer + r * p.cols;
    for_each_run(layout, t, p.col, p.cols, [&](int64_t offset, int64_t at, int64_t run, int64_t stride) {
      for (int64_t i = 0; i < run; ++i) out[at + i] = widen(row[offset + i * stride]);
    });
  }
}

template <class S, class T>
SIVAE_OUT_OF_LINE void scatter(const Layout& layout, const Strided& t, const Piece& p, const T* values) {
  for (int64_t r = 0; r < p.rows; ++r) {
    S* row = static_cast<S*>(t.data) + (p.row + r) * t.row_stride;
    const T* in = values + r * p.cols;
    for_each_run(layout, t, p.col, p.cols, [&](int64_t offset, int64_t at, int64_t run, int64_t stride) {
      for (int64_t i = 0; i < run; ++i) narrow(in[at + i], row[offset + i * stride]);
    });
  }
}

constexpr int64_t kLine = 64;  // bytes of a cache line

// Bytes to prefetch ahead in a run. The processor's own prefetcher stops at the end of a page, and waits for a few reads
// of the next one.
constexpr int64_t kBytesAhead = 2048;

// Prefetches what comes kBytesAhead after `count` elements, line by line. It may go past a run's end: prefetching an
// invalid address does nothing.
template <class S>
SIVAE_HD void prefetch_ahead(const S* run, int64_t count) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(run) + kBytesAhead;
  for (uintptr_t at = 0; at < count * sizeof(S); at += kLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(first + at));
  }
}

template <class S, class T>
SIVAE_OUT_OF_LINE void widen_run(const S* in, T* out, int64_t count) {
  constexpr int64_t kInLine = kLine / sizeof(S);
  int64_t i = 0;
  for (; i + kInLine <= count; i += kInLine) {
    prefetch_ahead(in + i, kInLine);
#pragma omp simd
    for (int64_t j = 0; j < kInLine; ++j) out[i + j] = widen(in[i + j]);
  }
#pragma omp simd
  for (int64_t j = i; j < count; ++j) out[j] = widen(in[j]);
}

template <class S, class T>
SIVAE_OUT_OF_LINE void narrow_run(const T* in, S* out, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) narrow(in[i], out[i]);
}

// The piece as a run of T: in place where memory already is one, else gathered into `buffer`.
template <class S, class T>
SIVAE_HD const T* load(const Layout& layout, const Strided& t, const Piece& p, T* buffer) {
  const S* run = dense_run<const S>(layout, t, p);
  if (run == nullptr) {
    gather<S>(layout, t, p, buffer);
    return buffer;
  }
  if constexpr (sizeof(S) == sizeof(T)) {
    return run;
  } else {
    widen_run(run, buffer, p.rows * p.cols);
    return buffer;
  }
}

// The same for pieces that are read in the order of memory: prefetches the ones after it.
template <class S, class T>
SIVAE_HD const T* load_in_turn(const Layout& layout, const Strided& t, const Piece& p, T* buffer) {
  const T* values = load<S>(layout, t, p, buffer);
  if constexpr (sizeof(S) == sizeof(T)) {  // else `widen_run` does
    if (values != buffer) prefetch_ahead(values, p.rows * p.cols);
  }
  return values;
}

// Writes a tile past the caches, without first reading the lines that it overwrites. For a result larger than the cache
// this saves a quarter of the traffic. Elements that are not aligned to a register are written normally.
template <class S>
SIVAE_HD void stream_tile(const S* tile, S* out, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  using Register = __m512i;
  const auto stream = [](Register* to, const S* from) { _mm512_stream_si512(to, _mm512_loadu_si512(from)); };
#elif defined(__AVX__)
  using Register = __m256i;
  const auto stream = [](Register* to, const S* from) {
    _mm256_stream_si256(to, _mm256_loadu_si256(reinterpret_cast<const Register*>(from)));
  };
#elif defined(__SSE2__)
  using Register = __m128i;
  const auto stream = [](Register* to, const S* from) {
    _mm_stream_si128(to, _mm_loadu_si128(reinterpret_cast<const Register*>(from)));
  };
#endif
#if defined(__SSE2__)
  constexpr int64_t kLanes = sizeof(Register) / sizeof(S);
  if (reinterpret_cast<uintptr_t>(out) % sizeof(Register) == 0) {
    for (; i + kLanes <= count; i += kLanes) stream(reinterpret_cast<Register*>(out + i), tile + i);
  }
#endif
  for (; i < count; ++i) out[i] = tile[i];
}

// Completes streamed stores before later stores, which tell other threads that they are done.
SIVAE_HD void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Elements from the start of a cache line to where the run starts.
template <class S>
SIVAE_HD int64_t past_line(const S* run) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(run) % kLine / sizeof(S));
}

// Writes the results of compute(at, count, S* tile) for the elements from `at` on past the caches. Tiles are small, so
// that the processor reads for the next one while it writes this one. Call stream_fence() after a thread's last call.
template <class S, class Compute>
SIVAE_HD void stream_computed(S* out, int64_t count, Compute compute) {
  constexpr int64_t kTile = 128;
  alignas(kLine) S tile[kTile];
  int64_t size = kTile - past_line(out);  // the first ends with a line
  for (int64_t at = 0; at < count; at += size, size = kTile) {
    if (size > count - at) size = count - at;
    compute(at, size, tile);
    stream_tile(tile, out + at, size);
  }
}

// The place to write results of the piece as a run of T: memory itself, or `buffer`, which `store` then distributes.
template <class S, class T>
SIVAE_HD T* place_for(const Layout& layout, const Strided& t, const Piece& p, T* buffer) {
  if constexpr (sizeof(S) == sizeof(T)) {
    S* run = dense_run<S>(layout, t, p);
    if (run != nullptr) return run;
  }
  return buffer;
}

// Stores results that were written to `place_for`.
template <class S, class T>
SIVAE_HD void store(const Layout& layout, const Strided& t, const Piece& p, const T* values) {
  S* run = dense_run<S>(layout, t, p);
  if (run == nullptr) return scatter<S>(layout, t, p, values);
  if constexpr (sizeof(S) != sizeof(T)) narrow_run(values, run, p.rows * p.cols);
}

// Writes the results of compute(at, count, T* to) for the elements of the piece from `at` on; past the caches where
// `stream` is set and the piece is one run of memory. Both ways give the same bits: a loop may round its last elements
// differently, so it is cut only where whole vectors end.
template <class S, class T, class Compute>
SIVAE_HD void write_piece(const Layout& layout, const Strided& t, const Piece& p, T* buffer, bool stream,
                          Compute compute) {
  const int64_t count = p.rows * p.cols;
  S* run = stream ? dense_run<S>(layout, t, p) : nullptr;
  if (run == nullptr) {
    T* out = place_for<S>(layout, t, p, buffer);
    compute(0, count, out);
    store<S>(layout, t, p, out);
  } else if (sizeof(S) == sizeof(T) && past_line(run) == 0) {
    if constexpr (sizeof(S) == sizeof(T)) stream_computed(run, count, compute);
  } else {
    compute(0, count, buffer);
    stream_computed(run, count, [&](int64_t at, int64_t size, S* to) { narrow_run(buffer + at, to, size); });
  }
}

}  // namespace sivae::cpu
