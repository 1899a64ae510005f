// The CPU implementations of the low-level ops (schemas: sivae/ops/library.py).
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "../operands.h"
#include "../torch_dtype.h"
#include "kernels.h"
#include "results.h"

namespace sivae::cpu {
namespace {

using at::Tensor;
using std::optional;

// Elements below which another thread costs more than it saves.
constexpr int64_t kLatentGrain = 8 * kLatentSegment;
constexpr int64_t kReconstructionGrain = 4 * kReconstructionSegment;
constexpr int64_t kExpElboGrain = 16384;

// Segments that make up `elements` elements.
int64_t grain_of(const Layout& layout, const Segments& segments, int64_t elements) {
  const int64_t each = std::max<int64_t>(segments.rows_each * segments.cols_each, 1);
  return layout.cols == 0 ? 1 : std::max<int64_t>(elements / each, 1);
}

Tensor empty_or_like(const Tensor& tensor, bool needed) {
  return needed ? empty_result(tensor) : at::empty({0}, tensor.options());
}

const Tensor* if_needed(const Tensor& tensor, bool needed) { return needed ? &tensor : nullptr; }

bool is_seed(const Tensor& noise) { return noise.scalar_type() == at::kLong; }

Noise noise_of(const Tensor& noise, int64_t offset) {
  Noise result;
  if (is_seed(noise)) {
    TORCH_CHECK_VALUE(noise.numel() == 1, "sivae: a seed has ", noise.numel(), " elements, expected 1");
    result.seed = static_cast<uint64_t>(*noise.const_data_ptr<int64_t>());
    result.offset = static_cast<uint64_t>(offset);
  }
  return result;
}

struct Latents {
  Tensor z, kl;
};

Latents latents(const Tensor& mu, const Tensor& logvar, const Tensor* noise, int64_t offset, bool wants_kl,
                const Prior<double>& prior, int64_t reduction) {
  LatentForward args{.dtype = dtype_of(mu.scalar_type()), .prior = prior};
  Latents out;
  const Tensor* eps = nullptr;
  if (noise != nullptr) {
    out.z = empty_result(mu);
    args.noise = noise_of(*noise, offset);
    eps = is_seed(*noise) ? nullptr : noise;
  }
  args.layout = share_layout(
      {{&mu, &args.mu}, {&logvar, &args.logvar}, {&out.z, &args.z, true}, {eps, &args.noise.eps}}, false);
  const Segments segments(args.layout, kLatentSegment);
  std::optional<PartialSums> sums;
  if (wants_kl) {
    sums.emplace(args.layout, segments);
    args.kl_partial = sums->data();
  }
  if (mu.numel() > 0) {
    at::parallel_for(0, segments.count, grain_of(args.layout, segments, kLatentGrain),
                     [&](int64_t begin, int64_t end) { kernels().latent_forward(args, begin, end); });
  }
  if (wants_kl) out.kl = sums->finish(reduction, mu);
  return out;
}

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& noise, int64_t offset) {
  return latents(mu, logvar, &noise, offset, false, {}, 0).z;
}

Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar, double prior_mu, double prior_logvar, int64_t reduction) {
  return latents(mu, logvar, nullptr, 0, true, prior_of(prior_mu, prior_logvar), reduction).kl;
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                             int64_t offset, double prior_mu, double prior_logvar) {
  Latents out = latents(mu, logvar, &noise, offset, true, prior_of(prior_mu, prior_logvar), 0);
  return {out.z, out.kl};
}

std::tuple<Tensor, Tensor, Tensor> latent_backward(const optional<Tensor>& grad_z, const optional<Tensor>& grad_kl,
                                                   const Tensor& mu, const Tensor& logvar,
                                                   const optional<Tensor>& noise, int64_t offset, double prior_mu,
                                                   double prior_logvar, int64_t reduction, bool need_mu,
                                                   bool need_logvar, bool need_noise) {
  const bool through_z = grad_z.has_value() && grad_z->defined();
  const bool through_kl = grad_kl.has_value() && grad_kl->defined();
  const bool explicit_noise = noise.has_value() && noise->defined() && !is_seed(*noise);
  Tensor grad_mu = empty_or_like(mu, need_mu), grad_logvar = empty_or_like(logvar, need_logvar);
  Tensor grad_noise = empty_or_like(explicit_noise ? *noise : mu, need_noise);
  if (!through_z && !through_kl) return {grad_mu.zero_(), grad_logvar.zero_(), grad_noise.zero_()};
  if (!through_z && need_noise) grad_noise.zero_();

  LatentBackward args{.dtype = dtype_of(mu.scalar_type()), .prior = prior_of(prior_mu, prior_logvar)};
  if (through_z && noise.has_value() && noise->defined()) args.noise = noise_of(*noise, offset);
  args.layout = share_layout({{&mu, &args.mu},
                              {&logvar, &args.logvar},
                              {through_z ? &*grad_z : nullptr, &args.grad_z},
                              {explicit_noise ? &*noise : nullptr, &args.noise.eps},
                              {if_needed(grad_mu, need_mu), &args.grad_mu, true},
                              {if_needed(grad_logvar, need_logvar), &args.grad_logvar, true},
                              {if_needed(grad_noise, need_noise && through_z), &args.grad_eps, true}},
                             false);
  std::vector<double> kl_weights;
  if (through_kl) {
    kl_weights = per_sample_gradient(*grad_kl, args.layout.rows, reduction);
    args.grad_kl = kl_weights.data();
  }
  if (mu.numel() > 0) {
    args.stream = mu.nbytes() >= kStreamBytes;
    const Segments segments(args.layout, kLatentSegment);
    at::parallel_for(0, segments.count, grain_of(args.layout, segments, kLatentGrain),
                     [&](int64_t begin, int64_t end) { kernels().latent_backward(args, begin, end); });
  }
  return {grad_mu, grad_logvar, grad_noise};
}

Tensor reconstruction_error(const Tensor& recon, const Tensor& target, int64_t kind, int64_t reduction) {
  RecForward args{.dtype = dtype_of(recon.scalar_type()), .kind = static_cast<int>(kind)};
  args.layout = share_layout({{&recon, &args.recon}, {&target, &args.target}}, true);
  const Segments segments(args.layout, kReconstructionSegment);
  PartialSums sums(args.layout, segments);
  args.partial = sums.data();
  if (recon.numel() > 0) {
    at::parallel_for(0, segments.count, grain_of(args.layout, segments, kReconstructionGrain),
                     [&](int64_t begin, int64_t end) { kernels().rec_forward(args, begin, end); });
  }
  return sums.finish(reduction, recon);
}

std::tuple<Tensor, Tensor> reconstruction_error_backward(const Tensor& grad, const Tensor& recon, const Tensor& target,
                                                         int64_t kind, int64_t reduction, bool need_recon,
                                                         bool need_target) {
  Tensor grad_recon = empty_or_like(recon, need_recon), grad_target = empty_or_like(target, need_target);
  RecBackward args{.dtype = dtype_of(recon.scalar_type()), .kind = static_cast<int>(kind)};
  args.layout = share_layout({{&recon, &args.recon},
                              {&target, &args.target},
                              {if_needed(grad_recon, need_recon), &args.grad_recon, true},
                              {if_needed(grad_target, need_target), &args.grad_target, true}},
                             true);
  const std::vector<double> weights = per_sample_gradient(grad, args.layout.rows, reduction);
  args.grad = weights.data();
  args.stream = recon.nbytes() >= kStreamBytes;
  if (recon.numel() > 0) {
    const Segments segments(args.layout, kReconstructionSegment);
    at::parallel_for(0, segments.count, grain_of(args.layout, segments, kReconstructionGrain),
                     [&](int64_t begin, int64_t end) { kernels().rec_backward(args, begin, end); });
  }
  return {grad_recon, grad_target};
}

void check_per_sample(const Tensor& rec, const Tensor& kl) {
  TORCH_CHECK_VALUE(rec.dim() == 1 && rec.sizes() == kl.sizes() && rec.scalar_type() == kl.scalar_type(),
                    "sivae: exp_elbo takes rec and kl of one shape [B] and one dtype");
}

Tensor exp_elbo(const Tensor& rec, const Tensor& kl, double scale, double beta_rec, double beta_kl, double alpha,
                int64_t reduction) {
  check_per_sample(rec, kl);
  Layout layout;
  layout.rows = rec.size(0);
  PartialSums sums(layout, Segments(layout, kExpElboGrain));
  const ExpElboForward args{dtype_of(rec.scalar_type()),       exp_elbo_of(scale, beta_rec, beta_kl, alpha),
                            rec.const_data_ptr(), kl.const_data_ptr(),
                            rec.stride(0),        kl.stride(0),
                            sums.data()};
  at::parallel_for(0, layout.rows, kExpElboGrain,
                   [&](int64_t begin, int64_t end) { kernels().exp_elbo_forward(args, begin, end); });
  return sums.finish(reduction, rec);
}

std::tuple<Tensor, Tensor> exp_elbo_backward(const Tensor& grad, const Tensor& rec, const Tensor& kl, double scale,
                                             double beta_rec, double beta_kl, double alpha, int64_t reduction,
                                             bool need_rec, bool need_kl) {
  check_per_sample(rec, kl);
  Tensor grad_rec = empty_or_like(rec, need_rec), grad_kl = empty_or_like(kl, need_kl);
  const std::vector<double> weights = per_sample_gradient(grad, rec.size(0), reduction);
  const ExpElboBackward args{dtype_of(rec.scalar_type()),
                             exp_elbo_of(scale, beta_rec, beta_kl, alpha),
                             rec.const_data_ptr(),
                             kl.const_data_ptr(),
                             rec.stride(0),
                             kl.stride(0),
                             weights.data(),
                             need_rec ? grad_rec.data_ptr() : nullptr,
                             need_kl ? grad_kl.data_ptr() : nullptr,
                             grad_rec.stride(0),
                             grad_kl.stride(0)};
  at::parallel_for(0, rec.size(0), kExpElboGrain,
                   [&](int64_t begin, int64_t end) { kernels().exp_elbo_backward(args, begin, end); });
  return {grad_rec, grad_kl};
}

Tensor philox_normal(const Tensor& seed, int64_t offset, at::IntArrayRef shape, at::ScalarType dtype) {
  const Noise noise = noise_of(seed, offset);
  Tensor out = at::empty(shape, seed.options().dtype(dtype));
  const DType kernel_dtype = dtype_of(out.scalar_type());
  void* data = out.data_ptr();
  at::parallel_for(0, out.numel(), kLatentGrain, [&](int64_t begin, int64_t end) {
    kernels().philox_normal(kernel_dtype, data, noise.seed, noise.offset, begin, end);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, CPU, m) {
  m.impl("reparameterize", &reparameterize);
  m.impl("gaussian_kl", &gaussian_kl);
  m.impl("reparameterize_kl", &reparameterize_kl);
  m.impl("latent_backward", &latent_backward);
  m.impl("reconstruction_error", &reconstruction_error);
  m.impl("reconstruction_error_backward", &reconstruction_error_backward);
  m.impl("exp_elbo", &exp_elbo);
  m.impl("exp_elbo_backward", &exp_elbo_backward);
  m.impl("philox_normal", &philox_normal);
}

}  // namespace sivae::cpu
