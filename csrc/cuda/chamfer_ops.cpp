// The Chamfer distance on CUDA tensors: chamfer_ops.h with the launchers of chamfer_launch.h, without a CUDA header.
#include "../chamfer_ops.h"
#include "chamfer_launch.h"
#include "dispatch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;

struct CudaChamfer {
  using ChamferForward = cuda::ChamferForward;
  using ChamferBackward = cuda::ChamferBackward;

  static Tensor empty_or_like(const Tensor& tensor, bool needed) {
    return needed ? at::empty_like(tensor) : at::empty({0}, tensor.options());
  }

  static Tensor forward(ChamferForward& a, const Tensor& points, int64_t reduction) {
    const int64_t per_pair = chamfer_sums_per_pair(a);
    const at::ScalarType dtype = sum_dtype(points.scalar_type());
    const Tensor sums = at::empty({a.batch, per_pair}, points.options().dtype(dtype));
    a.sums = sums.mutable_data_ptr();
    const uint64_t stream = current_stream(points);
    check_launch("chamfer_distance", launch_chamfer_forward(a, stream));
    Tensor out = empty_sums(points, reduction);
    check_launch("chamfer_distance",
                 launch_finish_sums(dtype == at::kDouble, sums.const_data_ptr(), a.batch, per_pair,
                                    static_cast<int>(reduction), out.mutable_data_ptr(), stream));
    return out;
  }

  static void backward(const ChamferBackward& a, const Tensor& points) {
    if (a.points.count + a.targets.count == 0) return;
    check_launch("chamfer_distance_backward", launch_chamfer_backward(a, current_stream(points)));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) {
  m.impl("chamfer_distance", &ChamferOps<CudaChamfer>::forward);
  m.impl("chamfer_distance_backward", &ChamferOps<CudaChamfer>::backward);
}

}  // namespace sivae::cuda
