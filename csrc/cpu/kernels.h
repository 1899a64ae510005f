// The CPU kernels as the torch side sees them: plain structs and one table of functions per instruction set.
//
// Kernel sources are compiled once for each instruction set (see CMakeLists.txt) and include no torch header, so that
// no inline function of a library is ever compiled for a set that the machine may lack.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "../exp_elbo.h"
#include "../gaussian.h"
#include "../layout.h"
#include "../platform.h"

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

// Elements that a kernel holds in buffers at a time: with a noise and four operands of this size it stays in the L1
// cache, and a float sum of so many, in lanes, loses little; longer sums are added in double.
constexpr int64_t kPieceElements = 1024;
constexpr int64_t kLatentSegment = kPieceElements;
constexpr int64_t kReconstructionSegment = 8 * kPieceElements;

struct Noise {
  Strided eps;              // explicit noise, or absent:
  uint64_t seed = 0;
  uint64_t offset = 0;
};

struct LatentForward {
  DType dtype = DType::kFloat32;
  Layout layout{};
  Strided mu{}, logvar{};
  Strided z{};              // absent: no sample is wanted
  Noise noise{};
  Prior<double> prior{};
  double* kl_partial = nullptr;  // [rows, segments per row], or null: no KL is wanted
};

struct LatentBackward {
  DType dtype = DType::kFloat32;
  Layout layout{};
  Strided mu{}, logvar{};
  Strided grad_z{};                  // absent: z has no gradient
  const double* grad_kl = nullptr;   // [rows], or null: kl has no gradient
  Noise noise{};
  Prior<double> prior{};
  Strided grad_mu{}, grad_logvar{}, grad_eps{};  // absent where not needed
};

struct RecForward {
  DType dtype = DType::kFloat32;
  Layout layout{};
  int kind = 0;
  Strided recon{}, target{};
  double* partial = nullptr;  // [rows, segments per row]
};

struct RecBackward {
  DType dtype = DType::kFloat32;
  Layout layout{};
  int kind = 0;
  Strided recon{}, target{};
  const double* grad = nullptr;  // [rows]
  Strided grad_recon{}, grad_target{};  // absent where not needed
  bool stream = false;                  // write them past the caches
};

struct ExpElboForward {
  DType dtype;
  ExpElbo parameters;
  const void* rec;
  const void* kl;
  int64_t rec_stride, kl_stride;
  double* values;  // [B]
};

struct ExpElboBackward {
  DType dtype;
  ExpElbo parameters;
  const void* rec;
  const void* kl;
  int64_t rec_stride, kl_stride;
  const double* grad;  // [B]
  void* grad_rec;      // null where not needed
  void* grad_kl;
  int64_t grad_rec_stride, grad_kl_stride;
};

// Each works on segments (elements for exp_elbo and philox_normal) [begin, end).
struct KernelTable {
  const char* name;
  void (*latent_forward)(const LatentForward&, int64_t begin, int64_t end);
  void (*latent_backward)(const LatentBackward&, int64_t begin, int64_t end);
  void (*rec_forward)(const RecForward&, int64_t begin, int64_t end);
  void (*rec_backward)(const RecBackward&, int64_t begin, int64_t end);
  void (*exp_elbo_forward)(const ExpElboForward&, int64_t begin, int64_t end);
  void (*exp_elbo_backward)(const ExpElboBackward&, int64_t begin, int64_t end);
  void (*philox_normal)(DType, void* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end);
};

// The table for the best instruction set of this machine; SIVAE_CPU_ISA names a lesser one.
const KernelTable& kernels();

#define SIVAE_DECLARE_KERNELS(isa)                                                                        \
  namespace isa {                                                                                         \
  void latent_forward(const LatentForward&, int64_t begin, int64_t end);                                  \
  void latent_backward(const LatentBackward&, int64_t begin, int64_t end);                                \
  void rec_forward(const RecForward&, int64_t begin, int64_t end);                                        \
  void rec_backward(const RecBackward&, int64_t begin, int64_t end);                                      \
  void exp_elbo_forward(const ExpElboForward&, int64_t begin, int64_t end);                               \
  void exp_elbo_backward(const ExpElboBackward&, int64_t begin, int64_t end);                             \
  void philox_normal(DType, void* out, uint64_t seed, uint64_t offset, int64_t begin, int64_t end);       \
  }

}  // namespace sivae::cpu
