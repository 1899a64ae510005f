// Autograd functions of the native loss ops, for every device.
#include <torch/library.h>

#include <tuple>

#include "autograd.h"

namespace sivae {
namespace {

using Reparameterize = Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t);
using GaussianKl = Tensor(const Tensor&, const Tensor&, double, double, int64_t);
using ReparameterizeKl = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, int64_t, double, double);
using LatentBackward = std::tuple<Tensor, Tensor, Tensor>(const optional<Tensor>&, const optional<Tensor>&,
                                                          const Tensor&, const Tensor&, const optional<Tensor>&,
                                                          int64_t, double, double, int64_t, bool, bool, bool);
using Reconstruction = Tensor(const Tensor&, const Tensor&, int64_t, int64_t);
using ReconstructionBackward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t,
                                                          bool, bool);
using ExpElbo = Tensor(const Tensor&, const Tensor&, double, double, double, double, int64_t);
using ExpElboBackward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, double, double, double,
                                                   double, int64_t, bool, bool);

// The arguments of latent_backward that are not tensors.
struct LatentSettings {
  int64_t offset = 0;
  double prior_mu = 0.0;
  double prior_logvar = 0.0;
  int64_t reduction = 0;
};

void save(AutogradContext* ctx, const LatentSettings& s) {
  ctx->saved_data["settings"] = std::make_tuple(s.offset, s.prior_mu, s.prior_logvar, s.reduction);
  ctx->set_materialize_grads(false);
}

variable_list latent_gradients(const char* name, AutogradContext* ctx, const Tensor& grad_z, const Tensor& grad_kl,
                               const Tensor& mu, const Tensor& logvar, const optional<Tensor>& noise) {
  static const auto op = find_op<LatentBackward>("latent_backward");
  const auto settings = ctx->saved_data["settings"].to<std::tuple<int64_t, double, double, int64_t>>();
  const bool need_mu = ctx->needs_input_grad(0), need_logvar = ctx->needs_input_grad(1);
  const bool need_noise = noise.has_value() && ctx->needs_input_grad(2);
  auto [grad_mu, grad_logvar, grad_noise] =
      once_differentiable(name, {grad_z, grad_kl, mu, logvar, noise.value_or(Tensor())}, [&] {
        const auto& [offset, prior_mu, prior_logvar, reduction] = settings;
        return op.call(if_defined(grad_z), if_defined(grad_kl), mu, logvar, noise, offset, prior_mu, prior_logvar,
                       reduction, need_mu, need_logvar, need_noise);
      });
  return {if_needed(grad_mu, need_mu), if_needed(grad_logvar, need_logvar), if_needed(grad_noise, need_noise)};
}

struct ReparameterizeFunction : Function<ReparameterizeFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                        int64_t offset) {
    static const auto op = find_op<Reparameterize>("reparameterize");
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({mu, logvar, noise});
    save(ctx, {.offset = offset});
    return op.call(mu, logvar, noise, offset);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    auto out = latent_gradients("reparameterize", ctx, grads[0], {}, saved[0], saved[1], saved[2]);
    out.resize(4);
    return out;
  }
};

struct GaussianKlFunction : Function<GaussianKlFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar, double prior_mu,
                        double prior_logvar, int64_t reduction) {
    static const auto op = find_op<GaussianKl>("gaussian_kl");
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({mu, logvar});
    save(ctx, {.prior_mu = prior_mu, .prior_logvar = prior_logvar, .reduction = reduction});
    return op.call(mu, logvar, prior_mu, prior_logvar, reduction);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    auto out = latent_gradients("gaussian_kl", ctx, {}, grads[0], saved[0], saved[1], std::nullopt);
    out.resize(5);
    return out;
  }
};

struct ReparameterizeKlFunction : Function<ReparameterizeKlFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                               int64_t offset, double prior_mu, double prior_logvar) {
    static const auto op = find_op<ReparameterizeKl>("reparameterize_kl");
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({mu, logvar, noise});
    save(ctx, {.offset = offset, .prior_mu = prior_mu, .prior_logvar = prior_logvar});
    auto [z, kl] = op.call(mu, logvar, noise, offset, prior_mu, prior_logvar);
    return {z, kl};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    auto out = latent_gradients("reparameterize_kl", ctx, grads[0], grads[1], saved[0], saved[1], saved[2]);
    out.resize(6);
    return out;
  }
};

struct ReconstructionFunction : Function<ReconstructionFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& recon, const Tensor& target, int64_t kind,
                        int64_t reduction) {
    static const auto op = find_op<Reconstruction>("reconstruction_error");
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({recon, target});
    ctx->saved_data["settings"] = std::make_tuple(kind, reduction);
    return op.call(recon, target, kind, reduction);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<ReconstructionBackward>("reconstruction_error_backward");
    const auto saved = ctx->get_saved_variables();
    const auto settings = ctx->saved_data["settings"].to<std::tuple<int64_t, int64_t>>();
    const bool need_recon = ctx->needs_input_grad(0), need_target = ctx->needs_input_grad(1);
    auto [grad_recon, grad_target] = once_differentiable("reconstruction_error", {grads[0], saved[0], saved[1]}, [&] {
      const auto& [kind, reduction] = settings;
      return op.call(grads[0], saved[0], saved[1], kind, reduction, need_recon, need_target);
    });
    return {if_needed(grad_recon, need_recon), if_needed(grad_target, need_target), Tensor(), Tensor()};
  }
};

struct ExpElboFunction : Function<ExpElboFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& rec, const Tensor& kl, double scale, double beta_rec,
                        double beta_kl, double alpha, int64_t reduction) {
    static const auto op = find_op<ExpElbo>("exp_elbo");
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({rec, kl});
    ctx->saved_data["settings"] = std::make_tuple(scale, beta_rec, beta_kl, alpha, reduction);
    return op.call(rec, kl, scale, beta_rec, beta_kl, alpha, reduction);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find_op<ExpElboBackward>("exp_elbo_backward");
    const auto saved = ctx->get_saved_variables();
    const auto settings = ctx->saved_data["settings"].to<std::tuple<double, double, double, double, int64_t>>();
    const bool need_rec = ctx->needs_input_grad(0), need_kl = ctx->needs_input_grad(1);
    auto [grad_rec, grad_kl] = once_differentiable("exp_elbo", {grads[0], saved[0], saved[1]}, [&] {
      const auto& [scale, beta_rec, beta_kl, alpha, reduction] = settings;
      return op.call(grads[0], saved[0], saved[1], scale, beta_rec, beta_kl, alpha, reduction, need_rec, need_kl);
    });
    variable_list out{if_needed(grad_rec, need_rec), if_needed(grad_kl, need_kl)};
    out.resize(7);
    return out;
  }
};

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& noise, int64_t offset) {
  return ReparameterizeFunction::apply(mu, logvar, noise, offset);
}

Tensor gaussian_kl(const Tensor& mu, const Tensor& logvar, double prior_mu, double prior_logvar, int64_t reduction) {
  return GaussianKlFunction::apply(mu, logvar, prior_mu, prior_logvar, reduction);
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu, const Tensor& logvar, const Tensor& noise,
                                             int64_t offset, double prior_mu, double prior_logvar) {
  auto out = ReparameterizeKlFunction::apply(mu, logvar, noise, offset, prior_mu, prior_logvar);
  return {out[0], out[1]};
}

Tensor reconstruction_error(const Tensor& recon, const Tensor& target, int64_t kind, int64_t reduction) {
  return ReconstructionFunction::apply(recon, target, kind, reduction);
}

Tensor exp_elbo(const Tensor& rec, const Tensor& kl, double scale, double beta_rec, double beta_kl, double alpha,
                int64_t reduction) {
  return ExpElboFunction::apply(rec, kl, scale, beta_rec, beta_kl, alpha, reduction);
}

}  // namespace

TORCH_LIBRARY_IMPL(sivae_native, Autograd, m) {
  m.impl("reparameterize", &reparameterize);
  m.impl("gaussian_kl", &gaussian_kl);
  m.impl("reparameterize_kl", &reparameterize_kl);
  m.impl("reconstruction_error", &reconstruction_error);
  m.impl("exp_elbo", &exp_elbo);
}

}  // namespace sivae
