// The storage types of the kernels on every device; no torch header.
#pragma once

namespace sivae {

enum class DType : int { kFloat64, kFloat32, kBFloat16, kFloat16 };

}  // namespace sivae
