// Turn the tensors of a call into arguments of kernels, and check that no kernel can read outside them.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>
#include <optional>

#include "arguments.h"
#include "layout.h"

namespace sivae {

at::ScalarType sum_dtype(at::ScalarType dtype);

// Memory for an op's sums over the rows of `like`: [B], or with a reduction (1: mean, 2: sum) a scalar.
at::Tensor empty_sums(const at::Tensor& like, int64_t reduction);

// The tensor, or an undefined one where there is none.
inline at::Tensor given(const std::optional<at::Tensor>& tensor) { return tensor.value_or(at::Tensor()); }

inline const at::Tensor* if_needed(const at::Tensor& tensor, bool needed) { return needed ? &tensor : nullptr; }

// Throws unless the tensor has that shape and is on the device of `like`.
void check_operand(const char* name, const at::Tensor& tensor, const at::Tensor& like, at::IntArrayRef shape);

void check_images(const at::Tensor& x);

struct Operand {
  const at::Tensor* tensor;  // null or undefined where absent
  Strided* strided;
  bool written = false;  // false: an input, whose copy-on-write tensor must not be copied
};

// The layout that all present operands (of one shape, [B, ...]) share, with their strides filled in. With
// `any_order` the elements of a sample may be visited in the first operand's memory order instead of the logical one.
Layout share_layout(std::initializer_list<Operand> operands, bool any_order);

inline bool is_seed(const at::Tensor& noise) { return noise.scalar_type() == at::kLong; }

const int64_t* seed_of(const at::Tensor& seed, const at::Device& device);

// The seed and offset of the noise, or empty where the noise is explicit: share_layout fills in its eps.
Noise noise_of(const at::Tensor& noise, int64_t offset, const at::Tensor& like);

// The gradient of an op's sums over the rows of `like`, checked; it has the shape that empty_sums gives.
RowGradient row_gradient_of(const at::Tensor& grad, const at::Tensor& like, int64_t reduction);

}  // namespace sivae
