"""Algorithm 1 of "Soft-IntroVAE" (Daniel & Tamar, CVPR 2021) in a straight line, in plain PyTorch.

Read it beside the paper. E is the encoder, D the decoder, x a batch of real samples. For a sample, rec is the summed
reconstruction error and kl = KL(q(z|x) || N(0, 1)). A fake x_f is a decoded prior sample, or a reconstruction x_r of a
real one; z_ff is drawn from E(x_f), and x_ff = D(z_ff).

Every term is computed by its own forward passes. `sivae.method.soft_intro` contains the step that trainings use: it
computes the same update with fewer passes, and is tested against this one.

The paper's algorithm is `PlainSoftIntroStep(..., semantics="paper", fakes=("prior",), gamma_r=1.0)`. The defaults are
those of the authors' code. With `target`, it is their bootstrap program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.method.objectives import FAKES, SHORT, Fake, Semantics

if TYPE_CHECKING:
    from sivae.method.noise import StepNoise


def mse(recon: Tensor, target: Tensor) -> Tensor:
    """Sum the squared differences of each sample: two batches [B, ...] -> rec [B]."""
    return F.mse_loss(recon, target, reduction="none").flatten(1).sum(1)


def l1(recon: Tensor, target: Tensor) -> Tensor:
    """Sum the absolute differences of each sample: two batches [B, ...] -> rec [B]."""
    return F.l1_loss(recon, target, reduction="none").flatten(1).sum(1)


def gaussian_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute KL(N(mu, exp(logvar)) || N(0, 1)) of each sample: mu and logvar [B, z_dim] -> kl [B]."""
    return -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).flatten(1).sum(1)


def sample(mu: Tensor, logvar: Tensor, eps: Tensor | None = None) -> Tensor:
    """Draw z [B, z_dim] from N(mu, exp(logvar)), with the standard normal noise eps if it is given."""
    return mu + (torch.randn_like(mu) if eps is None else eps) * torch.exp(0.5 * logvar)


def exp_elbo(
    rec: Tensor, kl: Tensor, scale: float, beta_rec: float = 1.0, beta_kl: float = 1.0, alpha: float = 2.0
) -> Tensor:
    """Compute the batch mean of exp(-alpha scale (beta_rec rec + beta_kl kl)) / alpha, rec and kl [B]."""
    return torch.exp(-alpha * scale * (beta_rec * rec + beta_kl * kl)).mean() / alpha


class PlainSoftIntroStep:
    """One update of Soft-IntroVAE: the encoder's, then the decoder's.

    Args:
        model: has the modules `encoder` and `decoder`, `encode(x) -> (mu, logvar)` and `decode(z) -> x`.
        encoder_optimizer, decoder_optimizer: optimizers of the two networks.
        scale: the constant s, 1 / (values of one sample) for images.
        beta_rec, beta_kl, beta_neg, gamma_r, gamma, alpha: weights, as in `sivae.objectives.SoftIntroObjective`.
        semantics: "official", the gradients of the authors' program, or "paper", those of Algorithm 1.
        fakes: ("prior",) as in Algorithm 1, or both kinds as in the authors' program.
        error: the reconstruction error, two batches [B, ...] -> rec [B].
        decode_prior: decodes prior samples; None: `model.decode`.
        fresh_passes: in the decoder's update draw other prior samples, and encode the batch again, as the authors'
            program for the style-based model does.
        target: a frozen copy of the model, whose decoder computes x_ff in both updates; nothing is detached in the
            decoder's gamma_r term then. Now and then, copy the decoder into it. None: the decoder computes x_ff.
    """

    def __init__(
        self,
        model: Any,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        *,
        scale: float,
        beta_rec: float = 1.0,
        beta_kl: float = 1.0,
        beta_neg: float = 256.0,
        gamma_r: float = 1e-8,
        gamma: float = 1.0,
        alpha: float = 2.0,
        semantics: Semantics = "official",
        fakes: Sequence[Fake] = FAKES,
        error: Callable[[Tensor, Tensor], Tensor] = mse,
        decode_prior: Callable[[Tensor], Tensor] | None = None,
        fresh_passes: bool = False,
        target: Any = None,
    ) -> None:
        self.model = model
        self.encoder_optimizer, self.decoder_optimizer = encoder_optimizer, decoder_optimizer
        self.scale, self.alpha = scale, alpha
        self.beta_rec, self.beta_kl, self.beta_neg = beta_rec, beta_kl, beta_neg
        self.gamma_r, self.gamma = gamma_r, gamma
        self.official = semantics == "official"
        self.fakes = tuple(fakes)
        self.error = error
        self.decode_prior = decode_prior or model.decode
        self.fresh_passes = fresh_passes
        self.target = target

    def __call__(self, x: Tensor, noise: StepNoise | None = None) -> dict[str, float]:
        """Update the encoder, then the decoder, on a batch.

        Args:
            x: real samples, [B, ...].
            noise: fixed draws, to compare steps; without them, and for each draw that is None, noise is drawn here.

        Returns:
            The losses and their parts, batch means.

        Raises:
            FloatingPointError: a loss is NaN. Both networks have been updated by then.
        """
        model, s, kinds = self.model, self.scale, len(self.fakes)
        decode_again = model.decode if self.target is None else self.target.decode
        losses: dict[str, Tensor] = {}

        def given(name: str) -> Tensor | None:
            eps: Tensor | None = None if noise is None else getattr(noise, name)
            return eps

        def drawn(name: str, like: Tensor) -> Tensor:
            eps = given(name)
            return torch.randn_like(like) if eps is None else eps

        # The encoder's update. The decoder is frozen.
        model.encoder.requires_grad_(True)
        model.decoder.requires_grad_(False)

        mu, logvar = model.encode(x)
        z = sample(mu, logvar, given("eps_real"))
        prior = drawn("prior", mu)
        decoded = {"reconstruction": model.decode(z)}
        if "prior" in self.fakes:
            decoded["prior"] = self.decode_prior(prior)

        rec = self.error(decoded["reconstruction"], x).mean()
        kl = gaussian_kl(mu, logvar).mean()
        loss_encoder = s * (self.beta_rec * rec + self.beta_kl * kl)

        for kind in self.fakes:
            x_f = decoded[kind]
            mu_ff, logvar_ff = model.encode(x_f.detach())
            x_ff = decode_again(sample(mu_ff, logvar_ff, given(f"eps_{SHORT[kind]}_encoder")))
            # Official: the target keeps its gradient, which reaches E through the z of a reconstruction.
            rec_f = self.error(x_ff, x_f if self.official else x_f.detach())
            kl_f = gaussian_kl(mu_ff, logvar_ff)
            exp_elbo_f = exp_elbo(rec_f, kl_f, s, self.beta_rec, self.beta_neg, self.alpha)
            loss_encoder = loss_encoder + exp_elbo_f / kinds
            losses |= {f"kl_{SHORT[kind]}": kl_f.mean(), f"exp_elbo_{SHORT[kind]}": exp_elbo_f}

        self.encoder_optimizer.zero_grad()
        loss_encoder.backward()
        self.encoder_optimizer.step()

        # The decoder's update. The encoder, which has just changed, is frozen.
        model.encoder.requires_grad_(False)
        model.decoder.requires_grad_(True)

        if self.fresh_passes:
            prior = drawn("prior_decoder", mu)
            mu, logvar = model.encode(x)
            z = sample(mu, logvar, given("eps_real_decoder"))
        decoded = {"reconstruction": model.decode(z.detach())}
        if "prior" in self.fakes:
            decoded["prior"] = self.decode_prior(prior)

        loss_decoder = s * self.beta_rec * self.error(decoded["reconstruction"], x).mean()

        for kind in self.fakes:
            x_f = decoded[kind]
            mu_ff, logvar_ff = model.encode(x_f)
            z_ff = sample(mu_ff, logvar_ff, given(f"eps_{SHORT[kind]}_decoder"))
            # Official: the gradient goes through the outer decode, x_ff. Paper: it goes through the fake, x_f. With a
            # target decoder, it goes through the fake, also on the way to x_ff.
            if self.target is not None:
                rec_f = self.error(decode_again(z_ff), x_f)
            elif self.official:
                rec_f = self.error(decode_again(z_ff.detach()), x_f.detach())
            else:
                rec_f = self.error(decode_again(z_ff).detach(), x_f)
            kl_f = gaussian_kl(mu_ff, logvar_ff).mean()
            loss_f = s * (self.beta_kl * kl_f + self.gamma_r * self.beta_rec * rec_f.mean())
            loss_decoder = loss_decoder + self.gamma * loss_f / kinds

        self.decoder_optimizer.zero_grad()
        loss_decoder.backward()
        self.decoder_optimizer.step()
        model.encoder.requires_grad_(True)

        losses = {"loss_encoder": loss_encoder, "loss_decoder": loss_decoder, "rec": rec, "kl_real": kl} | losses
        read = {name: value.item() for name, value in losses.items()}
        if math.isnan(read["loss_encoder"]) or math.isnan(read["loss_decoder"]):
            raise FloatingPointError(f"a loss is NaN: {read}")
        return read
