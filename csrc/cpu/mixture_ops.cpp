// The log density of a mixture on CPU tensors: mixture_ops.h with the CPU's kernels, memory and threads.
#include "../mixture_ops.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>

#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;

// Below this number of differences another thread costs more than it saves.
constexpr int64_t kGrain = 1 << 15;
// Parts of the rows whose sums are added at the end: enough for the threads of a processor, and not too short.
constexpr int64_t kMostParts = 32, kLeastRows = 4 * kMixtureBlock;

int64_t divided(int64_t a, int64_t b) { return (a + b - 1) / b; }

// [K, L] -> [blocks, L, lanes]: the parameters of a block of components side by side, padded with 0.
Tensor in_blocks(const Tensor& parameters) {
  const int64_t lanes = mixture_lanes(parameters.itemsize()), dims = parameters.size(1);
  Tensor padded = at::zeros({divided(parameters.size(0), lanes) * lanes, dims}, parameters.options());
  padded.narrow(0, 0, parameters.size(0)).copy_(parameters);
  return padded.view({-1, lanes, dims}).transpose(1, 2).contiguous();
}

// Padded to the size of whole blocks.
Tensor padded(const Tensor& values, int64_t rows, int64_t columns, double value = 0.0) {
  Tensor out = at::full({rows, columns}, value, values.options());
  out.narrow(0, 0, values.size(0)).narrow(1, 0, values.size(1)).copy_(values);
  return out;
}

MixtureRows rows_of(const Tensor& z, void* data) { return {data, z.stride(0), z.stride(1)}; }

template <class Call>
Call call_of(const MixtureTensors& mixture) {
  Call a;
  a.dtype = dtype_of(mixture.z.scalar_type());
  a.rows = mixture.rows();
  a.components = mixture.components();
  a.dims = mixture.dims();
  a.z = rows_of(mixture.z, const_cast<void*>(mixture.z.const_data_ptr()));
  return a;
}

struct Cpu {
  static Tensor empty_or_like(const Tensor& tensor, bool needed) {
    return needed ? empty_result(tensor) : at::empty({0}, tensor.options());
  }

  static void forward(const MixtureTensors& mixture, Tensor& densities, Tensor& log_prob) {
    auto a = call_of<MixtureForward>(mixture);
    const int64_t item = densities.itemsize(), components = mixture_padded(a.components, item);
    const Tensor mu = in_blocks(mixture.mu), inv_std = in_blocks(mixture.inv_std());
    const Tensor peaks = padded(mixture.peaks().unsqueeze(0), 1, components);
    const Tensor log_weights =
        padded(mixture.log_weights().unsqueeze(0), 1, components, -std::numeric_limits<double>::infinity());
    a.mu = mu.const_data_ptr();
    a.inv_std = inv_std.const_data_ptr();
    a.peaks = peaks.const_data_ptr();
    a.log_weights = log_weights.const_data_ptr();
    a.densities = densities.mutable_data_ptr();
    a.log_prob = log_prob.mutable_data_ptr();
    const int64_t grain = std::max<int64_t>(kGrain / (kMixtureRows * components * a.dims), 1);
    at::parallel_for(0, divided(a.rows, kMixtureRows), grain, [&](int64_t begin, int64_t end) {
      const at::DataPtr own = c10::GetCPUAllocator()->allocate(kMixtureRows * (a.dims + components) * item);
      kernels().mixture_forward(a, begin, end, own.get());
    });
  }

  static MixtureSums backward(const MixtureTensors& mixture, const Tensor&, const RowGradient& grad,
                              const Tensor& log_prob, const Tensor& densities, const Tensor& grad_z,
                              bool wants_parameters) {
    auto a = call_of<MixtureBackward>(mixture);
    const int64_t item = densities.itemsize(), components = mixture_together(a.components);
    const int64_t dims = mixture_padded(a.dims, item);
    a.grad = grad;
    const Tensor mu = padded(mixture.mu, components, dims);
    const Tensor inv_variance = padded(mixture.inv_variance(), components, dims);
    a.mu = mu.const_data_ptr();
    a.inv_variance = inv_variance.const_data_ptr();
    a.weights = mixture.weights.const_data_ptr();
    a.log_prob = log_prob.const_data_ptr();
    a.densities = densities.const_data_ptr();
    if (grad_z.defined()) a.grad_z = rows_of(grad_z, grad_z.mutable_data_ptr());
    a.rows_each = divided(std::max(divided(a.rows, kMostParts), kLeastRows), kMixtureBlock) * kMixtureBlock;
    const int64_t parts = divided(a.rows, a.rows_each);
    MixtureSums sums;
    sums.weights = at::empty({parts, a.components}, densities.options().dtype(at::kDouble));
    a.weight_sums = sums.weights.mutable_data_ptr<double>();
    if (wants_parameters) {
      Tensor first = at::empty({parts, components, dims}, densities.options());
      Tensor second = at::empty_like(first);
      a.first = first.mutable_data_ptr();
      a.second = second.mutable_data_ptr();
      sums.first = first.narrow(1, 0, a.components).narrow(2, 0, a.dims);
      sums.second = second.narrow(1, 0, a.components).narrow(2, 0, a.dims);
    }
    const int64_t grain = std::max<int64_t>(kGrain / (a.rows_each * components * dims), 1);
    at::parallel_for(0, parts, grain, [&](int64_t begin, int64_t end) {
      const int64_t elements = kMixtureBlock * (2 * dims + components) + a.components;
      const at::DataPtr own = c10::GetCPUAllocator()->allocate(elements * item);
      kernels().mixture_backward(a, begin, end, own.get());
    });
    return sums;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("mixture_log_prob", &MixtureOps<Cpu>::forward);
  m.impl("mixture_log_prob_backward", &MixtureOps<Cpu>::backward);
}

}  // namespace sivae::cpu
