#include "results.h"

#include <sys/mman.h>

#include <cstdint>
#include <numeric>

#include "../operands.h"

namespace sivae::cpu {

at::Tensor empty_result(const at::Tensor& like) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  at::Tensor result = at::empty_like(like);
#if defined(MADV_HUGEPAGE)
  if (result.nbytes() >= 2 * kHugePage) {
    const auto start = reinterpret_cast<uintptr_t>(result.data_ptr());
    const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t last = (start + result.nbytes()) / kHugePage * kHugePage;
    // Advice only: where the kernel does not take it, nothing changes.
    if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return result;
}

at::Tensor PartialSums::finish(int64_t reduction, const at::Tensor& like) const {
  const auto options = like.options().dtype(sum_dtype(like.scalar_type()));
  at::Tensor out = reduction == 0 ? at::empty({rows_}, options) : at::empty({}, options);
  const auto row_sum = [&](int64_t row) {
    const double* begin = values_.get() + row * per_row_;
    return std::accumulate(begin, begin + per_row_, 0.0);
  };
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "finish", [&] {
    scalar_t* data = out.data_ptr<scalar_t>();
    if (reduction == 0) {
      for (int64_t row = 0; row < rows_; ++row) data[row] = static_cast<scalar_t>(row_sum(row));
      return;
    }
    double total = 0.0;
    for (int64_t row = 0; row < rows_; ++row) total += row_sum(row);
    const bool mean = reduction == 1;
    data[0] = static_cast<scalar_t>(mean ? total / static_cast<double>(rows_) : total);  // 0 / 0 of no samples is NaN
  });
  return out;
}

std::vector<double> per_sample_gradient(const at::Tensor& grad, int64_t rows, int64_t reduction) {
  std::vector<double> weights(rows);
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "per_sample_gradient", [&] {
    const scalar_t* data = grad.const_data_ptr<scalar_t>();
    const int64_t stride = reduction == 0 ? grad.stride(0) : 0;
    const double share = reduction == 1 ? 1.0 / static_cast<double>(rows) : 1.0;
    for (int64_t row = 0; row < rows; ++row) weights[row] = static_cast<double>(data[row * stride]) * share;
  });
  return weights;
}

}  // namespace sivae::cpu
