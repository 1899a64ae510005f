// The log density of a mixture on CUDA tensors: mixture_ops.h with the launchers of mixture_launch.h. What is computed
// from [N, K] and [K, L] alone is left to torch.
#include "../mixture_ops.h"
#include "dispatch.h"
#include "mixture_launch.h"

#include <algorithm>

namespace sivae::cuda {
namespace {

using at::Tensor;

// Parts of the rows whose sums are added at the end: enough for a large chip, and not too short.
constexpr int64_t kMostMixtureParts = 64, kLeastMixtureRows = 64;

struct CudaMixture {
  static Tensor empty_or_like(const Tensor& tensor, bool needed) {
    return needed ? at::empty_like(tensor) : at::empty({0}, tensor.options());
  }

  template <class Call>
  static Call call_of(const MixtureTensors& mixture) {
    Call a;
    a.dtype = dtype_of(mixture.z.scalar_type());
    a.rows = mixture.rows();
    a.components = mixture.components();
    a.dims = mixture.dims();
    a.z = mixture.z.const_data_ptr();
    a.z_row = mixture.z.stride(0);
    a.z_column = mixture.z.stride(1);
    return a;
  }

  static void forward(const MixtureTensors& mixture, Tensor& densities, Tensor& log_prob) {
    auto a = call_of<MixtureDensities>(mixture);
    const Tensor mu = mixture.mu.t().contiguous(), inv_std = mixture.inv_std().t().contiguous();
    const Tensor peaks = mixture.peaks();
    a.mu = mu.const_data_ptr();
    a.inv_std = inv_std.const_data_ptr();
    a.peaks = peaks.const_data_ptr();
    a.densities = densities.mutable_data_ptr();
    check_launch("mixture_log_prob", launch_mixture(a, current_stream(densities)));
    log_prob.copy_(at::logsumexp(densities + mixture.log_weights(), 1));
  }

  static MixtureSums backward(const MixtureTensors& mixture, const Tensor& grad, const RowGradient&,
                              const Tensor& log_prob, const Tensor& densities, const Tensor& grad_z,
                              bool wants_parameters) {
    const uint64_t stream = current_stream(densities);
    const double largest = densities.scalar_type() == at::kDouble ? 709.0 : 88.0;
    const Tensor of_rows = log_prob.unsqueeze(1);
    const Tensor exponents = (densities - of_rows).clamp_max_(largest);
    const Tensor nowhere = of_rows == -std::numeric_limits<double>::infinity();
    const Tensor by_density = exponents.exp_().masked_fill_(nowhere, 0.0).mul_(grad.unsqueeze(1));
    const Tensor shares = by_density * mixture.weights;
    MixtureSums sums;
    sums.weights = by_density.sum(0, true, at::kDouble);
    if (grad_z.defined()) {
      auto a = call_of<MixtureRowGradient>(mixture);
      const Tensor inv_variance = mixture.inv_variance();
      a.mu = mixture.mu.const_data_ptr();
      a.inv_variance = inv_variance.const_data_ptr();
      a.shares = shares.const_data_ptr();
      a.grad_z = grad_z.mutable_data_ptr();
      a.grad_row = grad_z.stride(0);
      a.grad_column = grad_z.stride(1);
      check_launch("mixture_log_prob_backward", launch_mixture(a, stream));
    }
    if (wants_parameters) {
      auto a = call_of<MixtureComponentSums>(mixture);
      a.rows_each = std::max((a.rows + kMostMixtureParts - 1) / kMostMixtureParts, kLeastMixtureRows);
      const int64_t parts = (a.rows + a.rows_each - 1) / a.rows_each;
      sums.first = at::empty({parts, a.components, a.dims}, densities.options());
      sums.second = at::empty_like(sums.first);
      a.mu = mixture.mu.const_data_ptr();
      a.shares = shares.const_data_ptr();
      a.first = sums.first.mutable_data_ptr();
      a.second = sums.second.mutable_data_ptr();
      check_launch("mixture_log_prob_backward", launch_mixture(a, stream));
    }
    return sums;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) {
  m.impl("mixture_log_prob", &MixtureOps<CudaMixture>::forward);
  m.impl("mixture_log_prob_backward", &MixtureOps<CudaMixture>::backward);
}

}  // namespace sivae::cuda
