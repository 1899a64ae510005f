// The CUDA implementations of the low-level ops (schemas: sivae/ops/library.py), without a CUDA header.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../operands.h"
#include "../torch_dtype.h"
#include "dispatch.h"
#include "launch.h"

namespace sivae::cuda {
namespace {

using at::Tensor;
using std::optional;

Tensor empty_or_like(const Tensor& tensor, bool needed) {
  return needed ? at::empty_like(tensor) : at::empty({0}, tensor.options());
}

const Tensor* if_needed(const Tensor& tensor, bool needed) { return needed ? &tensor : nullptr; }

bool is_seed(const Tensor& noise) { return noise.scalar_type() == at::kLong; }

const int64_t* seed_of(const Tensor& seed, const at::Device& device) {
  TORCH_CHECK_VALUE(is_seed(seed) && seed.numel() == 1, "sivae: a seed is one int64 element");
  TORCH_CHECK_VALUE(seed.device() == device, "sivae: the seed is on ", seed.device(), ", expected ", device);
  return seed.const_data_ptr<int64_t>();
}

Noise noise_of(const Tensor& noise, int64_t offset, const Tensor& like) {
  Noise result;
  if (is_seed(noise)) {
    result.seed = seed_of(noise, like.device());
    result.offset = static_cast<uint64_t>(offset);
  }
  return result;
}

RowGradient row_gradient(const Tensor& grad, const Tensor& like, int64_t reduction) {
  const int64_t rows = like.size(0);
  TORCH_CHECK_TYPE(grad.scalar_type() == sum_dtype(like.scalar_type()), "sivae: the gradient of a sum has dtype ",
                   grad.scalar_type(), ", expected ", sum_dtype(like.scalar_type()));
  TORCH_CHECK_VALUE(grad.device() == like.device(), "sivae: the gradient of a sum is on ", grad.device(), ", expected ",
                    like.device());
  const at::IntArrayRef expected = reduction == 0 ? like.sizes().slice(0, 1) : at::IntArrayRef();
  TORCH_CHECK_VALUE(grad.sizes() == expected, "sivae: the gradient of a sum has shape ", grad.sizes(), ", expected ",
                    expected);
  return {grad.const_data_ptr(), reduction == 0 ? grad.stride(0) : 0,
          reduction == 1 ? 1.0 / static_cast<double>(rows) : 1.0};
}

// What a kernel leaves for each row, and the sums made of it. Where it leaves one number per row and nothing is to be
// reduced, that is the result and no second kernel runs.
class Sums {
 public:
  Sums(const Tensor& like, int64_t per_row, int64_t reduction)
      : rows_(like.size(0)),
        per_row_(per_row),
        reduction_(reduction),
        options_(like.options().dtype(sum_dtype(like.scalar_type()))),
        partial_(like.numel() == 0 ? at::zeros({rows_ * per_row_}, options_)
                                   : at::empty({rows_ * per_row_}, options_)) {}

  void* data() const { return partial_.data_ptr(); }

  Tensor finish(const char* op, uint64_t stream) const {
    if (reduction_ == 0 && per_row_ == 1) return partial_;
    Tensor out = reduction_ == 0 ? at::empty({rows_}, options_) : at::empty({}, options_);
    check_launch(op, launch_finish_sums(out.scalar_type() == at::kDouble, partial_.const_data_ptr(), rows_, per_row_,
                                        static_cast<int>(reduction_), out.data_ptr(), stream));
    return out;
  }

 private:
  int64_t rows_, per_row_, reduction_;
  at::TensorOptions options_;
  Tensor partial_;
};

struct Latents {
  Tensor z, kl;
};

Latents latents(const char* op, const Tensor& mu, const Tensor& logvar, const Tensor* noise, int64_t offset,
                bool wants_kl, const Prior<double>& prior, int64_t reduction) {
  const c10::DeviceGuard device(mu.device());
  const uint64_t stream = current_stream(mu);
  LatentForward args{.dtype = dtype_of(mu.scalar_type()), .prior = prior};
  Latents out;
  const Tensor* eps = nullptr;
  if (noise != nullptr) {
    out.z = at::empty_like(mu);
    args.noise = noise_of(*noise, offset, mu);
    eps = is_seed(*noise) ? nullptr : noise;
  }
  args.layout = share_layout(
      {{&mu, &args.mu}, {&logvar, &args.logvar}, {&out.z, &args.z, true}, {eps, &args.noise.eps}}, false);
  optional<Sums> sums;
  if (wants_kl) {
    sums.emplace(mu, mu.numel() == 0 ? 1 : sums_per_row(args), reduction);
    args.kl_sums = sums->data();
  }
  if (mu.numel() > 0) check_launch(op, launch_latent_forward(args, stream));
  if (wants_kl) out.kl = sums->finish(op, stream);
  return out;
}

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& noise, int64_t offset) {
  return latents("reparameterize", mu, logvar, &noise, offset, false, {}, 0).z;
}

Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar, double prior_mu, double prior_logvar, int64_t reduction) {
  return latents("gaussian_kl", mu, logvar, nullptr, 0, true, prior_of(prior_mu, prior_logvar), reduction).kl;
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                             int64_t offset, double prior_mu, double prior_logvar) {
  Latents out =
      latents("reparameterize_kl", mu, logvar, &noise, offset, true, prior_of(prior_mu, prior_logvar), 0);
  return {out.z, out.kl};
}

std::tuple<Tensor, Tensor, Tensor> latent_backward(const optional<Tensor>& grad_z, const optional<Tensor>& grad_kl,
                                                   const Tensor& mu, const Tensor& logvar,
                                                   const optional<Tensor>& noise, int64_t offset, double prior_mu,
                                                   double prior_logvar, int64_t reduction, bool need_mu,
                                                   bool need_logvar, bool need_noise) {
  const c10::DeviceGuard device(mu.device());
  const bool through_z = grad_z.has_value() && grad_z->defined();
  const bool through_kl = grad_kl.has_value() && grad_kl->defined();
  const bool explicit_noise = noise.has_value() && noise->defined() && !is_seed(*noise);
  Tensor grad_mu = empty_or_like(mu, need_mu), grad_logvar = empty_or_like(logvar, need_logvar);
  Tensor grad_noise = empty_or_like(explicit_noise ? *noise : mu, need_noise);
  if (!through_z && !through_kl) return {grad_mu.zero_(), grad_logvar.zero_(), grad_noise.zero_()};
  if (!through_z && need_noise) grad_noise.zero_();

  LatentBackward args{.dtype = dtype_of(mu.scalar_type()), .prior = prior_of(prior_mu, prior_logvar)};
  if (through_z && noise.has_value() && noise->defined()) args.noise = noise_of(*noise, offset, mu);
  args.layout = share_layout({{&mu, &args.mu},
                              {&logvar, &args.logvar},
                              {through_z ? &*grad_z : nullptr, &args.grad_z},
                              {explicit_noise ? &*noise : nullptr, &args.noise.eps},
                              {if_needed(grad_mu, need_mu), &args.grad_mu, true},
                              {if_needed(grad_logvar, need_logvar), &args.grad_logvar, true},
                              {if_needed(grad_noise, need_noise && through_z), &args.grad_eps, true}},
                             false);
  if (through_kl) args.grad_kl = row_gradient(*grad_kl, mu, reduction);
  if (mu.numel() > 0) check_launch("latent_backward", launch_latent_backward(args, current_stream(mu)));
  return {grad_mu, grad_logvar, grad_noise};
}

Tensor reconstruction_error(const Tensor& recon, const Tensor& target, int64_t kind, int64_t reduction) {
  const c10::DeviceGuard device(recon.device());
  const uint64_t stream = current_stream(recon);
  RecForward args{.dtype = dtype_of(recon.scalar_type()), .kind = static_cast<int>(kind)};
  args.layout = share_layout({{&recon, &args.recon}, {&target, &args.target}}, true);
  const Sums sums(recon, recon.numel() == 0 ? 1 : sums_per_row(args), reduction);
  args.sums = sums.data();
  if (recon.numel() > 0) check_launch("reconstruction_error", launch_rec_forward(args, stream));
  return sums.finish("reconstruction_error", stream);
}

std::tuple<Tensor, Tensor> reconstruction_error_backward(const Tensor& grad, const Tensor& recon, const Tensor& target,
                                                         int64_t kind, int64_t reduction, bool need_recon,
                                                         bool need_target) {
  const c10::DeviceGuard device(recon.device());
  Tensor grad_recon = empty_or_like(recon, need_recon), grad_target = empty_or_like(target, need_target);
  RecBackward args{.dtype = dtype_of(recon.scalar_type()), .kind = static_cast<int>(kind)};
  args.layout = share_layout({{&recon, &args.recon},
                              {&target, &args.target},
                              {if_needed(grad_recon, need_recon), &args.grad_recon, true},
                              {if_needed(grad_target, need_target), &args.grad_target, true}},
                             true);
  args.grad = row_gradient(grad, recon, reduction);
  if (recon.numel() > 0) {
    check_launch("reconstruction_error_backward", launch_rec_backward(args, current_stream(recon)));
  }
  return {grad_recon, grad_target};
}

void check_per_sample(const Tensor& rec, const Tensor& kl) {
  TORCH_CHECK_VALUE(rec.dim() == 1 && rec.sizes() == kl.sizes() && rec.scalar_type() == kl.scalar_type() &&
                        rec.device() == kl.device(),
                    "sivae: exp_elbo takes rec and kl of one shape [B], one dtype and one device");
}

Tensor exp_elbo(const Tensor& rec, const Tensor& kl, double scale, double beta_rec, double beta_kl, double alpha,
                int64_t reduction) {
  check_per_sample(rec, kl);
  const c10::DeviceGuard device(rec.device());
  const auto options = rec.options().dtype(sum_dtype(rec.scalar_type()));
  Tensor out = reduction == 0 ? at::empty({rec.size(0)}, options) : at::empty({}, options);
  const ExpElboForward args{.dtype = dtype_of(rec.scalar_type()),
                            .parameters = exp_elbo_of(scale, beta_rec, beta_kl, alpha),
                            .rec = rec.const_data_ptr(),
                            .kl = kl.const_data_ptr(),
                            .rec_stride = rec.stride(0),
                            .kl_stride = kl.stride(0),
                            .count = rec.size(0),
                            .reduction = static_cast<int>(reduction),
                            .out = out.data_ptr()};
  check_launch("exp_elbo", launch_exp_elbo_forward(args, current_stream(rec)));
  return out;
}

std::tuple<Tensor, Tensor> exp_elbo_backward(const Tensor& grad, const Tensor& rec, const Tensor& kl, double scale,
                                             double beta_rec, double beta_kl, double alpha, int64_t reduction,
                                             bool need_rec, bool need_kl) {
  check_per_sample(rec, kl);
  const c10::DeviceGuard device(rec.device());
  Tensor grad_rec = empty_or_like(rec, need_rec), grad_kl = empty_or_like(kl, need_kl);
  const ExpElboBackward args{.dtype = dtype_of(rec.scalar_type()),
                             .parameters = exp_elbo_of(scale, beta_rec, beta_kl, alpha),
                             .rec = rec.const_data_ptr(),
                             .kl = kl.const_data_ptr(),
                             .rec_stride = rec.stride(0),
                             .kl_stride = kl.stride(0),
                             .count = rec.size(0),
                             .grad = row_gradient(grad, rec, reduction),
                             .grad_rec = need_rec ? grad_rec.data_ptr() : nullptr,
                             .grad_kl = need_kl ? grad_kl.data_ptr() : nullptr,
                             .grad_rec_stride = grad_rec.stride(0),
                             .grad_kl_stride = grad_kl.stride(0)};
  check_launch("exp_elbo_backward", launch_exp_elbo_backward(args, current_stream(rec)));
  return {grad_rec, grad_kl};
}

Tensor philox_normal(const Tensor& seed, int64_t offset, at::IntArrayRef shape, at::ScalarType dtype) {
  const c10::DeviceGuard device(seed.device());
  Tensor out = at::empty(shape, seed.options().dtype(dtype));
  check_launch("philox_normal",
               launch_philox_normal(dtype_of(dtype), out.data_ptr(), seed_of(seed, seed.device()),
                                    static_cast<uint64_t>(offset), out.numel(), current_stream(seed)));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, SIVAE_DEVICE, m) {
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

}  // namespace sivae::cuda
