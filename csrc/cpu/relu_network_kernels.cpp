// The parts of a fully connected network with ReLU that are no products of large matrices. Compiled per instruction set.
#include "relu_network.h"

#include "isa.h"
#include "vector_lanes.h"

namespace sivae::cpu::SIVAE_ISA {
namespace {

constexpr int kFloats = kLanes<float>;
constexpr int kBlock = 16;  // side of a block of words that is transposed at a time
// Widths and pads are whole registers.
static_assert(kNetworkPad % kFloats == 0 && kNetworkPad % kBlock == 0);

using Floats = Lanes<float>;

// Registers side by side, so that a sum does not wait for the one before.
constexpr int kGroup = kNetworkPad / kFloats;
struct Group {
  Floats each[kGroup]{};
  template <class S>
  SIVAE_HD_MEMBER void add(float factor, const S* values) {
    SIVAE_UNROLL for (int i = 0; i < kGroup; ++i) each[i] += factor * load<float>(values + i * kFloats);
  }
  SIVAE_HD_MEMBER void write(float* to) const {
    SIVAE_UNROLL for (int i = 0; i < kGroup; ++i) store<float>(each[i], to + i * kFloats);
  }
};

SIVAE_HD Words rounded_bits(const Floats& x) {
  const Words bits = reinterpret_cast<Words>(x);
  return x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : Words{} + 0x7fc00000u;
}

SIVAE_HD Words pair_of(const Words& low, const Words& high) { return (low >> 16) | (high & 0xffff0000u); }

SIVAE_HD Words bits_at(const float* x) { return rounded_bits(load<float>(x)); }
SIVAE_HD Words bits_at(const BFloat16* x) { return reinterpret_cast<Words>(load<float>(x)); }

template <class S>
void pair_rows_of(const S* x, int64_t rows, int64_t columns, uint32_t* words) {
  for (int64_t row = 0; row < rows; row += 2, x += 2 * columns, words += columns) {
    const bool both = row + 1 < rows;
    for (int64_t c = 0; c < columns; c += kFloats) {
      const Words word = pair_of(bits_at(x + c), both ? bits_at(x + columns + c) : Words{});
      memcpy(words + c, &word, sizeof word);
    }
  }
}

using Block = uint32_t __attribute__((vector_size(kBlock * sizeof(uint32_t))));

// Swaps halves of size `Size` between rows that are `Size` apart.
template <int Size>
SIVAE_HD void swap_halves(Block (&rows)[kBlock]) {
#if defined(__clang__)  // which has no __builtin_shuffle, and finds the permutations itself
  for (int i = 0; i < kBlock; ++i) {
    if ((i & Size) != 0) continue;
    const Block a = rows[i], b = rows[i + Size];
    for (int k = 0; k < kBlock; ++k) {
      rows[i][k] = (k & Size) == 0 ? a[k] : b[k - Size];
      rows[i + Size][k] = (k & Size) == 0 ? a[k + Size] : b[k];
    }
  }
#else
  Block low, high;
  for (int i = 0; i < kBlock; ++i) {
    const bool first = (i & Size) == 0;
    low[i] = static_cast<uint32_t>(first ? i : i - Size + kBlock);
    high[i] = static_cast<uint32_t>(first ? i + Size : i + kBlock);
  }
  SIVAE_UNROLL for (int i = 0; i < kBlock; ++i) {
    if ((i & Size) != 0) continue;
    const Block a = rows[i], b = rows[i + Size];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + Size] = __builtin_shuffle(a, b, high);
  }
#endif
}

SIVAE_HD void transpose_block(Block (&rows)[kBlock]) {
  swap_halves<8>(rows);
  swap_halves<4>(rows);
  swap_halves<2>(rows);
  swap_halves<1>(rows);
}

SIVAE_HD void write_block(const Block (&rows)[kBlock], uint32_t* to, int64_t stride) {
  SIVAE_UNROLL for (int i = 0; i < kBlock; ++i) memcpy(to + i * stride, &rows[i], sizeof(Block));
}

void pair_rows(const float* x, int64_t rows, int64_t columns, uint32_t* words) {
  pair_rows_of(x, rows, columns, words);
}

void pair_half_rows(const BFloat16* x, int64_t rows, int64_t columns, uint32_t* words) {
  pair_rows_of(x, rows, columns, words);
}

void pair_columns(const float* x, int64_t rows, int64_t columns, uint32_t* words) {
  for (int64_t r = 0; r < rows; r += kBlock) {
    for (int64_t c = 0; c < columns; c += 2 * kBlock) {
      Block block[kBlock];
      for (int i = 0; i < kBlock; ++i) {
        BFloat16 halves[2 * kBlock];
        const float* from = x + (r + i) * columns + c;
        for (int k = 0; k < 2 * kBlock; k += kFloats) store<float>(load<float>(from + k), halves + k);
        memcpy(&block[i], halves, sizeof(Block));
      }
      transpose_block(block);
      write_block(block, words + c / 2 * rows + r, rows);
    }
  }
}

void transpose(const uint32_t* x, int64_t rows, int64_t columns, uint32_t* out) {
  for (int64_t r = 0; r < rows; r += kBlock) {
    for (int64_t c = 0; c < columns; c += kBlock) {
      Block block[kBlock];
      SIVAE_UNROLL for (int i = 0; i < kBlock; ++i) memcpy(&block[i], x + (r + i) * columns + c, sizeof(Block));
      transpose_block(block);
      write_block(block, out + c * rows + r, rows);
    }
  }
}

// A NaN stays one.
SIVAE_HD Floats relu(const Floats& x) { return x < 0.0f ? Floats{} : x; }

void add_relu(const float* sums, const float* bias, int64_t rows, int64_t width, BFloat16* hidden) {
  for (int64_t row = 0; row < rows; ++row, sums += width, hidden += width) {
    for (int64_t c = 0; c < width; c += kFloats) {
      store<float>(relu(load<float>(sums + c) + load<float>(bias + c)), hidden + c);
    }
  }
}

// Where the output is NaN, the gradient passes, as in torch.
SIVAE_HD Floats passed(const Floats& grad, const Floats& hidden) { return hidden <= 0.0f ? Floats{} : grad; }

void relu_gradient(const float* grad, const BFloat16* hidden, int64_t rows, int64_t width, BFloat16* out) {
  for (int64_t at = 0; at < rows * width; at += kFloats) {
    store<float>(passed(load<float>(grad + at), load<float>(hidden + at)), out + at);
  }
}

void column_sums(const BFloat16* x, int64_t rows, int64_t columns, float* sums) {
  for (int64_t c = 0; c < columns; c += kNetworkPad) {
    Group total;
    for (int64_t row = 0; row < rows; ++row) total.add(1.0f, x + row * columns + c);
    total.write(sums + c);
  }
}

void first(const float* x, const float* weight, const float* bias, int64_t rows, int64_t in, int64_t width,
                  BFloat16* hidden) {
  for (int64_t c = 0; c < width; c += kFloats) {
    const Floats start = load<float>(bias + c);
    for (int64_t row = 0; row < rows; ++row) {
      Floats sum = start;
      for (int64_t k = 0; k < in; ++k) sum += x[row * in + k] * load<float>(weight + k * width + c);
      store<float>(relu(sum), hidden + row * width + c);
    }
  }
}

void first_weight_gradient(const BFloat16* grad, const float* x, int64_t rows, int64_t in, int64_t width, float* out) {
  for (int64_t k = 0; k < in; ++k) {
    for (int64_t c = 0; c < width; c += kNetworkPad) {
      Group total;
      for (int64_t row = 0; row < rows; ++row) total.add(x[row * in + k], grad + row * width + c);
      float of_inputs[kNetworkPad];
      total.write(of_inputs);
      for (int64_t i = 0; i < kNetworkPad; ++i) out[(c + i) * in + k] = of_inputs[i];
    }
  }
}

SIVAE_HD float dot(const BFloat16* x, const float* y, int64_t count) {
  Group sums;
  for (int64_t at = 0; at < count; at += kNetworkPad) {
    SIVAE_UNROLL for (int i = 0; i < kGroup; ++i) {
      sums.each[i] += load<float>(x + at + i * kFloats) * load<float>(y + at + i * kFloats);
    }
  }
  Floats total{};
  SIVAE_UNROLL for (const Floats& each : sums.each) total += each;
  float lanes[kFloats];
  store<float>(total, lanes);
  SIVAE_UNROLL for (int half = kFloats / 2; half > 0; half /= 2) {
    SIVAE_UNROLL for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void first_input_gradient(const BFloat16* grad, const float* weight, int64_t rows, int64_t in, int64_t width,
                                 float* out) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < in; ++k) out[row * in + k] = dot(grad + row * width, weight + k * width, width);
  }
}

void last(const BFloat16* hidden, const float* weight, const float* bias, int64_t rows, int64_t width,
                 int64_t out, float* y) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < out; ++k) {
      y[row * out + k] = dot(hidden + row * width, weight + k * width, width) + bias[k];
    }
  }
}

void last_weight_gradient(const float* grad, const BFloat16* hidden, int64_t rows, int64_t width, int64_t out,
                                 float* of_weight, float* of_bias) {
  for (int64_t k = 0; k < out; ++k) {
    for (int64_t c = 0; c < width; c += kNetworkPad) {
      Group total;
      for (int64_t row = 0; row < rows; ++row) total.add(grad[row * out + k], hidden + row * width + c);
      total.write(of_weight + k * width + c);
    }
    of_bias[k] = 0.0f;
    for (int64_t row = 0; row < rows; ++row) of_bias[k] += grad[row * out + k];
  }
}

void last_input_gradient(const float* grad, const float* weight, const BFloat16* hidden, int64_t rows,
                                int64_t width, int64_t out, BFloat16* of_hidden) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < width; c += kFloats) {
      Floats total{};
      for (int64_t k = 0; k < out; ++k) total += grad[row * out + k] * load<float>(weight + k * width + c);
      const int64_t at = row * width + c;
      store<float>(passed(total, load<float>(hidden + at)), of_hidden + at);
    }
  }
}

}  // namespace

const ReluNetworkKernels relu_network{
    pair_rows, pair_half_rows, pair_columns,          transpose,            add_relu, relu_gradient,        column_sums,
    first,     first_weight_gradient, first_input_gradient, last,     last_weight_gradient, last_input_gradient};

}  // namespace sivae::cpu::SIVAE_ISA
