"""The plain Soft-IntroVAE training step: every term of both losses by a forward pass of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from benchmarks.baselines.losses import RECONSTRUCTION_ERRORS, exp_elbo, gaussian_kl

if TYPE_CHECKING:
    from sivae.training.draws import StepNoise


class Model(Protocol):
    """What the step asks of a model."""

    @property
    def encoder(self) -> nn.Module: ...

    @property
    def decoder(self) -> nn.Module: ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


class PlainSoftIntroStep:
    """One update of Soft-IntroVAE with the authors' gradients and both kinds of fakes, in plain PyTorch.

    5 passes of the encoder and 8 of the decoder; each update freezes the other network, computes all of its terms,
    those weighted by a tiny gamma_r too, and ends with the host reading the losses, which it logs and checks.

    Args:
        model: any model with `encoder`, `decoder`, `encode(x) -> (mu, logvar)` and `decode(z) -> x`.
        encoder_optimizer, decoder_optimizer: over the two networks.
        scale: the constant s of the losses.
        beta_rec, beta_kl, beta_neg, gamma_r, alpha: weights, as in `sivae.objectives.SoftIntroObjective`.
        kind: the reconstruction error, a key of `RECONSTRUCTION_ERRORS`.
        decode_prior: how prior samples are decoded; default: as others.
        fresh_passes: in the decoder's update draw other prior samples, and encode the batch again, as the authors'
            program for the style model does.
    """

    def __init__(
        self,
        model: Model,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        *,
        scale: float,
        beta_rec: float = 1.0,
        beta_kl: float = 1.0,
        beta_neg: float = 256.0,
        gamma_r: float = 1e-8,
        alpha: float = 2.0,
        kind: str = "mse",
        decode_prior: Callable[[Tensor], Tensor] | None = None,
        fresh_passes: bool = False,
    ) -> None:
        self.model = model
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.scale = scale
        self.beta_rec = beta_rec
        self.beta_kl = beta_kl
        self.beta_neg = beta_neg
        self.gamma_r = gamma_r
        self.alpha = alpha
        self.reconstruction_error = RECONSTRUCTION_ERRORS[kind]
        self.decode_prior = decode_prior or model.decode
        self.fresh_passes = fresh_passes

    def __call__(self, batch: Tensor, noise: StepNoise | None = None) -> dict[str, float]:
        """Update the encoder, then the decoder, on `batch` [B, ...].

        Args:
            batch: real samples.
            noise: every draw of the step, for comparing steps; None, and any draw of it that is None, draws afresh.

        Returns:
            The losses and what they are made of, batch means, read by the host.

        Raises:
            FloatingPointError: a loss is NaN.
        """
        encode, decode, error = self.model.encode, self.model.decode, self.reconstruction_error

        # Encoder's update.
        self.model.encoder.requires_grad_(True)
        self.model.decoder.requires_grad_(False)

        real_mu, real_logvar = encode(batch)
        eps_real = torch.randn_like(real_mu) if noise is None or noise.eps_real is None else noise.eps_real
        z = real_mu + eps_real * torch.exp(0.5 * real_logvar)
        prior = torch.randn_like(real_mu) if noise is None or noise.prior is None else noise.prior
        fake = self.decode_prior(prior)
        rec = decode(z)

        kl_real = gaussian_kl(real_mu, real_logvar).mean()
        loss_rec = error(rec, batch).mean()
        loss_real = self.scale * (self.beta_rec * loss_rec + self.beta_kl * kl_real)

        rec_mu, rec_logvar = encode(rec.detach())
        z_rec = _sample(rec_mu, rec_logvar, None if noise is None else noise.eps_rec_encoder)
        rec_rec = decode(z_rec)
        fake_mu, fake_logvar = encode(fake.detach())
        z_fake = _sample(fake_mu, fake_logvar, None if noise is None else noise.eps_fake_encoder)
        rec_fake = decode(z_fake)

        kl_rec = gaussian_kl(rec_mu, rec_logvar)
        kl_fake = gaussian_kl(fake_mu, fake_logvar)
        exp_elbo_rec = exp_elbo(error(rec_rec, rec), kl_rec, self.scale, self.beta_rec, self.beta_neg, self.alpha)
        exp_elbo_fake = exp_elbo(error(rec_fake, fake), kl_fake, self.scale, self.beta_rec, self.beta_neg, self.alpha)
        loss_encoder = loss_real + 0.5 * (exp_elbo_rec + exp_elbo_fake)

        self.encoder_optimizer.zero_grad()
        loss_encoder.backward()
        self.encoder_optimizer.step()

        # Decoder's update.
        self.model.encoder.requires_grad_(False)
        self.model.decoder.requires_grad_(True)

        if self.fresh_passes:
            prior = torch.randn_like(prior) if noise is None or noise.prior_decoder is None else noise.prior_decoder
            z = _sample(*encode(batch), None if noise is None else noise.eps_real_decoder)
        fake = self.decode_prior(prior)
        rec = decode(z.detach())
        loss_rec_decoder = error(rec, batch).mean()

        rec_mu, rec_logvar = encode(rec)
        z_rec = _sample(rec_mu, rec_logvar, None if noise is None else noise.eps_rec_decoder)
        fake_mu, fake_logvar = encode(fake)
        z_fake = _sample(fake_mu, fake_logvar, None if noise is None else noise.eps_fake_decoder)
        rec_rec = decode(z_rec.detach())
        rec_fake = decode(z_fake.detach())

        loss_rec_rec = error(rec_rec, rec.detach()).mean()
        loss_fake_rec = error(rec_fake, fake.detach()).mean()
        fake_terms = self.beta_kl * (gaussian_kl(rec_mu, rec_logvar).mean() + gaussian_kl(fake_mu, fake_logvar).mean())
        fake_terms = fake_terms + self.gamma_r * self.beta_rec * (loss_rec_rec + loss_fake_rec)
        loss_decoder = self.scale * (self.beta_rec * loss_rec_decoder + 0.5 * fake_terms)

        self.decoder_optimizer.zero_grad()
        loss_decoder.backward()
        self.decoder_optimizer.step()
        self.model.encoder.requires_grad_(True)

        losses = {
            "loss_encoder": loss_encoder.item(),
            "loss_decoder": loss_decoder.item(),
            "rec": loss_rec.item(),
            "kl_real": kl_real.item(),
            "kl_fake": kl_fake.mean().item(),
            "kl_rec": kl_rec.mean().item(),
            "exp_elbo_fake": exp_elbo_fake.item(),
            "exp_elbo_rec": exp_elbo_rec.item(),
        }
        if math.isnan(losses["loss_encoder"]) or math.isnan(losses["loss_decoder"]):
            raise FloatingPointError(f"a loss is NaN: {losses}")
        return losses


def _sample(mu: Tensor, logvar: Tensor, eps: Tensor | None) -> Tensor:
    if eps is None:
        eps = torch.randn_like(mu)
    return mu + eps * torch.exp(0.5 * logvar)
