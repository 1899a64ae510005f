// The loss ops on CPU tensors: loss_ops.h with the CPU's kernels, memory and threads.
#include <ATen/Parallel.h>

#include <algorithm>

#include "../loss_ops.h"
#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;

// Below this number of elements another thread costs more than it saves.
constexpr int64_t kLatentGrain = 8 * kLatentSegment;
constexpr int64_t kReconstructionGrain = 4 * kReconstructionSegment;
constexpr int64_t kExpElboGrain = 16384;

// Runs a kernel over all segments of a call, on threads that each get about `grain` elements.
template <class Args>
void over_segments(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t segment, int64_t grain) {
  const Segments segments(args.layout, segment);
  const int64_t each = std::max<int64_t>(segments.rows_each * segments.cols_each, 1);
  at::parallel_for(0, segments.count, args.layout.cols == 0 ? 1 : std::max<int64_t>(grain / each, 1),
                   [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

struct Cpu {
  using LatentForward = cpu::LatentForward;
  using LatentBackward = cpu::LatentBackward;
  using RecForward = cpu::RecForward;
  using RecBackward = cpu::RecBackward;

  static Tensor empty_like(const Tensor& tensor) { return empty_result(tensor); }

  class Sums : public PartialSums {
   public:
    Sums(const LatentForward& args, const Tensor& like, int64_t reduction)
        : PartialSums(like, Segments(args.layout, kLatentSegment).per_row, reduction) {}
    Sums(const RecForward& args, const Tensor& like, int64_t reduction)
        : PartialSums(like, Segments(args.layout, kReconstructionSegment).per_row, reduction) {}
    Tensor finish(const char*) const { return PartialSums::finish(); }
  };

  static void run(const char*, const LatentForward& args, const Tensor&) {
    over_segments(kernels().latent_forward, args, kLatentSegment, kLatentGrain);
  }
  static void run(const char*, LatentBackward& args, const Tensor& mu) {
    args.stream = mu.nbytes() >= kStreamBytes;
    over_segments(kernels().latent_backward, args, kLatentSegment, kLatentGrain);
  }
  static void run(const char*, const RecForward& args, const Tensor&) {
    over_segments(kernels().rec_forward, args, kReconstructionSegment, kReconstructionGrain);
  }
  static void run(const char*, RecBackward& args, const Tensor& recon) {
    args.stream = recon.nbytes() >= kStreamBytes;
    over_segments(kernels().rec_backward, args, kReconstructionSegment, kReconstructionGrain);
  }
  static void run(const char*, const ExpElboBackward& args, const Tensor&) {
    at::parallel_for(0, args.count, kExpElboGrain,
                     [&](int64_t begin, int64_t end) { kernels().exp_elbo_backward(args, begin, end); });
  }

  static Tensor exp_elbo(ExpElboForward& args, const Tensor& rec, int64_t reduction) {
    const PartialSums values(rec, 1, reduction);
    args.out = values.data();
    at::parallel_for(0, args.count, kExpElboGrain,
                     [&](int64_t begin, int64_t end) { kernels().exp_elbo_forward(args, begin, end); });
    return values.finish();
  }

  static void philox_normal(DType dtype, Tensor& out, const int64_t* seed, uint64_t offset) {
    void* data = out.data_ptr();
    at::parallel_for(0, out.numel(), kLatentGrain, [&](int64_t begin, int64_t end) {
      kernels().philox_normal(dtype, data, static_cast<uint64_t>(*seed), offset, begin, end);
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) { LossOps<Cpu>::register_for(m); }

}  // namespace sivae::cpu
