"""One training step: the encoder's update, then the decoder's, with the forward passes that both can share run once.

Read it beside Algorithm 1 of "Soft-IntroVAE" (Daniel & Tamar, CVPR 2021). E is the encoder, D the decoder. The plain
loop makes 5 passes of E and 8 of D; the noise and z of the decoder's update are those of the encoder's, and so is the
decoder until its own update, so D(z) and D(noise) are computed once and serve both.

Where a network has batch norm, real and fake batches run apart, each with statistics of its own, and the running
statistics follow one pass of each kind: real images in the encoder, reconstructions and prior samples in the decoder.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models import VAEModel
from sivae.models.norm import batch_statistics
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
    update that re-encodes them. The decoder's two are used only where its gamma_r term is computed, `prior_decoder` and
    `eps_real_decoder` only where its passes are fresh.
    """

    prior: Tensor | None = None
    eps_real: Tensor | None = None
    eps_rec_encoder: Tensor | None = None
    eps_fake_encoder: Tensor | None = None
    eps_rec_decoder: Tensor | None = None
    eps_fake_decoder: Tensor | None = None
    prior_decoder: Tensor | None = None
    eps_real_decoder: Tensor | None = None


# The draws of a step, told apart. Those of the decoder's own noise come last, a range for each pass of each part.
_PRIOR_OFFSET, _REAL_OFFSET, _ENCODER_OFFSET, _DECODER_OFFSET, _FRESH_PRIOR_OFFSET, _FRESH_REAL_OFFSET = range(6)
_PASSES_OFFSET = 32
_Pass = Literal["reconstruction", "prior", "encoder's fakes", "decoder's fakes", "fresh reconstruction", "fresh prior"]
_PASSES: tuple[_Pass, ...] = get_args(_Pass)
_NO_NOISE = StepNoise()
_FORWARD, _ENCODER_UPDATE, _DECODER_UPDATE, _UPDATE = map(
    ranges.phase, ("forward passes", "encoder update", "decoder update", "update")
)


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step computes; but for `fresh_passes`, none of it changes what is computed, rounding apart.

    Attributes:
        accumulate: cut the batch into that many equal parts and hold one in memory at a time. The gradients are those
            of the whole batch (batch norm's statistics are each part's); the decoder's passes are no longer shared.
        autocast: run the networks in this dtype, with float32 weights and losses; None: in the batch's.
        fresh_passes: the decoder's update draws other noise, encodes the images again with the updated encoder and
            decodes anew, as the authors' style-based program does, instead of sharing the encoder's forward passes.
        rank, world_size: this process's place among several that train one model. The noise is then its rows of the
            draws that one process would make for all.
    """

    accumulate: int = 1
    autocast: torch.dtype | None = None
    fresh_passes: bool = False
    rank: int = 0
    world_size: int = 1


_DEFAULT = StepOptions()


def _step_plainly(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


@dataclass(frozen=True)
class _Draws:
    """The noise of one part of a batch.

    Attributes:
        given: noise for the whole batch, or None where it is to be drawn.
        rows: this part's rows of the batch.
        first: the number of this part's first row among those of all processes.
        total: the number of rows of all processes.
        part: this part's number among those of all processes.
        fresh: whether these are the other draws that an update of the decoder with passes of its own has.
    """

    given: StepNoise
    seed: Tensor
    rows: slice
    first: int
    total: int
    part: int
    fresh: bool = False

    def prior(self, like: Tensor) -> Tensor:
        """Latents to decode, of the shape of z, [B, z_dim]."""
        given, offset = (
            (self.given.prior_decoder, _FRESH_PRIOR_OFFSET) if self.fresh else (self.given.prior, _PRIOR_OFFSET)
        )
        return self._normal(offset, 1, like) if given is None else given[self.rows]

    def of_real(self, like: Tensor) -> Tensor | ops.PhiloxNoise:
        if self.fresh:
            return self._eps(("eps_real_decoder",), _FRESH_REAL_OFFSET, like)
        return self._eps(("eps_real",), _REAL_OFFSET, like)

    def of_pass(self, name: _Pass, offsets: int) -> ops.PhiloxNoise:
        """Where the decoder's noise of a pass begins, which may use as many offsets."""
        number = self.part * len(_PASSES) + _PASSES.index(name)
        return ops.PhiloxNoise(self.seed, _PASSES_OFFSET + number * offsets)

    def of_fakes(
        self, kinds: Sequence[Fake], update: Literal["encoder", "decoder"], like: Tensor
    ) -> Tensor | ops.PhiloxNoise:
        """eps of the re-encoded fakes of one update, one kind below the other, [F B, z_dim]."""
        offset = _ENCODER_OFFSET if update == "encoder" else _DECODER_OFFSET
        return self._eps(tuple(f"eps_{_SHORT[kind]}_{update}" for kind in kinds), offset, like)

    def _eps(self, names: tuple[str, ...], offset: int, like: Tensor) -> Tensor | ops.PhiloxNoise:
        given = [eps for eps in (getattr(self.given, name) for name in names) if eps is not None]
        if given and len(given) != len(names):
            raise ValueError(f"StepNoise: of {', '.join(names)} some are given and some not, expected all or none")
        if given:
            return torch.cat([eps[self.rows] for eps in given])
        if self.total * len(names) == like.shape[0]:
            return ops.PhiloxNoise(self.seed, offset)  # made inside the op that uses it
        return self._normal(offset, len(names), like)

    def _normal(self, offset: int, kinds: int, like: Tensor) -> Tensor:
        every = ops.philox_normal(
            self.seed, (kinds, self.total, *like.shape[1:]), offset=offset, dtype=like.dtype
        )  # [F, all rows, z_dim]
        return every[:, self.first : self.first + like.shape[0] // kinds].reshape(like.shape)


@dataclass
class _Part:
    """Some rows of a batch on their way through a step.

    Attributes:
        x: real samples [B, ...].
        condition: [B, condition_dim], or None.
        z: drawn from q(z|x), [B, z_dim], with the encoder's graph behind it.
        z_leaf: the same without; the passes that both updates use start there.
        rec: reconstruction error, a scalar.
        kl_real: a scalar.
        fakes: one batch like x per kind of fake.
    """

    x: Tensor
    condition: Tensor | None
    draws: _Draws
    z: Tensor = field(init=False)
    z_leaf: Tensor = field(init=False)
    rec: Tensor = field(init=False)
    kl_real: Tensor = field(init=False)
    fakes: list[Tensor] = field(init=False)


class _Step(Generic[AnyObjective]):
    """What every step holds.

    Args:
        model: the pair to train.
        encoder_optimizer, decoder_optimizer: over `model.encoder` and `model.decoder`.
        objective: the weights of the loss.
        generator: where the noise comes from; default: the default generator of the batch's device.
        options: how to compute.
        apply: takes an optimizer whose parameters hold the gradients of this process's batch, and updates them;
            default: `optimizer.step()`.
    """

    def __init__(
        self,
        model: VAEModel,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        objective: AnyObjective,
        *,
        generator: torch.Generator | None = None,
        options: StepOptions = _DEFAULT,
        apply: Callable[[torch.optim.Optimizer], None] = _step_plainly,
    ) -> None:
        self.model = model
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.objective = objective
        self.generator = generator
        self.options = options
        self.apply = apply

    def _parts(self, batch: Tensor, noise: StepNoise, condition: Tensor | None) -> list[_Part]:
        rows, count, options = batch.shape[0], self.options.accumulate, self.options
        if rows == 0:
            raise ValueError(f"{type(self).__name__}: the batch has no samples")
        if rows % count:
            raise ValueError(
                f"{type(self).__name__}: the batch has {rows} samples, expected a multiple of accumulate = {count}"
            )
        seed = ops.draw_seed(batch.device, self.generator)
        size = rows // count
        parts = []
        for index, start in enumerate(range(0, rows, size)):
            own = slice(start, start + size)
            number = options.rank * count + index
            draws = _Draws(noise, seed, own, options.rank * rows + start, options.world_size * rows, number)
            parts.append(_Part(batch[own], None if condition is None else condition[own], draws))
        return parts

    def _zero_gradients(self) -> None:
        self.encoder_optimizer.zero_grad(set_to_none=True)
        self.decoder_optimizer.zero_grad(set_to_none=True)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        dtype = self.options.autocast
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def _encode(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        with self._autocast(x.device):
            mu, logvar = self.model.encode(x, condition)
        return self._for_losses(mu), self._for_losses(logvar)

    def _decode(self, z: Tensor, part: _Part, name: _Pass, condition: Tensor | None) -> Tensor:
        noise = part.draws.of_pass(name, self.model.OFFSETS_PER_PASS)
        with self._autocast(z.device):
            decoded = self.model.decode_for_training(z, condition, noise=noise, prior=name in ("prior", "fresh prior"))
        return self._for_losses(decoded)

    def _for_losses(self, output: Tensor) -> Tensor:
        return output if self.options.autocast is None else output.float()


class VAEStep(_Step[VAEObjective]):
    """One joint update of encoder and decoder on the negative ELBO; also the warm-up of the other steps."""

    def __call__(self, batch: Tensor, noise: StepNoise = _NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update on `batch` [B, ...]. Returns detached scalars: loss, rec, kl_real (batch means, on the device)."""
        self._zero_gradients()
        metrics = []
        parts = self._parts(batch, noise, condition)
        for part in parts:
            with _FORWARD:
                mu, logvar = self._encode(part.x, part.condition)
                z, kl = ops.reparameterize_kl(mu, logvar, noise=part.draws.of_real(mu))
                recon = self._decode(z, part, "reconstruction", part.condition)
                rec = ops.reconstruction_error(recon, part.x, kind=self.objective.kind)
                loss = self.objective.loss(rec, kl)
            with _UPDATE:
                (loss / len(parts)).backward()
            metrics.append({"loss": loss.detach(), "rec": rec.detach().mean(), "kl_real": kl.detach().mean()})
        with _UPDATE:
            self.apply(self.encoder_optimizer)
            self.apply(self.decoder_optimizer)
        return _mean_of(metrics)


class _IntrospectiveStep(_Step[Introspective]):
    """The alternating update that IntroVAE and Soft-IntroVAE share; the objective says what is done with rec and kl.

    Parameters that do not require a gradient when the step is called are left as they are.
    """

    def __init__(
        self,
        model: VAEModel,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        objective: Introspective,
        *,
        generator: torch.Generator | None = None,
        options: StepOptions = _DEFAULT,
        apply: Callable[[torch.optim.Optimizer], None] = _step_plainly,
    ) -> None:
        super().__init__(
            model, encoder_optimizer, decoder_optimizer, objective, generator=generator, options=options, apply=apply
        )
        self._fakes = tuple(kind for kind in FAKES if kind in objective.fakes)

    def __call__(self, batch: Tensor, noise: StepNoise = _NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update the encoder, then the decoder, on `batch` [B, ...], B at least 1.

        Args:
            batch: real samples.
            noise: draws to use instead of the generator's.
            condition: [B, condition_dim] for a conditional model; its fakes have the conditions of the real samples.

        Returns:
            Detached scalars on the batch's device, batch means: loss_encoder, loss_decoder, rec, kl_real, kl_fake,
            kl_rec, exp_elbo_fake, exp_elbo_rec; of the fakes only those in use, and exp_elbo only for Soft-IntroVAE.
        """
        parts = self._parts(batch, noise, condition)
        encoder_parameters, decoder_parameters = _trainable(self.model.encoder), _trainable(self.model.decoder)
        self._zero_gradients()
        share = 1.0 / len(parts)
        # Where the decoder's update comes after other parts, it computes its passes again.
        again = len(parts) > 1 or self.options.fresh_passes
        metrics = []
        for part in parts:
            with _FORWARD, _frozen(decoder_parameters if again else []):
                self._start(part)
            with _ENCODER_UPDATE:
                metrics.append(self._encoder_backward(part, encoder_parameters, decoder_parameters, share))
            if again:
                del part.fakes, part.rec, part.kl_real  # and with them the part's graph
                part.z_leaf = part.z = part.z.detach()
        with _ENCODER_UPDATE:
            self.apply(self.encoder_optimizer)
        for part, values in zip(parts, metrics, strict=True):
            if again:
                with _FORWARD, batch_statistics(self.model.decoder, update=False):
                    if self.options.fresh_passes:
                        self._draw_again(part)
                    self._decode_shared(part)
            with _DECODER_UPDATE:
                values["loss_decoder"] = self._decoder_backward(part, encoder_parameters, decoder_parameters, share)
        with _DECODER_UPDATE:
            self.apply(self.decoder_optimizer)
        return _mean_of(metrics)

    def _start(self, part: _Part) -> None:
        """E(x), and the passes of the decoder that both updates use."""
        mu, logvar = self._encode(part.x, part.condition)
        part.z, kl = ops.reparameterize_kl(mu, logvar, noise=part.draws.of_real(mu))
        part.kl_real = kl.mean()
        # D(z) starts at a leaf: its gradient there completes the encoder's.
        part.z_leaf = part.z.detach().requires_grad_()
        self._decode_shared(part)

    def _draw_again(self, part: _Part) -> None:
        """Other draws, and z from the encoder as it is by now."""
        part.draws = replace(part.draws, fresh=True)
        with torch.no_grad(), batch_statistics(self.model.encoder, update=False):
            mu, logvar = self._encode(part.x, part.condition)
            part.z_leaf = part.z = ops.reparameterize(mu, logvar, noise=part.draws.of_real(mu))

    def _decode_shared(self, part: _Part) -> None:
        of_real: _Pass = "fresh reconstruction" if part.draws.fresh else "reconstruction"
        of_prior: _Pass = "fresh prior" if part.draws.fresh else "prior"
        recon = self._decode(part.z_leaf, part, of_real, part.condition)
        part.rec = ops.reconstruction_error(recon, part.x, kind=self.objective.kind, reduction="mean")
        part.fakes = [
            recon
            if kind == "reconstruction"
            else self._decode(part.draws.prior(part.z), part, of_prior, part.condition)
            for kind in self._fakes
        ]

    def _encoder_backward(
        self,
        part: _Part,
        encoder_parameters: list[nn.Parameter],
        decoder_parameters: list[nn.Parameter],
        share: float,
    ) -> Metrics:
        """Add `share` of this part's gradient: everything but the real kl ends at z_leaf or in the second pass of E."""
        objective, fakes = self.objective, part.fakes
        scale = objective.scale_for(math.prod(part.x.shape[1:]))
        fake_mu, fake_logvar = self._encode_fakes([fake.detach() for fake in fakes], part.condition)
        eps = part.draws.of_fakes(self._fakes, "encoder", fake_mu)
        z_fakes, kl_fakes = ops.reparameterize_kl(fake_mu, fake_logvar, noise=eps)
        kl_fakes = kl_fakes.view(len(fakes), -1)  # [F, B]
        rec_fakes = None
        if objective.needs_fake_rec:
            with _frozen(decoder_parameters):
                again = self._decode_fakes(z_fakes, part, "encoder's fakes")
            official = objective.semantics == "official"
            # Only z_leaf leads on from a target to the encoder, so only a reconstruction is worth its gradient.
            targets = [
                fake if official and kind == "reconstruction" else fake.detach()
                for kind, fake in zip(self._fakes, fakes, strict=True)
            ]
            rec_fakes = self._fake_rec(again, targets)
        fake_loss, exp_elbo = objective.encoder_fake_loss(rec_fakes, kl_fakes, scale)
        shared_loss = scale * objective.beta_rec * part.rec + fake_loss
        kl_loss = scale * objective.beta_kl * part.kl_real
        torch.autograd.backward(
            _weighted(shared_loss, share), inputs=[part.z_leaf, *encoder_parameters], retain_graph=True
        )
        if encoder_parameters:
            torch.autograd.backward(
                [part.z, _weighted(kl_loss, share)], [part.z_leaf.grad, None], inputs=encoder_parameters
            )

        metrics = {
            "loss_encoder": shared_loss.detach() + kl_loss.detach(),
            "rec": part.rec.detach(),
            "kl_real": part.kl_real.detach(),
        }
        per_kind = {"kl": kl_fakes.detach().mean(1)}
        if exp_elbo is not None:
            per_kind["exp_elbo"] = exp_elbo.detach()
        for name, values in per_kind.items():
            for index, kind in enumerate(self._fakes):
                metrics[f"{name}_{_SHORT[kind]}"] = values[index]
        return metrics

    def _decoder_backward(
        self,
        part: _Part,
        encoder_parameters: list[nn.Parameter],
        decoder_parameters: list[nn.Parameter],
        share: float,
    ) -> Tensor:
        """Add `share` of this part's gradient, through the updated, frozen encoder. Returns the loss."""
        objective, fakes = self.objective, part.fakes
        scale = objective.scale_for(math.prod(part.x.shape[1:]))
        loss = scale * objective.beta_rec * part.rec
        if objective.decoder_fake_kl_matters or objective.decoder_fake_rec_matters:
            with _frozen(encoder_parameters):
                fake_mu, fake_logvar = self._encode_fakes(fakes, part.condition)
            rec_fakes = None
            if objective.decoder_fake_rec_matters:
                eps = part.draws.of_fakes(self._fakes, "decoder", fake_mu)
                z_fakes, kl_fakes = ops.reparameterize_kl(fake_mu, fake_logvar, noise=eps)
                rec_fakes = self._decoder_fake_rec(z_fakes.detach(), fakes, part)
            else:
                kl_fakes = ops.gaussian_kl(fake_mu, fake_logvar)
            loss = loss + objective.decoder_fake_loss(rec_fakes, kl_fakes.view(len(fakes), -1), scale)
        if decoder_parameters:
            torch.autograd.backward(_weighted(loss, share), inputs=decoder_parameters)
        return loss.detach()

    def _encode_fakes(self, fakes: Sequence[Tensor], condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """mu and logvar of every kind of fake, one below the other, [F B, z_dim]."""
        with batch_statistics(self.model.encoder, update=False):
            if not self.model.mixes_samples:
                return self._encode(_joined(fakes), _repeated(condition, len(fakes)))
            heads = [self._encode(fake, condition) for fake in fakes]
        return _joined([mu for mu, _ in heads]), _joined([logvar for _, logvar in heads])

    def _decode_fakes(self, z_fakes: Tensor, part: _Part, name: _Pass) -> Sequence[Tensor]:
        """D of the re-encoded fakes [F B, z_dim], one batch per kind."""
        kinds, condition = len(self._fakes), part.condition
        with batch_statistics(self.model.decoder, update=False):
            if not self.model.mixes_samples:
                return self._decode(z_fakes, part, name, _repeated(condition, kinds)).chunk(kinds)
            return [self._decode(z, part, name, condition) for z in z_fakes.chunk(kinds)]

    def _decoder_fake_rec(self, z_fakes: Tensor, fakes: list[Tensor], part: _Part) -> Tensor:
        """rec(x_f, x_ff) of the gamma_r term, [F, B]."""
        if self.objective.semantics == "official":
            again = self._decode_fakes(z_fakes, part, "decoder's fakes")
            return self._fake_rec(again, [fake.detach() for fake in fakes])
        with torch.no_grad():
            again = self._decode_fakes(z_fakes, part, "decoder's fakes")
        return self._fake_rec(again, fakes)

    def _fake_rec(self, again: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        kind = self.objective.kind
        return torch.stack(
            [ops.reconstruction_error(part, target, kind=kind) for part, target in zip(again, targets, strict=True)]
        )


class IntroStep(_IntrospectiveStep[IntroObjective]):
    """One update of IntroVAE."""


class SoftIntroStep(_IntrospectiveStep[SoftIntroObjective]):
    """One update of Soft-IntroVAE."""


def _joined(batches: Sequence[Tensor]) -> Tensor:
    """Batches that meet the same weights, one below the other, for one pass."""
    return batches[0] if len(batches) == 1 else torch.cat(list(batches))


def _repeated(condition: Tensor | None, kinds: int) -> Tensor | None:
    return condition if condition is None or kinds == 1 else condition.repeat(kinds, 1)


def _weighted(loss: Tensor, share: float) -> Tensor:
    return loss if share == 1.0 else loss * share


def _mean_of(metrics: list[Metrics]) -> Metrics:
    """The metrics of a batch from those of its parts, which are equally large."""
    if len(metrics) == 1:
        return metrics[0]
    return {name: torch.stack([values[name] for values in metrics]).mean() for name in metrics[0]}


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
