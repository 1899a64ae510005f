// Convert torch's dtypes to the kernels'.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include "dtype.h"

namespace sivae {

inline DType dtype_of(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Double: return DType::kFloat64;
    case c10::ScalarType::Float: return DType::kFloat32;
    case c10::ScalarType::BFloat16: return DType::kBFloat16;
    case c10::ScalarType::Half: return DType::kFloat16;
    default: TORCH_CHECK_TYPE(false, "sivae: dtype ", dtype, " is not supported");
  }
}

}  // namespace sivae
