// Where the CPU kernels' results go, and the per-sample sums.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "kernels.h"

namespace sivae::cpu {

// A result from this size on is written past the caches, which would not hold it for its reader anyway.
constexpr size_t kStreamBytes = size_t{8} << 20;

// An uninitialised result of `like`'s dtype and shape (empty_like's strides); a large one in `large_blocks`.
at::Tensor empty_result(const at::Tensor& like);

// One double per segment of each row, in a fixed order.
class PartialSums {
 public:
  PartialSums(const Layout& layout, const Segments& segments)
      : rows_(layout.rows), per_row_(segments.per_row), values_(new double[rows_ * per_row_]()) {}
  double* data() { return values_.get(); }
  // [B] or, reduced (1: mean, 2: sum), a scalar.
  at::Tensor finish(int64_t reduction, const at::Tensor& like) const;

 private:
  int64_t rows_, per_row_;
  std::unique_ptr<double[]> values_;
};

// The gradient that reaches each sample's sum, [rows].
std::vector<double> per_sample_gradient(const at::Tensor& grad, int64_t rows, int64_t reduction);

}  // namespace sivae::cpu
