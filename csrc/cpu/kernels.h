// The CPU kernels as the torch side sees them: plain structs and one table of functions per instruction set.
//
// Kernel sources are compiled once for each instruction set (see CMakeLists.txt) and include no torch header, so that
// no inline function of a library is ever compiled for a set that the machine may lack.
#pragma once

#include <cstdint>

#include "../arguments.h"
#include "../chamfer.h"
#include "relu_network.h"

namespace sivae::cpu {

// A call's work is cut into segments: whole rows where a row is short, else pieces of one row. The cut depends on the
// shape alone, so sums do not depend on the number of threads.
struct Segments {
  int64_t rows_each = 1;       // rows of a segment where rows are short
  int64_t cols_each = 1;       // columns of a segment where rows are long, else all
  int64_t per_row = 1;         // segments of one row
  int64_t count = 0;

  SIVAE_HD_MEMBER Segments(const Layout& layout, int64_t elements) {
    if (layout.cols <= elements) {
      rows_each = layout.cols > 0 ? elements / layout.cols : elements;
      cols_each = layout.cols;
      count = (layout.rows + rows_each - 1) / rows_each;
    } else {
      cols_each = elements;
      per_row = (layout.cols + elements - 1) / elements;
      count = layout.rows * per_row;
    }
  }
};

// Elements that a kernel buffers at a time. Noise and four operands of this size fit the L1 cache, and a float sum of
// this length, in lanes, loses little accuracy; longer sums are added in double.
constexpr int64_t kPieceElements = 1024;
constexpr int64_t kLatentSegment = kPieceElements;
constexpr int64_t kReconstructionSegment = 8 * kPieceElements;

using LatentForward = LatentForwardOf<Layout>;
using RecForward = RecForwardOf<Layout>;

struct LatentBackward : LatentBackwardOf<Layout> {
  bool stream = false;  // write the gradients past the caches
};

struct RecBackward : RecBackwardOf<Layout> {
  bool stream = false;  // write the gradients past the caches
};

// [B, C, H, W] in memory: the pixels of a plane, in the layout `StyledNorm::plane`, and the strides between planes.
struct Images {
  Strided pixels{};  // of the first plane
  int64_t batch = 0, channel = 0;
};

// The largest plane, in pixels, for which a loop over its pixels would be too short.
constexpr int64_t kSmallPlane = 64;
// In channels-last images, the pixels whose channels (a cache line each) are copied for further reads. In memory they
// are a row of all channels apart, often a power of two, and a cache has few places for such addresses.
constexpr int64_t kKeptPixels = 1024;

// Parameters are dense and of the type that arithmetic runs in.
struct StyledNorm {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, channels = 0;
  Layout plane{};              // one row: the pixels of a plane, in logical order
  bool channels_last = false;  // all images: channels of a pixel side by side, pixels equally spaced
  bool wide = false;           // and a unit of work takes several cache lines of a pixel
  Images x{};
  const void* noise = nullptr;  // maps [H W], or null
  int64_t noise_stride = 0;     // from one sample's map to the next one's
  const void* noise_weight = nullptr;  // [C], or null
  const void* bias = nullptr;          // [C], or null
  const void* scale = nullptr;         // [B, C], or null
  double negative_slope = 0.0, eps = 0.0;

  SIVAE_HD_MEMBER bool small_planes() const { return plane.cols <= kSmallPlane; }
  // Channels of a unit of work: in channels-last images a cache line of them, or several if `wide`; where planes are
  // small, the size of a vector; else one.
  SIVAE_HD_MEMBER int64_t group() const {
    if (wide) return dtype == DType::kFloat64 ? 32 : 64;
    if (channels_last) return dtype == DType::kFloat64 ? 8 : (dtype == DType::kFloat32 ? 16 : 32);
    return small_planes() ? (dtype == DType::kFloat64 ? 8 : 16) : 1;
  }
  SIVAE_HD_MEMBER int64_t units() const { return batch * ((channels + group() - 1) / group()); }
};

struct StyledNormForward {
  StyledNorm norm{};
  const void* shift = nullptr;  // [B, C], or null
  Images y{};
  void* mean = nullptr;  // [B, C]
  void* std = nullptr;   // [B, C]
  bool stream = false;   // write y past the caches
};

struct StyledNormBackward {
  StyledNorm norm{};
  Images grad_y{};  // absent: y has no gradient
  const void* mean = nullptr;       // [B, C]
  const void* std = nullptr;        // [B, C]
  const void* grad_mean = nullptr;  // [B, C], or null: mean has no gradient
  const void* grad_std = nullptr;   // [B, C], or null: std has no gradient
  Images grad_x{};                  // absent where not needed
  void* grad_scale = nullptr;       // [B, C]
  void* grad_shift = nullptr;       // [B, C]
  // Of each plane, [B, C], still to be summed over the batch; null where not needed.
  double* grad_noise_weight = nullptr;
  double* grad_bias = nullptr;
  bool stream = false;  // write grad_x past the caches
};

// Rows of a block of the batch norm. It is small enough for the caches, and for sums in the arithmetic type.
constexpr int64_t kBatchNormBlock = 64;

// Batch norm of channels-last images, or group norm of one of them, in stages that each read all rows, [channels] of a
// pixel. Between the stages the caller turns the sums of all segments into coefficients.
struct BatchNorm {
  enum Stage : int { kMoments, kApply, kGradientSums, kGradients };
  Stage stage = kMoments;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, channels = 0;
  int64_t rows_each = kBatchNormBlock;  // rows of a segment
  bool silu = false;  // the activation, else a leaky ReLU
  double negative_slope = 0.0;
  const void* x = nullptr;
  const void* residual = nullptr;      // added before the activation, or null
  const void* grad_y = nullptr;
  const void* y = nullptr;             // null where there was no residual
  const void* coefficients = nullptr;  // [5, C] of the arithmetic type, see Coefficient in batch_norm_kernels.cpp
  double* sums = nullptr;              // [segments, 2, C]
  void* out = nullptr;                 // y, or the gradient by x: null where not needed
  // Of SiLU, for a type that arithmetic runs in: kGradientSums writes the gradient before the activation to `out`. For
  // kGradients the caller takes it as grad_y without an activation, which takes less time than SiLU's gradient again.
  bool keeps_gradient = false;
  void* grad_residual = nullptr;       // null where not needed

  SIVAE_HD_MEMBER int64_t end_of(int64_t segment) const {
    return (segment + 1) * rows_each < rows ? (segment + 1) * rows_each : rows;
  }
};

// The same stages for images whose pixels are side by side: a row is a pixel, and a segment is `rows_each` pixels of one
// channel, in the order [channels, parts].
struct PlaneNorm : BatchNorm {
  int64_t parts = 1;  // segments of a plane
  int64_t x_channel = 0, grad_y_channel = 0, out_channel = 0;  // from one plane to the next
};

// Points of a cloud, with the padding up to whole vectors.
constexpr int64_t kChamferPad = 16;
SIVAE_HD int64_t chamfer_padded(int64_t count) { return (count + kChamferPad - 1) / kChamferPad * kChamferPad; }

// Both clouds have points. A unit of work is a part of a cloud of points with all of its targets.
struct ChamferForward {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, dims = 0;
  Clouds points{}, targets{};
  int64_t parts = 1, points_each = 0;
  // To the nearest other point, of the type that arithmetic runs in, and which it is.
  void* point_distances = nullptr;      // [B, N]
  int32_t* nearest_target = nullptr;    // [B, N]
  void* target_distances = nullptr;     // [B, parts, M]
  int32_t* nearest_point = nullptr;     // [B, parts, M]

  // Elements of that type which a thread needs.
  SIVAE_HD_MEMBER int64_t scratch() const {
    return dims * chamfer_padded(points_each) + (dims + 2) * chamfer_padded(targets.count);
  }
};

// The gradient of each cloud that is not absent. An index that is no point's counts as none.
struct ChamferBackward {
  DType dtype = DType::kFloat32;
  int64_t batch = 0, dims = 0;
  Clouds points{}, targets{};
  RowGradient grad{};
  const int32_t* nearest_target = nullptr;  // [B, N]
  const int32_t* nearest_point = nullptr;   // [B, M]
  Clouds grad_points{}, grad_targets{};

  SIVAE_HD_MEMBER int64_t scratch() const { return (points.count + targets.count) * dims; }
};

// Rows of z, [N, L], that stay in registers forward, and that pass by backward; and components that z passes by.
constexpr int64_t kMixtureRows = 8, kMixtureBlock = 32, kMixtureComponents = 4;
// Elements of `item` bytes in a block of components or dimensions, and a count padded to whole blocks.
SIVAE_HD int64_t mixture_lanes(int64_t item) { return 64 / item; }
SIVAE_HD int64_t mixture_padded(int64_t count, int64_t item) {
  return (count + mixture_lanes(item) - 1) / mixture_lanes(item) * mixture_lanes(item);
}
SIVAE_HD int64_t mixture_together(int64_t count) {
  return (count + kMixtureComponents - 1) / kMixtureComponents * kMixtureComponents;
}

// [N, L], with strides in elements.
struct MixtureRows {
  void* data = nullptr;  // null: absent
  int64_t row = 0, column = 0;
};

// Parameters and results are dense and of the type that arithmetic runs in. A unit of work is kMixtureRows rows.
struct MixtureForward {
  DType dtype = DType::kFloat32;
  int64_t rows = 0, components = 0, dims = 0;
  MixtureRows z{};
  const void* mu = nullptr;           // [blocks of components, L, lanes]
  const void* inv_std = nullptr;      // the same
  const void* peaks = nullptr;        // [padded K]: the log density at the mean
  const void* log_weights = nullptr;  // [padded K]: -inf in the padding
  void* densities = nullptr;          // [N, K]
  void* log_prob = nullptr;           // [N]
};

// A unit of work is `rows_each` rows.
struct MixtureBackward {
  DType dtype = DType::kFloat32;
  int64_t rows = 0, components = 0, dims = 0, rows_each = 0;
  MixtureRows z{};
  const void* weights = nullptr;       // [K]
  const void* mu = nullptr;            // [K, L], both padded
  const void* inv_variance = nullptr;  // the same
  const void* log_prob = nullptr;      // [N]
  const void* densities = nullptr;     // [N, K]
  RowGradient grad{};
  MixtureRows grad_z{};                // absent where not needed
  double* weight_sums = nullptr;       // [units, K]
  void* first = nullptr;               // [units, K, L], both padded, or null where not needed
  void* second = nullptr;
};

// Each function works on the segments [begin, end) (elements for exp_elbo and philox_normal, units for styled_norm,
// chamfer_forward and mixture, pairs of clouds for chamfer_backward).
struct KernelTable {
  const char* name;
  void (*latent_forward)(const LatentForward&, int64_t begin, int64_t end);
  void (*latent_backward)(const LatentBackward&, int64_t begin, int64_t end);
  void (*rec_forward)(const RecForward&, int64_t begin, int64_t end);
  void (*rec_backward)(const RecBackward&, int64_t begin, int64_t end);
  void (*exp_elbo_forward)(const ExpElboForward&, int64_t begin, int64_t end);
  void (*exp_elbo_backward)(const ExpElboBackward&, int64_t begin, int64_t end);
  void (*styled_norm_forward)(const StyledNormForward&, int64_t begin, int64_t end);
  void (*styled_norm_backward)(const StyledNormBackward&, int64_t begin, int64_t end);
  void (*batch_norm)(const BatchNorm&, int64_t begin, int64_t end);
  void (*plane_norm)(const PlaneNorm&, int64_t begin, int64_t end);
  void (*philox_normal)(DType, void* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end);
  void (*chamfer_forward)(const ChamferForward&, int64_t begin, int64_t end, void* scratch);
  void (*chamfer_backward)(const ChamferBackward&, int64_t begin, int64_t end, double* scratch);
  void (*mixture_forward)(const MixtureForward&, int64_t begin, int64_t end, void* scratch);
  void (*mixture_backward)(const MixtureBackward&, int64_t begin, int64_t end, void* scratch);
  const ReluNetworkKernels* relu_network;
};

// The table for the best instruction set of this machine, or for the one that SIVAE_CPU_ISA names.
const KernelTable& kernels();

#define SIVAE_DECLARE_KERNELS(isa)                                                                        \
  namespace isa {                                                                                         \
  void latent_forward(const LatentForward&, int64_t begin, int64_t end);                                  \
  void latent_backward(const LatentBackward&, int64_t begin, int64_t end);                                \
  void rec_forward(const RecForward&, int64_t begin, int64_t end);                                        \
  void rec_backward(const RecBackward&, int64_t begin, int64_t end);                                      \
  void exp_elbo_forward(const ExpElboForward&, int64_t begin, int64_t end);                               \
  void exp_elbo_backward(const ExpElboBackward&, int64_t begin, int64_t end);                             \
  void styled_norm_forward(const StyledNormForward&, int64_t begin, int64_t end);                         \
  void styled_norm_backward(const StyledNormBackward&, int64_t begin, int64_t end);                       \
  void batch_norm(const BatchNorm&, int64_t begin, int64_t end);                                          \
  void plane_norm(const PlaneNorm&, int64_t begin, int64_t end);                                          \
  void philox_normal(DType, void* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end);       \
  void chamfer_forward(const ChamferForward&, int64_t begin, int64_t end, void* scratch);                 \
  void chamfer_backward(const ChamferBackward&, int64_t begin, int64_t end, double* scratch);             \
  void mixture_forward(const MixtureForward&, int64_t begin, int64_t end, void* scratch);                 \
  void mixture_backward(const MixtureBackward&, int64_t begin, int64_t end, void* scratch);               \
  extern const ReluNetworkKernels relu_network;                                                           \
  }

}  // namespace sivae::cpu
