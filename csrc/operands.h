// From tensors to the layout that the kernels of every device read.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>

#include "layout.h"

namespace sivae {

at::ScalarType sum_dtype(at::ScalarType dtype);

struct Operand {
  const at::Tensor* tensor;  // null or undefined: absent
  Strided* strided;
  bool written = false;  // an input is only ever read: a copy-on-write tensor stays one
};

// The layout that all present operands (of one shape, [B, ...]) share, with their strides filled in. With
// `any_order` the elements of a sample may be visited in the first operand's memory order instead of the logical one.
Layout share_layout(std::initializer_list<Operand> operands, bool any_order);

}  // namespace sivae
