// Launchers that the sources of the styled instance norm share.
#pragma once

#include <cstdint>

#include "styled_norm_launch.h"

namespace sivae::cuda {

int64_t plane_segments_of(const StyledNormForward& args);
int64_t plane_segments_of(const StyledNormBackward& args);
int64_t pixel_segments_of(const StyledNormForward& args);
int64_t pixel_segments_of(const StyledNormBackward& args);

int launch_planes_forward(const StyledNormForward& args, uint64_t stream);
int launch_planes_backward(const StyledNormBackward& args, uint64_t stream);
int launch_pixels_forward(const StyledNormForward& args, uint64_t stream);
int launch_pixels_backward(const StyledNormBackward& args, uint64_t stream);

// Mean and standard deviation of planes, from their segments of `elements` pixels (the last one may have fewer).
int launch_merge_moments(const StyledNormForward& args, int64_t segments, int64_t elements, uint64_t stream);

// The sums over the segments: plane_sums, grad_shift and grad_scale.
int launch_finish_planes(const StyledNormBackward& args, int64_t segments, uint64_t stream);

// The sums over the segments and the batch: grad_bias and grad_noise_weight.
int launch_finish_channels(const StyledNormBackward& args, int64_t segments, uint64_t stream);

}  // namespace sivae::cuda
