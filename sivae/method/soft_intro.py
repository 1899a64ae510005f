"""The step of Soft-IntroVAE and IntroVAE: the encoder's update, then the decoder's, with shared forward passes.

`sivae.method.plain` states the same update in a straight line; this step is tested against it. E is the encoder, D the
decoder. The plain step makes 5 passes of E and 8 of D. Both updates use the same noise and z, and D does not change
before its own update, so D(z) and D(noise) are computed once for both.

If a network has batch norm, real and fake batches pass it separately, each normalized by its own statistics. Running
statistics follow one pass of each kind: real images in the encoder, reconstructions and prior samples in the decoder.
A target decoder (`bootstrap`) normalizes by the statistics of its batch, too.

A learned prior p is the third player, in the sense of "Prior Learning in Introspective VAEs" (Athanasiadis, Lindsten &
Felsberg, TMLR 2025): it plays with the decoder. With sg for values without a gradient, it descends

    s beta_kl KL(q(z|x) || p) + (the fakes' part of the decoder's loss), with KL(q(z|f) || sg p) in the latter.

By the first term the ELBO of real samples rises; its gradient comes with the encoder's update, from the same pass. A
prior sample is z = mu_k + exp(logvar_k / 2) eps with a random k. By the second term mu_k and logvar_k of the chosen
components move to where D(z) looks real; the choice is discrete, so the weights w_k have no gradient from it. In the
KL of fakes p has no gradient, since it would otherwise move away from the encoder's or to the decoder's mistakes. The
prior's optimizer steps last, so both networks' updates see the same prior. The components of a `VampPrior` also depend
on the encoder: its update includes their gradient in the first term, and the KL of the decoder's update is to the
components of the updated encoder.

With a learned prior, a KL is the mean of log q(z) - log p(z) over draws z of q, see :meth:`Components.kl`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.method.base import (
    DECODER_UPDATE,
    ENCODER_UPDATE,
    FORWARD,
    BaseStep,
    Metrics,
    Part,
)
from sivae.method.noise import NO_NOISE, Pass, StepNoise
from sivae.method.objectives import FAKES, SHORT, Fake, IntroObjective, SoftIntroObjective
from sivae.models.norm import batch_statistics
from sivae.models.priors import Components

Introspective = TypeVar("Introspective", bound=IntroObjective | SoftIntroObjective)


class _IntrospectiveStep(BaseStep[Introspective]):
    """The alternating update of IntroVAE and Soft-IntroVAE; the objective computes the losses from rec and kl.

    Parameters that do not require a gradient when the step is called stay as they are.
    """

    @property
    def _fakes(self) -> tuple[Fake, ...]:
        return tuple(kind for kind in FAKES if kind in self.objective.fakes)

    def __call__(self, batch: Tensor, noise: StepNoise = NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update the encoder, then the decoder, on `batch` [B, ...], B at least 1.

        Args:
            batch: real samples.
            noise: draws to use instead of the generator's.
            condition: [B, condition_dim] for a conditional model; its fakes have the conditions of the real samples.

        Returns:
            Detached scalars on the batch's device, batch means: loss_encoder, loss_decoder, rec, kl_real, kl_fake,
            kl_rec, exp_elbo_fake, exp_elbo_rec. Values of fakes are there for the kinds in use, exp_elbo for
            Soft-IntroVAE, and beta_neg if it is automatic.
        """
        parts = self._parts(batch, noise, condition)
        encoder_parameters, decoder_parameters = _trainable(self.model.encoder), _trainable(self.model.decoder)
        prior_parameters = self._prior_parameters()
        self._zero_gradients()
        share = 1.0 / len(parts)
        # With several parts, the decoder's update computes its passes again.
        again = len(parts) > 1 or self.options.fresh_passes
        metrics = []
        for part in parts:
            with FORWARD, _frozen(decoder_parameters if again else []):
                self._start(part)
            with ENCODER_UPDATE:
                metrics.append(
                    self._encoder_backward(part, encoder_parameters, decoder_parameters, prior_parameters, share)
                )
            if again:
                del part.fakes, part.rec, part.kl_real  # frees the part's graph
                part.z_leaf = part.z = part.z.detach()
        with ENCODER_UPDATE:
            self.apply(self.encoder_optimizer)
        for part, values in zip(parts, metrics, strict=True):
            if again:
                with FORWARD, batch_statistics(self.model.decoder, update=False):
                    if self.options.fresh_passes:
                        self._draw_again(part)
                    self._decode_shared(part)
            with DECODER_UPDATE:
                values["loss_decoder"] = self._decoder_backward(
                    part, encoder_parameters, decoder_parameters, prior_parameters, share
                )
        with DECODER_UPDATE:
            self.apply(self.decoder_optimizer)
            if self.prior_optimizer is not None:
                self.apply(self.prior_optimizer)
        return self._finished(metrics)

    def _start(self, part: Part) -> None:
        """Run E(x), and the passes of the decoder that both updates use."""
        mu, logvar = self._encode_real(part, part.condition)
        part.prior = self._prior(mu.device)
        z, kl = self._draw(mu, logvar, part.draws.of_real(mu), part.prior, partial(part.draws.of_kl, 1, "real"))
        part.z = self.model.latents_to_decode(z)
        weighted_kl, part.kl_metrics = self._real_kl(kl, mu, logvar, self.objective.class_kl_share)
        part.kl_real = weighted_kl.mean()
        # D(z) starts at a leaf. Its gradient there is passed on to the encoder later.
        part.z_leaf = part.z.detach().requires_grad_()
        self._draw_prior(part)
        self._decode_shared(part)

    def _draw_prior(self, part: Part) -> None:
        """Draw prior samples, if they are among the fakes."""
        if "prior" not in self._fakes:
            return
        if part.prior is None:
            part.z_prior = part.draws.prior(part.z)
            return
        part.noise = part.draws.prior(part.z.new_empty(len(part.z), self.model.noise_dim))
        rows = part.prior.detached().draw(part.noise)
        part.z_prior = rows.view(part.z.shape).requires_grad_(bool(self._prior_parameters()))

    def _draw_again(self, part: Part) -> None:
        """Draw new noise, and encode z again with the updated encoder."""
        part.draws = replace(part.draws, fresh=True)
        with torch.no_grad(), batch_statistics(self.model.encoder, update=False):
            mu, logvar = self._encode_real(part, part.condition)
            z = ops.reparameterize(mu, logvar, noise=part.draws.of_real(mu))
            part.z_leaf = part.z = self.model.latents_to_decode(z)
            part.prior = self._prior(mu.device)
        self._draw_prior(part)

    def _decode_shared(self, part: Part) -> None:
        of_real: Pass = "fresh reconstruction" if part.draws.fresh else "reconstruction"
        of_prior: Pass = "fresh prior" if part.draws.fresh else "prior"
        recon = self._decode(part.z_leaf, part, of_real, part.condition)
        part.rec = (
            ops.reconstruction_error(recon, part.x, kind=self.kind, reduction="mean")
            if self.distance is None and self.error_average is None
            else self._rec(recon, part.x).mean()
        )
        part.fakes = [
            self._samples(
                recon if kind == "reconstruction" else self._decode(part.z_prior, part, of_prior, part.condition)
            )
            for kind in self._fakes
        ]

    def _encoder_backward(
        self,
        part: Part,
        encoder_parameters: list[nn.Parameter],
        decoder_parameters: list[nn.Parameter],
        prior_parameters: list[nn.Parameter],
        share: float,
    ) -> Metrics:
        """Add `share` of this part's gradient. All terms but the real kl reach E through z_leaf or its second pass."""
        objective, fakes = self.objective, part.fakes
        scale = objective.scale_for(math.prod(part.x.shape[1:]))
        fake_mu, fake_logvar = self._encode_fakes([fake.detach() for fake in fakes], part, "encoder")
        eps = part.draws.of_fakes(self._fakes, "encoder", fake_mu)
        z_fakes, kl_fakes = self._draw(
            fake_mu, fake_logvar, eps, _detached(part.prior), self._kl_noise(part, "encoder")
        )
        weighted_kl = self._weighted_kl(kl_fakes, fake_mu, fake_logvar, objective.class_neg_share)
        beta_neg = objective.automatic_beta_neg(self.kl_average, kl_fakes, scale)
        if beta_neg is not None:
            weighted_kl = beta_neg * weighted_kl
        kl_fakes, weighted_kl = kl_fakes.view(len(fakes), -1), weighted_kl.view(len(fakes), -1)  # [F, B]
        rec_fakes = None
        if objective.needs_fake_rec:
            with _frozen(decoder_parameters):
                again = self._decode_fakes(z_fakes, part, "encoder's fakes")
            official = objective.semantics == "official"
            # A target's gradient reaches the encoder only through z_leaf, so only reconstructions need one.
            targets = [
                fake if official and kind == "reconstruction" else fake.detach()
                for kind, fake in zip(self._fakes, fakes, strict=True)
            ]
            rec_fakes = self._fake_rec(again, targets)
        fake_loss, exp_elbo = objective.encoder_fake_loss(rec_fakes, weighted_kl, scale)
        shared_loss = scale * objective.beta_rec * part.rec + fake_loss
        kl_loss = scale * objective.beta_kl * part.kl_real
        if encoder_parameters:
            torch.autograd.backward(
                _weighted(shared_loss, share), inputs=[part.z_leaf, *encoder_parameters], retain_graph=True
            )
            torch.autograd.backward(
                [part.z, _weighted(kl_loss, share)],
                [part.z_leaf.grad, None],
                inputs=[*encoder_parameters, *prior_parameters],
            )
        elif prior_parameters:
            torch.autograd.backward(_weighted(kl_loss, share), inputs=prior_parameters)

        metrics = {
            "loss_encoder": shared_loss.detach() + kl_loss.detach(),
            "rec": part.rec.detach(),
            **part.kl_metrics,
        }
        if beta_neg is not None:
            metrics["beta_neg"] = beta_neg
        per_kind = {"kl": kl_fakes.detach().mean(1)}
        if exp_elbo is not None:
            per_kind["exp_elbo"] = exp_elbo.detach()
        for name, values in per_kind.items():
            for index, kind in enumerate(self._fakes):
                metrics[f"{name}_{SHORT[kind]}"] = values[index]
        return metrics

    def _decoder_backward(
        self,
        part: Part,
        encoder_parameters: list[nn.Parameter],
        decoder_parameters: list[nn.Parameter],
        prior_parameters: list[nn.Parameter],
        share: float,
    ) -> Tensor:
        """Add `share` of this part's gradient through the updated, frozen encoder. Returns the loss."""
        objective, fakes = self.objective, part.fakes
        scale = objective.scale_for(math.prod(part.x.shape[1:]))
        loss = scale * objective.beta_rec * part.rec
        of_fakes = None
        if objective.decoder_fake_kl_matters or objective.decoder_fake_rec_matters:
            with _frozen(encoder_parameters):
                fake_mu, fake_logvar = self._encode_fakes(fakes, part, "decoder")
                of_fakes = self._prior(part.x.device)
            prior, of_kl = _detached(of_fakes), self._kl_noise(part, "decoder")
            rec_fakes = None
            if objective.decoder_fake_rec_matters:
                eps = part.draws.of_fakes(self._fakes, "decoder", fake_mu)
                z_fakes, kl_fakes = self._draw(fake_mu, fake_logvar, eps, prior, of_kl)
                rec_fakes = self._decoder_fake_rec(z_fakes, fakes, part)
            elif prior is not None:
                kl_fakes = prior.kl(fake_mu, fake_logvar, of_kl(fake_mu))
            else:
                kl_fakes = ops.gaussian_kl(fake_mu, fake_logvar)
            kl_fakes = self._weighted_kl(kl_fakes, fake_mu, fake_logvar, objective.class_kl_share)
            loss = loss + objective.decoder_fake_loss(rec_fakes, kl_fakes.view(len(fakes), -1), scale)
        moved = [part.z_prior] if of_fakes is not None and prior_parameters and "prior" in self._fakes else []
        if decoder_parameters or moved:
            torch.autograd.backward(_weighted(loss, share), inputs=[*decoder_parameters, *moved])
        if of_fakes is not None and moved and part.z_prior.grad is not None:
            moves = part.z_prior.grad.flatten(1)
            torch.autograd.backward(of_fakes.draw(part.noise), moves, inputs=prior_parameters)
        return loss.detach()

    def _encode_fakes(
        self, fakes: Sequence[Tensor], part: Part, update: Literal["encoder", "decoder"]
    ) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar of all kinds of fakes, [F B, ...]: the B rows of the first kind come first."""
        fakes, condition = self._seen(fakes, part, update), part.condition
        with batch_statistics(self.model.encoder, update=False):
            if not self.model.mixes_samples:
                return self._encode(_joined(fakes), _repeated(condition, len(fakes)))
            heads = [self._encode(fake, condition) for fake in fakes]
        return _joined([mu for mu, _ in heads]), _joined([logvar for _, logvar in heads])

    def _decode_fakes(self, z_fakes: Tensor, part: Part, name: Pass) -> Sequence[Tensor]:
        """Decode the re-encoded fakes [F B, ...], by the target decoder if there is one: one batch per kind."""
        kinds, condition = len(self._fakes), part.condition
        model = self.model if self.target is None else self.target.model
        with batch_statistics(model.decoder, update=False):
            if not model.mixes_samples:
                return self._decode(z_fakes, part, name, _repeated(condition, kinds), model).chunk(kinds)
            return [self._decode(z, part, name, condition, model) for z in z_fakes.chunk(kinds)]

    def _kl_noise(self, part: Part, update: Literal["encoder", "decoder"]) -> Callable[[Tensor], Tensor]:
        return partial(part.draws.of_kl, len(self._fakes), update)

    def _decoder_fake_rec(self, z_fakes: Tensor, fakes: list[Tensor], part: Part) -> Tensor:
        """Compute rec(x_f, x_ff) of the gamma_r term, [F, B]."""
        if self.target is not None:
            return self._fake_rec(self._decode_fakes(z_fakes, part, "decoder's fakes"), fakes)
        if self.objective.semantics == "official":
            again = self._decode_fakes(z_fakes.detach(), part, "decoder's fakes")
            return self._fake_rec(again, [fake.detach() for fake in fakes])
        with torch.no_grad():
            again = self._decode_fakes(z_fakes, part, "decoder's fakes")
        return self._fake_rec(again, fakes)

    def _fake_rec(self, again: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._rec(part, target) for part, target in zip(again, targets, strict=True)])


class IntroStep(_IntrospectiveStep[IntroObjective]):
    """One update of IntroVAE."""


class SoftIntroStep(_IntrospectiveStep[SoftIntroObjective]):
    """One update of Soft-IntroVAE."""


def _joined(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate batches for one pass."""
    return batches[0] if len(batches) == 1 else torch.cat(list(batches))


def _repeated(condition: Tensor | None, kinds: int) -> Tensor | None:
    return condition if condition is None or kinds == 1 else condition.repeat(kinds, 1)


def _detached(prior: Components | None) -> Components | None:
    return None if prior is None else prior.detached()


def _weighted(loss: Tensor, share: float) -> Tensor:
    return loss if share == 1.0 else loss * share


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Freeze `parameters`, which train otherwise, so that passes inside record gradients for their inputs only."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
