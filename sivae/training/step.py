"""One training step: the encoder's update, then the decoder's, with the forward passes that both can share run once.

Read it beside Algorithm 1 of "Soft-IntroVAE" (Daniel & Tamar, CVPR 2021). E is the encoder, D the decoder. The plain
loop makes 5 passes of E and 8 of D; the noise and z of the decoder's update are those of the encoder's, and so is the
decoder until its own update, so D(z) and D(noise) are computed once and serve both.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models import VAEModel
from sivae.objectives import FAKES, Fake, IntroObjective, Objective, SoftIntroObjective, VAEObjective
from sivae.ops import ranges

AnyObjective = TypeVar("AnyObjective", bound=Objective)
Introspective = TypeVar("Introspective", bound=IntroObjective | SoftIntroObjective)
Metrics = dict[str, Tensor]
_SHORT: dict[Fake, str] = {"reconstruction": "rec", "prior": "fake"}


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """Every noise draw of one step, each [B, z_dim]; what is None is drawn from the step's generator.

    "rec" and "fake" name the fakes that are reconstructions and decoded prior samples; "encoder" and "decoder" the
    update that re-encodes them. The decoder's two are used only where its gamma_r term is computed.
    """

    prior: Tensor | None = None
    eps_real: Tensor | None = None
    eps_rec_encoder: Tensor | None = None
    eps_fake_encoder: Tensor | None = None
    eps_rec_decoder: Tensor | None = None
    eps_fake_decoder: Tensor | None = None

    def of_fakes(self, kinds: Sequence[Fake], update: Literal["encoder", "decoder"]) -> Tensor | None:
        """eps of the re-encoded fakes of one update, one kind below the other, [F B, z_dim]; None: to be drawn."""
        names = [f"eps_{_SHORT[kind]}_{update}" for kind in kinds]
        given = [eps for eps in (getattr(self, name) for name in names) if eps is not None]
        if not given:
            return None
        if len(given) != len(names):
            raise ValueError(f"StepNoise: of {', '.join(names)} some are given and some not, expected all or none")
        return torch.cat(given)


_PRIOR_OFFSET, _REAL_OFFSET, _ENCODER_OFFSET, _DECODER_OFFSET = range(4)  # the draws of a step, told apart
_NO_NOISE = StepNoise()
_FORWARD, _ENCODER_UPDATE, _DECODER_UPDATE, _UPDATE = map(
    ranges.phase, ("forward passes", "encoder update", "decoder update", "update")
)


class _Step(Generic[AnyObjective]):
    """What every step holds.

    Args:
        model: the pair to train.
        encoder_optimizer, decoder_optimizer: over `model.encoder` and `model.decoder`.
        objective: the weights of the loss.
        generator: where the noise comes from; default: the default generator of the batch's device.
    """

    def __init__(
        self,
        model: VAEModel,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        objective: AnyObjective,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model = model
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.objective = objective
        self.generator = generator


class VAEStep(_Step[VAEObjective]):
    """One joint update of encoder and decoder on the negative ELBO; also the warm-up of the other steps."""

    def __call__(self, batch: Tensor, noise: StepNoise = _NO_NOISE) -> Metrics:
        """Update on `batch` [B, ...]. Returns detached scalars: loss, rec, kl_real (batch means, on the device)."""
        self.encoder_optimizer.zero_grad(set_to_none=True)
        self.decoder_optimizer.zero_grad(set_to_none=True)
        with _FORWARD:
            mu, logvar = self.model.encode(batch)
            seed = ops.draw_seed(batch.device, self.generator)
            z, kl = ops.reparameterize_kl(mu, logvar, noise=_or_philox(noise.eps_real, seed, _REAL_OFFSET))
            rec = ops.reconstruction_error(self.model.decode(z), batch, kind=self.objective.kind)
            loss = self.objective.loss(rec, kl)
        with _UPDATE:
            loss.backward()
            self.encoder_optimizer.step()
            self.decoder_optimizer.step()
        return {"loss": loss.detach(), "rec": rec.detach().mean(), "kl_real": kl.detach().mean()}


class _IntrospectiveStep(_Step[Introspective]):
    """The alternating update that IntroVAE and Soft-IntroVAE share; the objective says what is done with rec and kl.

    Parameters that do not require a gradient when the step is called are left as they are.

    Raises:
        NotImplementedError: the model mixes the samples of a batch (batch norm).
    """

    def __init__(
        self,
        model: VAEModel,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        objective: Introspective,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, encoder_optimizer, decoder_optimizer, objective, generator=generator)
        if model.mixes_samples:
            raise NotImplementedError(
                f"{type(self).__name__}: {type(model).__name__} mixes the samples of a batch (batch norm); "
                "real and fake batches share passes here, so use a norm that treats each sample alone"
            )
        self._fakes = tuple(kind for kind in FAKES if kind in objective.fakes)

    def __call__(self, batch: Tensor, noise: StepNoise = _NO_NOISE) -> Metrics:
        """Update the encoder, then the decoder, on `batch` [B, ...], B at least 1.

        Returns:
            Detached scalars on the batch's device, batch means: loss_encoder, loss_decoder, rec, kl_real, kl_fake,
            kl_rec, exp_elbo_fake, exp_elbo_rec; of the fakes only those in use, and exp_elbo only for Soft-IntroVAE.
        """
        if batch.shape[0] == 0:
            raise ValueError(f"{type(self).__name__}: the batch has no samples")
        objective, model = self.objective, self.model
        encoder_parameters, decoder_parameters = _trainable(model.encoder), _trainable(model.decoder)
        scale = objective.scale_for(math.prod(batch.shape[1:]))
        seed = ops.draw_seed(batch.device, self.generator)
        self.encoder_optimizer.zero_grad(set_to_none=True)
        self.decoder_optimizer.zero_grad(set_to_none=True)

        # Forward passes that both updates use. D(z) starts at a leaf: its gradient there completes the encoder's.
        with _FORWARD:
            mu, logvar = model.encode(batch)
            z, kl = ops.reparameterize_kl(mu, logvar, noise=_or_philox(noise.eps_real, seed, _REAL_OFFSET))
            kl_real = kl.mean()
            z_leaf = z.detach().requires_grad_()
            recon = model.decode(z_leaf)
            rec = ops.reconstruction_error(recon, batch, kind=objective.kind, reduction="mean")
            fakes = [recon if kind == "reconstruction" else self._decode_prior(z, noise, seed) for kind in self._fakes]

        # Encoder's update: everything but the real kl ends at z_leaf or in the encoder's second pass.
        with _ENCODER_UPDATE:
            fake_mu, fake_logvar = model.encode(_joined([fake.detach() for fake in fakes]))
            eps = _or_philox(noise.of_fakes(self._fakes, "encoder"), seed, _ENCODER_OFFSET)
            z_fakes, kl_fakes = ops.reparameterize_kl(fake_mu, fake_logvar, noise=eps)
            kl_fakes = kl_fakes.view(len(fakes), -1)  # [F, B]
            rec_fakes = None
            if objective.needs_fake_rec:
                with _frozen(decoder_parameters):
                    again = model.decode(z_fakes)
                official = objective.semantics == "official"
                # Only z_leaf leads on from a target to the encoder, so only a reconstruction is worth its gradient.
                targets = [
                    fake if official and kind == "reconstruction" else fake.detach()
                    for kind, fake in zip(self._fakes, fakes, strict=True)
                ]
                rec_fakes = self._fake_rec(again, targets)
            fake_loss, exp_elbo = objective.encoder_fake_loss(rec_fakes, kl_fakes, scale)
            shared_loss = scale * objective.beta_rec * rec + fake_loss
            kl_loss = scale * objective.beta_kl * kl_real
            torch.autograd.backward(shared_loss, inputs=[z_leaf, *encoder_parameters], retain_graph=True)
            if encoder_parameters:
                torch.autograd.backward([z, kl_loss], [z_leaf.grad, None], inputs=encoder_parameters)
            self.encoder_optimizer.step()

        # Decoder's update: through the updated, frozen encoder.
        with _DECODER_UPDATE:
            loss_decoder = scale * objective.beta_rec * rec
            if objective.decoder_fake_kl_matters or objective.decoder_fake_rec_matters:
                with _frozen(encoder_parameters):
                    fake_mu, fake_logvar = model.encode(_joined(fakes))
                rec_fakes_decoder = None
                if objective.decoder_fake_rec_matters:
                    eps = _or_philox(noise.of_fakes(self._fakes, "decoder"), seed, _DECODER_OFFSET)
                    z_fakes, kl_fakes_decoder = ops.reparameterize_kl(fake_mu, fake_logvar, noise=eps)
                    rec_fakes_decoder = self._decoder_fake_rec(z_fakes.detach(), fakes)
                else:
                    kl_fakes_decoder = ops.gaussian_kl(fake_mu, fake_logvar)
                kl_fakes_decoder = kl_fakes_decoder.view(len(fakes), -1)
                loss_decoder = loss_decoder + objective.decoder_fake_loss(rec_fakes_decoder, kl_fakes_decoder, scale)
            if decoder_parameters:
                torch.autograd.backward(loss_decoder, inputs=decoder_parameters)
            self.decoder_optimizer.step()

        metrics = {
            "loss_encoder": shared_loss.detach() + kl_loss.detach(),
            "loss_decoder": loss_decoder.detach(),
            "rec": rec.detach(),
            "kl_real": kl_real.detach(),
        }
        per_kind = {"kl": kl_fakes.detach().mean(1)}
        if exp_elbo is not None:
            per_kind["exp_elbo"] = exp_elbo.detach()
        for name, values in per_kind.items():
            for index, kind in enumerate(self._fakes):
                metrics[f"{name}_{_SHORT[kind]}"] = values[index]
        return metrics

    def _decode_prior(self, like: Tensor, noise: StepNoise, seed: Tensor) -> Tensor:
        prior = noise.prior
        if prior is None:
            prior = ops.philox_normal(seed, like.shape, offset=_PRIOR_OFFSET, dtype=like.dtype)
        return self.model.decode(prior)

    def _decoder_fake_rec(self, z_fakes: Tensor, fakes: list[Tensor]) -> Tensor:
        """rec(x_f, x_ff) of the gamma_r term, [F, B]."""
        if self.objective.semantics == "official":
            return self._fake_rec(self.model.decode(z_fakes), [fake.detach() for fake in fakes])
        with torch.no_grad():
            again = self.model.decode(z_fakes)
        return self._fake_rec(again, fakes)

    def _fake_rec(self, again: Tensor, targets: Sequence[Tensor]) -> Tensor:
        parts = again.chunk(len(targets))
        kind = self.objective.kind
        return torch.stack(
            [ops.reconstruction_error(part, target, kind=kind) for part, target in zip(parts, targets, strict=True)]
        )


class IntroStep(_IntrospectiveStep[IntroObjective]):
    """One update of IntroVAE."""


class SoftIntroStep(_IntrospectiveStep[SoftIntroObjective]):
    """One update of Soft-IntroVAE."""


def _joined(batches: Sequence[Tensor]) -> Tensor:
    """Batches that meet the same weights, one below the other, for one pass."""
    return batches[0] if len(batches) == 1 else torch.cat(list(batches))


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Passes inside record gradients for their inputs only; `parameters` are those that otherwise train."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _or_philox(eps: Tensor | None, seed: Tensor, offset: int) -> Tensor | ops.PhiloxNoise:
    return ops.PhiloxNoise(seed, offset) if eps is None else eps
