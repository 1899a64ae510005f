// The loss ops on tensors, written once for all devices (schemas: sivae/ops/library.py).
//
// `Device` is a struct with the parts that differ (cpu/ops.cpp, cuda/ops.cpp):
//   LatentForward, LatentBackward, RecForward, RecBackward   the arguments, with the layout that its kernels read
//   empty_like(tensor)                    memory for a result
//   Sums(args, like, reduction)           the sums that a kernel writes to data(); finish(op) makes the op's result
//   run(op, args, like)                   runs a kernel on the device of `like`
//   exp_elbo(args, rec, reduction)        runs the kernel and gives its result
//   philox_normal(dtype, out, seed, offset)
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "arguments.h"
#include "operands.h"
#include "torch_dtype.h"

namespace sivae {

template <class Device>
struct LossOps {
  using Tensor = at::Tensor;
  using OptionalTensor = std::optional<at::Tensor>;

  static void register_for(torch::Library& m) {
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

 private:
  static Tensor empty_or_like(const Tensor& tensor, bool needed) {
    return needed ? Device::empty_like(tensor) : at::empty({0}, tensor.options());
  }

  struct Latents {
    Tensor z, kl;
  };

  static Latents latents(const char* op, const Tensor& mu, const Tensor& logvar, const Tensor* noise, int64_t offset,
                         bool wants_kl, const Prior<double>& prior, int64_t reduction) {
    const c10::DeviceGuard device(mu.device());
    typename Device::LatentForward args;
    args.dtype = dtype_of(mu.scalar_type());
    args.prior = prior;
    Latents out;
    const Tensor* eps = nullptr;
    if (noise != nullptr) {
      out.z = Device::empty_like(mu);
      args.noise = noise_of(*noise, offset, mu);
      eps = is_seed(*noise) ? nullptr : noise;
    }
    args.layout = share_layout(
        {{&mu, &args.mu}, {&logvar, &args.logvar}, {&out.z, &args.z, true}, {eps, &args.noise.eps}}, false);
    std::optional<typename Device::Sums> sums;
    if (wants_kl) {
      sums.emplace(args, mu, reduction);
      args.kl_sums = sums->data();
    }
    if (mu.numel() > 0) Device::run(op, args, mu);
    if (wants_kl) out.kl = sums->finish(op);
    return out;
  }

  static Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& noise, int64_t offset) {
    return latents("reparameterize", mu, logvar, &noise, offset, false, {}, 0).z;
  }

  static Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar, double prior_mu, double prior_logvar,
                            int64_t reduction) {
    return latents("gaussian_kl", mu, logvar, nullptr, 0, true, prior_of(prior_mu, prior_logvar), reduction).kl;
  }

  static std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                                      int64_t offset, double prior_mu, double prior_logvar) {
    Latents out =
        latents("reparameterize_kl", mu, logvar, &noise, offset, true, prior_of(prior_mu, prior_logvar), 0);
    return {out.z, out.kl};
  }

  static std::tuple<Tensor, Tensor, Tensor> latent_backward(const OptionalTensor& grad_z,
                                                            const OptionalTensor& grad_kl, const Tensor& mu,
                                                            const Tensor& logvar, const OptionalTensor& noise,
                                                            int64_t offset, double prior_mu, double prior_logvar,
                                                            int64_t reduction, bool need_mu, bool need_logvar,
                                                            bool need_noise) {
    const c10::DeviceGuard device(mu.device());
    const Tensor by_z = given(grad_z), by_kl = given(grad_kl), drawn = given(noise);
    const bool through_z = by_z.defined(), explicit_noise = drawn.defined() && !is_seed(drawn);
    Tensor grad_mu = empty_or_like(mu, need_mu), grad_logvar = empty_or_like(logvar, need_logvar);
    Tensor grad_noise = empty_or_like(explicit_noise ? drawn : mu, need_noise);
    if (!through_z && need_noise) grad_noise.zero_();
    TORCH_CHECK_VALUE(!through_z || drawn.defined(), "sivae: z has a gradient, but its noise is not given");

    typename Device::LatentBackward args;
    args.dtype = dtype_of(mu.scalar_type());
    args.prior = prior_of(prior_mu, prior_logvar);
    if (through_z) args.noise = noise_of(drawn, offset, mu);
    args.layout = share_layout({{&mu, &args.mu},
                                {&logvar, &args.logvar},
                                {&by_z, &args.grad_z},
                                {explicit_noise ? &drawn : nullptr, &args.noise.eps},
                                {if_needed(grad_mu, need_mu), &args.grad_mu, true},
                                {if_needed(grad_logvar, need_logvar), &args.grad_logvar, true},
                                {if_needed(grad_noise, need_noise && through_z), &args.grad_eps, true}},
                               false);
    if (!through_z && !by_kl.defined()) return {grad_mu.zero_(), grad_logvar.zero_(), grad_noise};
    if (by_kl.defined()) args.grad_kl = row_gradient_of(by_kl, mu, reduction);
    if (mu.numel() > 0) Device::run("latent_backward", args, mu);
    return {grad_mu, grad_logvar, grad_noise};
  }

  static Tensor reconstruction_error(const Tensor& recon, const Tensor& target, int64_t kind, int64_t reduction) {
    const c10::DeviceGuard device(recon.device());
    typename Device::RecForward args;
    args.dtype = dtype_of(recon.scalar_type());
    args.kind = static_cast<int>(kind);
    args.layout = share_layout({{&recon, &args.recon}, {&target, &args.target}}, true);
    const typename Device::Sums sums(args, recon, reduction);
    args.sums = sums.data();
    if (recon.numel() > 0) Device::run("reconstruction_error", args, recon);
    return sums.finish("reconstruction_error");
  }

  static std::tuple<Tensor, Tensor> reconstruction_error_backward(const Tensor& grad, const Tensor& recon,
                                                                  const Tensor& target, int64_t kind,
                                                                  int64_t reduction, bool need_recon,
                                                                  bool need_target) {
    const c10::DeviceGuard device(recon.device());
    Tensor grad_recon = empty_or_like(recon, need_recon), grad_target = empty_or_like(target, need_target);
    typename Device::RecBackward args;
    args.dtype = dtype_of(recon.scalar_type());
    args.kind = static_cast<int>(kind);
    args.layout = share_layout({{&recon, &args.recon},
                                {&target, &args.target},
                                {if_needed(grad_recon, need_recon), &args.grad_recon, true},
                                {if_needed(grad_target, need_target), &args.grad_target, true}},
                               true);
    args.grad = row_gradient_of(grad, recon, reduction);
    if (recon.numel() > 0) Device::run("reconstruction_error_backward", args, recon);
    return {grad_recon, grad_target};
  }

  static ExpElboOperands exp_elbo_operands(const Tensor& rec, const Tensor& kl, const ExpElbo& parameters) {
    TORCH_CHECK_VALUE(rec.dim() == 1 && rec.sizes() == kl.sizes() && rec.scalar_type() == kl.scalar_type() &&
                          rec.device() == kl.device(),
                      "sivae: exp_elbo takes rec and kl of one shape [B], one dtype and one device");
    return {.dtype = dtype_of(rec.scalar_type()),
            .parameters = parameters,
            .rec = rec.const_data_ptr(),
            .kl = kl.const_data_ptr(),
            .rec_stride = rec.stride(0),
            .kl_stride = kl.stride(0),
            .count = rec.size(0)};
  }

  static Tensor exp_elbo(const Tensor& rec, const Tensor& kl, double scale, double beta_rec, double beta_kl,
                         double alpha, int64_t reduction) {
    ExpElboForward args{exp_elbo_operands(rec, kl, exp_elbo_of(scale, beta_rec, beta_kl, alpha))};
    const c10::DeviceGuard device(rec.device());
    return Device::exp_elbo(args, rec, reduction);
  }

  static std::tuple<Tensor, Tensor> exp_elbo_backward(const Tensor& grad, const Tensor& rec, const Tensor& kl,
                                                      double scale, double beta_rec, double beta_kl, double alpha,
                                                      int64_t reduction, bool need_rec, bool need_kl) {
    ExpElboBackward args{exp_elbo_operands(rec, kl, exp_elbo_of(scale, beta_rec, beta_kl, alpha))};
    const c10::DeviceGuard device(rec.device());
    Tensor grad_rec = empty_or_like(rec, need_rec), grad_kl = empty_or_like(kl, need_kl);
    args.grad = row_gradient_of(grad, rec, reduction);
    args.grad_rec = need_rec ? grad_rec.data_ptr() : nullptr;
    args.grad_kl = need_kl ? grad_kl.data_ptr() : nullptr;
    args.grad_rec_stride = grad_rec.stride(0);
    args.grad_kl_stride = grad_kl.stride(0);
    Device::run("exp_elbo_backward", args, rec);
    return {grad_rec, grad_kl};
  }

  static Tensor philox_normal(const Tensor& seed, int64_t offset, at::IntArrayRef shape, at::ScalarType dtype) {
    const c10::DeviceGuard device(seed.device());
    Tensor out = at::empty(shape, seed.options().dtype(dtype));
    Device::philox_normal(dtype_of(dtype), out, seed_of(seed, seed.device()), static_cast<uint64_t>(offset));
    return out;
  }
};

}  // namespace sivae
