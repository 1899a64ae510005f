#include "operands.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace sivae {

at::ScalarType sum_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor empty_sums(const at::Tensor& like, int64_t reduction) {
  const auto options = like.options().dtype(sum_dtype(like.scalar_type()));
  return reduction == 0 ? at::empty({like.size(0)}, options) : at::empty({}, options);
}

void check_operand(const char* name, const at::Tensor& tensor, const at::Tensor& like, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, "sivae: ", name, " has shape ", tensor.sizes(), ", expected ", shape);
  TORCH_CHECK_VALUE(tensor.device() == like.device(), "sivae: ", name, " is on ", tensor.device(), ", expected ",
                    like.device());
}

void check_images(const at::Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4, "sivae: x has shape ", x.sizes(), ", expected [B, C, H, W]");
}

Layout share_layout(std::initializer_list<Operand> operands, bool any_order) {
  std::vector<Operand> present;
  for (const Operand& operand : operands) {
    if (operand.tensor != nullptr && operand.tensor->defined()) present.push_back(operand);
  }
  const at::Tensor& first = *present.front().tensor;
  TORCH_CHECK_VALUE(first.dim() > 0, "sivae: operands have no dimensions, expected the batch first: [B, ...]");
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

const int64_t* seed_of(const at::Tensor& seed, const at::Device& device) {
  TORCH_CHECK_VALUE(is_seed(seed) && seed.numel() == 1, "sivae: a seed is one int64 element");
  TORCH_CHECK_VALUE(seed.device() == device, "sivae: the seed is on ", seed.device(), ", expected ", device);
  return seed.const_data_ptr<int64_t>();
}

Noise noise_of(const at::Tensor& noise, int64_t offset, const at::Tensor& like) {
  Noise result;
  if (is_seed(noise)) {
    result.seed = seed_of(noise, like.device());
    result.offset = static_cast<uint64_t>(offset);
  }
  return result;
}

RowGradient row_gradient_of(const at::Tensor& grad, const at::Tensor& like, int64_t reduction) {
  const int64_t rows = like.size(0);
  TORCH_CHECK_TYPE(grad.scalar_type() == sum_dtype(like.scalar_type()), "sivae: the gradient of a sum has dtype ",
                   grad.scalar_type(), ", expected ", sum_dtype(like.scalar_type()));
  TORCH_CHECK_VALUE(grad.device() == like.device(), "sivae: the gradient of a sum is on ", grad.device(), ", expected ",
                    like.device());
  const at::IntArrayRef expected = reduction == 0 ? like.sizes().slice(0, 1) : at::IntArrayRef();
  TORCH_CHECK_VALUE(grad.sizes() == expected, "sivae: the gradient of a sum has shape ", grad.sizes(), ", expected ",
                    expected);
  return {grad.const_data_ptr(), reduction == 0 ? grad.stride(0) : 0,
          reduction == 1 ? 1.0 / static_cast<double>(rows) : 1.0};
}

}  // namespace sivae
