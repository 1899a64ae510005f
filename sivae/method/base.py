"""The base of the training steps: it cuts a batch into parts, runs the networks and weighs the kl."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.method.noise import NO_NOISE, Draws, Pass, StepNoise
from sivae.method.objectives import Objective
from sivae.models.base import VAEModel
from sivae.models.pair import as_model
from sivae.ops import ranges

AnyModel = VAEModel | nn.Module | tuple[nn.Module, nn.Module]
Distance = Callable[[Tensor, Tensor], Tensor]  # images and their targets -> [B]
AnyObjective = TypeVar("AnyObjective", bound=Objective)
Metrics = dict[str, Tensor]
FORWARD, ENCODER_UPDATE, DECODER_UPDATE, UPDATE = map(
    ranges.phase, ("forward passes", "encoder update", "decoder update", "update")
)


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step computes. Apart from `fresh_passes`, none of it changes what is computed, rounding apart.

    Attributes:
        accumulate: cut the batch into that many equal parts and hold one in memory at a time. The gradients are those
            of the whole batch (batch norm's statistics are each part's); the decoder's passes are no longer shared.
        autocast: run the networks in this dtype, with float32 weights and losses; None: in the batch's.
        fresh_passes: the decoder's update draws other noise, encodes the images again with the updated encoder and
            decodes anew, as the authors' style-based program does, instead of sharing the encoder's forward passes.
        rank, world_size: this process's place among several that train one model. The noise is then its rows of the
            draws that one process would make for all.
        data_size: number of training samples, for objectives that depend on it; None: unknown, or endless.
    """

    accumulate: int = 1
    autocast: torch.dtype | None = None
    fresh_passes: bool = False
    rank: int = 0
    world_size: int = 1
    data_size: int | None = None


DEFAULT_OPTIONS = StepOptions()


def step_plainly(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters of an optimizer by their gradients."""
    optimizer.step()


@dataclass
class Part:
    """Some rows of a batch on their way through a step.

    Attributes:
        x: real samples [B, ...].
        condition: [B, condition_dim], or None.
        z: drawn from q(z|x), [B, z_dim], with the encoder's graph behind it.
        z_leaf: the same without; the passes that both updates use start there.
        rec: reconstruction error, a scalar.
        kl_real: a scalar, as the objective weighs it.
        kl_metrics: of the kl, for the record.
        fakes: one batch like x per kind of fake.
    """

    x: Tensor
    condition: Tensor | None
    draws: Draws
    z: Tensor = field(init=False)
    z_leaf: Tensor = field(init=False)
    rec: Tensor = field(init=False)
    kl_real: Tensor = field(init=False)
    kl_metrics: Metrics = field(init=False)
    fakes: list[Tensor] = field(init=False)


class BaseStep(Generic[AnyObjective]):
    """The state of a step.

    Args:
        model: the pair to train: a VAEModel, a tuple (encoder, decoder) of modules, or a module with `encoder` and
            `decoder`; see :func:`sivae.models.pair.as_model`.
        encoder_optimizer, decoder_optimizer: over `model.encoder` and `model.decoder`.
        objective: the weights of the loss.
        generator: where the noise comes from; default: the default generator of the batch's device.
        options: how to compute.
        apply: takes an optimizer whose parameters hold the gradients of this process's batch, and updates them;
            default: `optimizer.step()`.
        distance: the reconstruction error, [B], instead of the objective's kind.
    """

    def __init__(
        self,
        model: AnyModel,
        encoder_optimizer: torch.optim.Optimizer,
        decoder_optimizer: torch.optim.Optimizer,
        objective: AnyObjective,
        *,
        generator: torch.Generator | None = None,
        options: StepOptions = DEFAULT_OPTIONS,
        apply: Callable[[torch.optim.Optimizer], None] = step_plainly,
        distance: Distance | None = None,
    ) -> None:
        self.model = as_model(model, type(self).__name__)
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.objective = objective
        self.generator = generator
        self.options = options
        self.apply = apply
        self.distance = distance

    def __call__(self, batch: Tensor, noise: StepNoise = NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update the networks on a batch [B, ...]. Returns detached scalars on the batch's device, batch means.

        Args:
            batch: real samples, B at least 1.
            noise: draws to use instead of the generator's.
            condition: [B, condition_dim], for a model that takes one.
        """
        raise NotImplementedError

    def _parts(self, batch: Tensor, noise: StepNoise, condition: Tensor | None) -> list[Part]:
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
            draws = Draws(noise, seed, own, options.rank * rows + start, options.world_size * rows, number)
            parts.append(Part(batch[own], None if condition is None else condition[own], draws))
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

    def _decode(self, z: Tensor, part: Part, name: Pass, condition: Tensor | None) -> Tensor:
        noise = part.draws.of_pass(name, self.model.OFFSETS_PER_PASS)
        with self._autocast(z.device):
            decoded = self.model.decode_for_training(z, condition, noise=noise, prior=name in ("prior", "fresh prior"))
        return self._for_losses(decoded)

    @property
    def kind(self) -> str:
        """The reconstruction error of the objective."""
        kind = self.objective.kind
        if kind is None:
            raise ValueError(f"{type(self).__name__}: the objective's error is perceptual; give distance=")
        return kind

    def _rec(self, recon: Tensor, target: Tensor) -> Tensor:
        """The reconstruction error, [B]."""
        if self.distance is not None:
            return self.distance(recon, target)
        return ops.reconstruction_error(recon, target, kind=self.kind)

    def _weighted_kl(self, kl: Tensor, mu: Tensor, logvar: Tensor, class_share: float) -> Tensor:
        """kl [B] with each nat of the class's part counting `class_share`."""
        if class_share == 1.0:
            return kl
        of_class = self._class_kl(mu, logvar)
        return kl if of_class is None else kl + (class_share - 1.0) * of_class

    def _class_kl(self, mu: Tensor, logvar: Tensor) -> Tensor | None:
        part, of_logvar = self.model.class_part(mu), self.model.class_part(logvar)
        return None if part is None or of_logvar is None else ops.gaussian_kl(part, of_logvar)

    def _real_kl(self, kl: Tensor, mu: Tensor, logvar: Tensor, class_share: float) -> tuple[Tensor, Metrics]:
        """As :meth:`_weighted_kl`, and for the record the mean kl and the class's part of it where there is one."""
        metrics = {"kl_real": kl.detach().mean()}
        of_class = self._class_kl(mu, logvar)
        if of_class is None:
            return kl, metrics
        weighted = kl if class_share == 1.0 else kl + (class_share - 1.0) * of_class
        return weighted, {**metrics, "kl_real_class": of_class.detach().mean()}

    def _for_losses(self, output: Tensor) -> Tensor:
        return output if self.options.autocast is None else output.float()


def mean_of(metrics: list[Metrics]) -> Metrics:
    """The metrics of a batch from those of its parts, which are equally large."""
    if len(metrics) == 1:
        return metrics[0]
    return {name: torch.stack([values[name] for values in metrics]).mean() for name in metrics[0]}
