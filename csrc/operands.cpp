#include "operands.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sivae {

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
    TORCH_CHECK_VALUE(operand.tensor->device() == first.device(), "sivae: operands are on ", first.device(), " and ",
                      operand.tensor->device(), ", expected one device");
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

}  // namespace sivae
