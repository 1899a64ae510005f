// The parts of a fully connected network with ReLU that are no products of large matrices, as the torch side sees them.
#pragma once

#include <cstdint>

#include "dtypes.h"

namespace sivae::cpu {

// Rows of a batch that pass all layers together. The height of a product by which AMX is fastest.
constexpr int64_t kNetworkRows = 32;
// Widths of hidden layers are multiples of this, and so are padded batches.
constexpr int64_t kNetworkPad = 32;
// The most values that go into and come out of a network.
constexpr int64_t kNetworkEnds = 32;

// All matrices are dense, row by row. A word holds two bfloat16 numbers, the first one in its low half: the right factor
// of a product has its rows in pairs, [rows / 2, columns] of words.
struct ReluNetworkKernels {
  // Rows 2j and 2j + 1 of x [rows, columns]. A missing last row is 0.
  void (*pair_rows)(const float* x, int64_t rows, int64_t columns, uint32_t* words);
  void (*pair_half_rows)(const BFloat16* x, int64_t rows, int64_t columns, uint32_t* words);
  // Columns 2j and 2j + 1 of x [rows, columns]: the pairs of rows of its transpose.
  void (*pair_columns)(const float* x, int64_t rows, int64_t columns, uint32_t* words);
  // x [rows, columns], both multiples of 16, to [columns, rows].
  void (*transpose)(const uint32_t* x, int64_t rows, int64_t columns, uint32_t* out);

  // relu(sums + bias), [rows, width].
  void (*add_relu)(const float* sums, const float* bias, int64_t rows, int64_t width, BFloat16* hidden);
  // The gradient before a ReLU: 0 where its output was 0 or less.
  void (*relu_gradient)(const float* grad, const BFloat16* hidden, int64_t rows, int64_t width, BFloat16* out);
  void (*column_sums)(const BFloat16* x, int64_t rows, int64_t columns, float* sums);

  // The first layer, from x [rows, in]; the weight is transposed, [in, width], but its gradient is not.
  void (*first)(const float* x, const float* weight, const float* bias, int64_t rows, int64_t in, int64_t width,
                BFloat16* hidden);
  void (*first_weight_gradient)(const BFloat16* grad, const float* x, int64_t rows, int64_t in, int64_t width,
                                float* out);
  void (*first_input_gradient)(const BFloat16* grad, const float* weight, int64_t rows, int64_t in, int64_t width,
                               float* out);
  // The last layer, to y [rows, out]; the weight is [out, width].
  void (*last)(const BFloat16* hidden, const float* weight, const float* bias, int64_t rows, int64_t width, int64_t out,
               float* y);
  void (*last_weight_gradient)(const float* grad, const BFloat16* hidden, int64_t rows, int64_t width, int64_t out,
                               float* of_weight, float* of_bias);
  // Through the ReLU before the layer, too.
  void (*last_input_gradient)(const float* grad, const float* weight, const BFloat16* hidden, int64_t rows,
                              int64_t width, int64_t out, BFloat16* of_hidden);
};

}  // namespace sivae::cpu
