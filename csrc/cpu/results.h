// Memory for the CPU kernels' results, and the sums of each sample.
#pragma once

#include <ATen/ATen.h>

#include <memory>

namespace sivae::cpu {

// Results from this size on are written past the caches, which could not hold them anyway.
constexpr size_t kStreamBytes = size_t{8} << 20;

// An uninitialised result of `like`'s dtype and shape (empty_like's strides); a large one in `large_blocks`.
at::Tensor empty_result(const at::Tensor& like);

// The sum of `count` numbers, `stride` apart. Halves are added in pairs, so that rounding errors grow with the logarithm
// of the count.
double sum_in_pairs(const double* values, int64_t count, int64_t stride = 1);

// One double per segment of each row, in a fixed order.
class PartialSums {
 public:
  PartialSums(const at::Tensor& like, int64_t per_row, int64_t reduction)
      : like_(like), per_row_(per_row), reduction_(reduction), values_(new double[like.size(0) * per_row]()) {}
  double* data() const { return values_.get(); }
  // The sums as an op returns them (see empty_sums).
  at::Tensor finish() const;

 private:
  at::Tensor like_;
  int64_t per_row_, reduction_;
  std::unique_ptr<double[]> values_;
};

}  // namespace sivae::cpu
