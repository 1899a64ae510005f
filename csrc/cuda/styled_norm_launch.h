// The functions that launch the styled instance norm; launch.h has the conventions.
//
// Large planes are cut into segments. The kernels' results for segments are [B, segments, C], of double for float64
// tensors and of float for all others, like the plane's statistics and their gradients.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../platform.h"

namespace sivae::cuda {

// [B, C, H, W] in memory, its strides in elements.
struct Images {
  void* data = nullptr;  // null: absent
  int64_t batch = 0, channel = 0, row = 0, column = 0;
};

// [B, C], or [C] with batch = 0.
struct Parameter {
  const void* data = nullptr;  // null: absent
  int64_t batch = 0, channel = 0;
  bool is_float = false;  // else the images' dtype
};

// [B, C] or [C], contiguous.
struct ParameterGradient {
  void* data = nullptr;  // null: not needed
  bool is_float = false;
};

struct StyledNorm {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  Images x{};
  Images noise{};  // one channel; batch = 0 where the samples share it
  bool noise_is_float = false;
  Parameter noise_weight{}, bias{}, scale{};
  double negative_slope = 0.0, eps = 0.0;
};

struct StyledNormForward {
  StyledNorm norm{};
  Parameter shift{};
  Images y{};
  void* mean = nullptr;  // [B, C]
  void* std = nullptr;   // [B, C]
  // With more than one segment: the mean of each, its rounding error, and the sum of squared deviations from it; and
  // the rounding error of the whole plane's mean, [B, C].
  void* segment_mean = nullptr;
  void* segment_rest = nullptr;
  void* segment_squares = nullptr;
  void* rest = nullptr;
};

struct StyledNormBackward {
  StyledNorm norm{};
  Images grad_y{};                    // absent: y has no gradient
  Parameter grad_mean{}, grad_std{};  // absent where there is none; of the statistics' dtype
  const void* mean = nullptr;
  const void* std = nullptr;
  Images grad_x{};  // absent where not needed, as the next
  ParameterGradient grad_noise_weight{}, grad_bias{}, grad_scale{}, grad_shift{};
  // With more than one segment: sums of g and of g times the normalised u, over each segment and over the whole plane.
  void* segment_sums[2] = {};
  void* plane_sums[2] = {};
  // Sums over each segment of the gradient by x, and of it times the noise: for grad_bias and grad_noise_weight.
  void* segment_grads[2] = {};

  // Whether the gradient by x is computed, if only for its sum.
  SIVAE_HD_MEMBER bool needs_elements() const {
    return grad_x.data != nullptr || segment_grads[0] != nullptr || segment_grads[1] != nullptr;
  }
};

// They depend only on shape and layout.
int64_t segments_of(const StyledNormForward& args);
int64_t segments_of(const StyledNormBackward& args);

int launch_styled_norm_forward(const StyledNormForward& args, uint64_t stream);
int launch_styled_norm_backward(const StyledNormBackward& args, uint64_t stream);

}  // namespace sivae::cuda
