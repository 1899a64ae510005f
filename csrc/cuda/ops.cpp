// The loss ops on CUDA tensors: loss_ops.h with the launchers of launch.h, without a CUDA header.
#include "../loss_ops.h"
#include "dispatch.h"
#include "launch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;

struct Cuda {
  using LatentForward = cuda::LatentForward;
  using LatentBackward = cuda::LatentBackward;
  using RecForward = cuda::RecForward;
  using RecBackward = cuda::RecBackward;

  static Tensor empty_like(const Tensor& tensor) { return at::empty_like(tensor); }

  // Where a kernel writes one number per row and there is no reduction, that is the result, without a second kernel.
  class Sums {
   public:
    template <class Args>
    Sums(const Args& args, const Tensor& like, int64_t reduction)
        : like_(like), per_row_(like.numel() == 0 ? 1 : sums_per_row(args)), reduction_(reduction) {
      const int64_t count = like.size(0) * per_row_;
      const auto options = like.options().dtype(sum_dtype(like.scalar_type()));
      partial_ = like.numel() == 0 ? at::zeros({count}, options) : at::empty({count}, options);
    }

    void* data() const { return partial_.data_ptr(); }

    Tensor finish(const char* op) const {
      if (reduction_ == 0 && per_row_ == 1) return partial_;
      Tensor out = empty_sums(like_, reduction_);
      check_launch(op, launch_finish_sums(out.scalar_type() == at::kDouble, partial_.const_data_ptr(), like_.size(0),
                                          per_row_, static_cast<int>(reduction_), out.data_ptr(), current_stream(out)));
      return out;
    }

   private:
    Tensor like_;
    int64_t per_row_, reduction_;
    Tensor partial_;
  };

  template <class Args>
  static void run(const char* op, const Args& args, const Tensor& like) {
    check_launch(op, launch_kernel(args, current_stream(like)));
  }

  static Tensor exp_elbo(ExpElboForward& args, const Tensor& rec, int64_t reduction) {
    Tensor out = empty_sums(rec, reduction);
    args.reduction = static_cast<int>(reduction);
    args.out = out.data_ptr();
    run("exp_elbo", args, rec);
    return out;
  }

  static void philox_normal(DType dtype, Tensor& out, const int64_t* seed, uint64_t offset) {
    check_launch("philox_normal",
                 launch_philox_normal(dtype, out.data_ptr(), seed, offset, out.numel(), current_stream(out)));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) { LossOps<Cuda>::register_for(m); }

}  // namespace sivae::cuda
