// The functions that launch group norm with an activation; launch.h has the conventions.
#pragma once

#include <cstdint>

#include "../arguments.h"
#include "divisor.h"

namespace sivae::cuda {

// [B, C, pixels], with strides in elements.
struct PixelImages {
  void* data = nullptr;
  int64_t batch = 0, channel = 0, pixel = 0;
};

// A block of threads is a tile of channels by pixels, and passes by `pixels_each` pixels. The cut depends on the shape
// and the layout alone, and so do the bits of sums.
struct GroupNormCut {
  int64_t batch = 0, channels = 0, groups = 0, pixels = 0;
  int channels_log2 = 0;         // channels of a tile
  bool channels_first = false;   // neighboring threads have neighboring channels, else neighboring pixels
  int64_t channel_tiles = 1, splits = 1, pixels_each = 0;
  Divisor by_channel_tiles{1}, by_splits{1}, by_group_channels{1};

  GroupNormCut() = default;
  GroupNormCut(int64_t batch, int64_t channels, int64_t groups, int64_t pixels, bool channels_first);

  int64_t blocks() const { return batch * splits * channel_tiles; }
  SIVAE_HD_MEMBER int64_t group_channels() const { return channels / groups; }
};

struct GroupNormCall {
  DType dtype = DType::kFloat32;
  GroupNormCut cut{};
  bool silu = false;
  double negative_slope = 1.0, eps = 0.0;
  PixelImages x{}, grad_y{}, out{};
  const double* weight = nullptr;  // [C], or null
  const double* bias = nullptr;    // [C], or null
  double* mean = nullptr;          // [B, groups]
  double* inverse_std = nullptr;   // [B, groups]
  double* sums = nullptr;          // [B, splits, 2, C]
  double* by_weight = nullptr;     // [B, C]
  double* by_bias = nullptr;       // [B, C]
  double* through = nullptr;       // [B, groups, 2]: by_deviation and by_constant
};

enum class GroupNormStage : int { kMoments, kStatistics, kApply, kSums, kThrough, kGradients };

int launch_group_norm(GroupNormStage stage, const GroupNormCall& args, uint64_t stream);

}  // namespace sivae::cuda
