#include "operands.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

namespace sivae::cpu {

at::ScalarType sum_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

Layout share_layout(std::initializer_list<Operand> operands, bool any_order) {
  std::vector<Operand> present;
  for (const Operand& operand : operands) {
    if (operand.tensor != nullptr && operand.tensor->defined()) present.push_back(operand);
  }
  const at::Tensor& first = *present.front().tensor;
  for (const Operand& operand : present) {
    TORCH_CHECK_VALUE(operand.tensor->sizes() == first.sizes(), "sivae: operands have shapes ", first.sizes(),
                      " and ", operand.tensor->sizes(), ", expected one shape");
    TORCH_CHECK_TYPE(operand.tensor->scalar_type() == first.scalar_type(), "sivae: operands have dtypes ",
                     first.scalar_type(), " and ", operand.tensor->scalar_type(), ", expected one dtype");
    TORCH_CHECK_VALUE(operand.tensor->device().is_cpu(), "sivae: an operand is on ", operand.tensor->device(),
                      ", expected cpu");
    operand.strided->data =
        operand.written ? operand.tensor->mutable_data_ptr() : const_cast<void*>(operand.tensor->const_data_ptr());
    operand.strided->row_stride = operand.tensor->stride(0);
  }
  Layout layout;
  layout.rows = first.size(0);

  std::vector<int64_t> dims;
  for (int64_t d = 1; d < first.dim(); ++d) {
    layout.cols *= first.size(d);
    if (first.size(d) != 1) dims.push_back(d);
  }
  if (any_order) {
    std::stable_sort(dims.begin(), dims.end(), [&](int64_t a, int64_t b) { return first.stride(a) > first.stride(b); });
  }
  layout.ndim = 0;
  for (int64_t d : dims) {
    bool joins = layout.ndim > 0;
    for (const Operand& operand : present) {
      joins = joins && operand.strided->strides[layout.ndim - 1] == operand.tensor->stride(d) * first.size(d);
    }
    if (!joins) {
      TORCH_CHECK_VALUE(layout.ndim < kMaxDims, "sivae: more than ", kMaxDims, " dimensions that do not coalesce");
      layout.sizes[layout.ndim++] = 1;
    }
    layout.sizes[layout.ndim - 1] *= first.size(d);
    for (const Operand& operand : present) operand.strided->strides[layout.ndim - 1] = operand.tensor->stride(d);
  }
  layout.ndim = std::max(layout.ndim, 1);
  return layout;
}

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
