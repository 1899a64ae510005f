"""The base class of the training steps: it cuts a batch into parts, runs the networks and weights the kl."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sivae import ops
from sivae.method.augmentation import DRAWS, augment
from sivae.method.kl_average import ErrorAverage, KLAverage
from sivae.method.noise import NO_NOISE, Draws, Pass, StepNoise
from sivae.method.objectives import BCE, CHAMFER, GAUSSIAN, Augmentation, Objective
from sivae.method.target import TargetDecoder
from sivae.models.base import VAEModel, described, mu_and_logvar
from sivae.models.pair import as_model
from sivae.models.priors import Components
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
    """Settings of a step's computation. Apart from `fresh_passes` and `augment` they change results only by rounding.

    β-TC-VAE is an exception: its estimate depends on `data_size`, and uses the rows of one part and of one process.

    Attributes:
        accumulate: cut the batch into this number of equal parts, and hold one part in memory at a time. The gradients
            are those of the whole batch (batch norm's statistics are each part's). The two updates then no longer share
            the decoder's passes.
        autocast: run the networks in this dtype, with float32 weights and losses; None: in the batch's dtype.
        fresh_passes: in the decoder's update, draw new noise, encode the images again with the updated encoder and
            decode again, as the authors' style-based program does, instead of using the encoder's forward passes.
        rank, world_size: number of this process, and number of processes that train one model. The noise of a process
            is its rows of the draws that one process would make for all.
        data_size: number of training samples, for objectives that need it; None: unknown, or endless.
        augment: kinds of random augmentation, see :func:`sivae.method.augmentation.augment`. The encoder sees augmented
            images, real and fake ones; errors are against the images as they were.
    """

    accumulate: int = 1
    autocast: torch.dtype | None = None
    fresh_passes: bool = False
    rank: int = 0
    world_size: int = 1
    data_size: int | None = None
    augment: tuple[Augmentation, ...] = ()


DEFAULT_OPTIONS = StepOptions()


def step_plainly(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters of an optimizer by their gradients."""
    optimizer.step()


@dataclass
class Part:
    """Some rows of a batch, and what a step has computed from them.

    Attributes:
        x: real samples [B, ...].
        condition: [B, condition_dim], or None.
        draws: noise of these rows.
        z: draws from q(z|x), [B, *latent_shape], with the graph of the encoder.
        z_leaf: the same values without a graph; the passes that both updates use start here.
        prior: the learned prior's components in this update; None for the standard prior.
        noise: noise of a learned prior's samples, [B, noise_dim].
        z_prior: the prior samples, of the shape of z, a leaf where the learned prior trains.
        rec: reconstruction error, a scalar.
        kl_real: KL divergence of the real samples with the objective's weights, a scalar.
        kl_metrics: the kl and its parts, for the record.
        fakes: for each kind of fake a batch of the shape of x.
    """

    x: Tensor
    condition: Tensor | None
    draws: Draws
    z: Tensor = field(init=False)
    z_leaf: Tensor = field(init=False)
    prior: Components | None = field(init=False)
    noise: Tensor = field(init=False)
    z_prior: Tensor = field(init=False)
    rec: Tensor = field(init=False)
    kl_real: Tensor = field(init=False)
    kl_metrics: Metrics = field(init=False)
    fakes: list[Tensor] = field(init=False)


class BaseStep(Generic[AnyObjective]):
    """One training step: a call updates the networks on a batch. Subclasses implement the call.

    Args:
        model: the networks to train: a VAEModel, a tuple (encoder, decoder) of modules, or a module with `encoder` and
            `decoder`; see :func:`sivae.models.pair.as_model`.
        encoder_optimizer, decoder_optimizer: optimizers of `model.encoder` and `model.decoder`.
        objective: the weights of the loss.
        generator: generator of the noise; None: the default generator of the batch's device.
        options: settings of the computation.
        apply: updates the parameters of an optimizer by the gradients of this process's batch; default:
            `optimizer.step()`.
        distance: replaces the objective's reconstruction error; images and their targets -> [B].
        kl_average: running mean of the real samples' kl, for an automatic beta_neg; several steps that train one model
            share it. None: one of its own, if it needs one. With several processes, give one with `reduce`.
        prior_optimizer: optimizer of the model's learned prior, `model.prior`; None: the prior stays as it is.
        target: the target decoder, for `bootstrap`; several steps that train one model share it. None: one of its own,
            if it needs one. The step does not know the epochs: call `step.target.copy()` at their ends.
        error_average: running mean of the squared error, for the kind "gaussian" without a `distance`; shared and made
            as `kl_average`.
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
        kl_average: KLAverage | None = None,
        target: TargetDecoder | None = None,
        prior_optimizer: torch.optim.Optimizer | None = None,
        error_average: ErrorAverage | None = None,
    ) -> None:
        self.model = as_model(model, type(self).__name__, encoder_optimizer, decoder_optimizer)
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.prior_optimizer = prior_optimizer
        self.objective = objective
        self.generator = generator
        self.options = options
        self.apply = apply
        self.distance = ops.chamfer_distance if distance is None and objective.kind == CHAMFER else distance
        self.kl_average = KLAverage() if kl_average is None and objective.follows_kl else kl_average
        if target is None and objective.target_every is not None:
            target = TargetDecoder(self.model)
        self.target = target
        self.error_average = None
        if objective.kind == GAUSSIAN and distance is None:
            self.error_average = ErrorAverage() if error_average is None else error_average
        logits = objective.kind == BCE and distance is None  # a distance compares images
        self._logits = logits and getattr(self.model, "makes_logits", False)
        self._latent_shape: tuple[int, ...] | None = getattr(self.model, "latent_shape", None)
        self._modal = {
            side: [layer for layer in network.modules() if isinstance(layer, _BatchNorm | _DropoutNd)]
            for side, network in (("encoder", self.model.encoder), ("decoder", self.model.decoder))
        }

    def __call__(self, batch: Tensor, noise: StepNoise = NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update the networks on a batch [B, ...]. Returns detached scalars on the batch's device, batch means.

        Args:
            batch: real samples, B at least 1.
            noise: draws to use instead of the generator's.
            condition: [B, condition_dim], for a model that takes one.
        """
        raise NotImplementedError

    def _parts(self, batch: Tensor, noise: StepNoise, condition: Tensor | None) -> list[Part]:
        if not isinstance(batch, Tensor) or batch.dim() == 0:
            raise TypeError(
                f"{type(self).__name__}: batch is {described(batch)}, expected a tensor [B, ...] of samples; of the "
                "(images, labels) of a loader, pass the images"
            )
        self._check_mode()
        rows, count, options = batch.shape[0], self.options.accumulate, self.options
        self._elements = math.prod(batch.shape[1:])
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

    def _finished(self, metrics: list[Metrics]) -> Metrics:
        """Average the metrics of equally large parts, and add the mean kl and error to the running means."""
        result = mean_of(metrics)
        if self.error_average is not None:
            variance = self.error_average.variance(result["rec"])
            self.error_average.observe(result["rec"] * (2.0 * variance / self._elements))
            result["rec"] = result["rec"] + 0.5 * self._elements * (2.0 * math.pi * variance).log()
            result["decoder_std"] = variance.sqrt()
        if self.kl_average is not None:
            self.kl_average.observe(result["kl_real"])
        return result

    def _zero_gradients(self) -> None:
        self.encoder_optimizer.zero_grad(set_to_none=True)
        self.decoder_optimizer.zero_grad(set_to_none=True)
        if self.prior_optimizer is not None:
            self.prior_optimizer.zero_grad(set_to_none=True)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        dtype = self.options.autocast
        return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def _seen(self, images: Sequence[Tensor], part: Part, of: Literal["real", "encoder", "decoder"]) -> list[Tensor]:
        """What the encoder sees of batches of `part`: the images, or their augmentations.

        Args:
            images: one batch [B, ...] of each kind.
            of: "real", or the update that encodes fakes.
        """
        kinds = self.options.augment
        if not kinds:
            return list(images)
        draws = part.draws.of_augmentation(of, len(images), sum(map(len, images)), DRAWS)
        value_range = getattr(self.model, "value_range", None) or (0.0, 1.0)
        pairs = zip(images, draws.chunk(len(images)), strict=True)
        return [augment(batch, of_batch, kinds, value_range) for batch, of_batch in pairs]

    def _encode_real(self, part: Part, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._encode(self._seen([part.x], part, "real")[0], condition)

    def _encode(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        try:
            with self._autocast(x.device):
                heads = self.model.encode(x, condition)
        except RuntimeError as error:
            self._explain(error, "encoder", x)
            raise
        mu, logvar = mu_and_logvar(heads)
        shape = self._latent_shape
        if mu.shape[0] != x.shape[0] or (shape is not None and mu.shape[1 : 1 + len(shape)] != shape):
            expected = [x.shape[0], *(("z_dim",) if shape is None else shape)]
            raise ValueError(
                f"{type(self).__name__}: the model's encoder returned mu of shape {list(mu.shape)} for a batch of "
                f"shape {list(x.shape)}, expected {expected}; change its last layer"
            )
        return self._for_losses(mu), self._for_losses(logvar)

    def _prior_parameters(self) -> list[nn.Parameter]:
        """The parameters of the learned prior that train."""
        if self.model.prior is None or self.prior_optimizer is None:
            return []
        return [parameter for parameter in self.model.prior.parameters() if parameter.requires_grad]

    def _prior(self, device: torch.device) -> Components | None:
        """Compute the components of the learned prior in float32 at least, with their graph."""
        with self._autocast(device):
            components = self.model.prior_components()
        return None if components is None else Components(*map(self._for_losses, components))

    def _draw(
        self,
        mu: Tensor,
        logvar: Tensor,
        noise: Tensor | ops.PhiloxNoise,
        prior: Components | None,
        of_kl: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Draw z of the posteriors, in the shape of mu, and compute their kl [B], summed over all of a sample's values.

        Args:
            mu, logvar, noise: as for :func:`sivae.ops.reparameterize`.
            prior: components of the learned prior; None: the kl is to N(0, 1).
            of_kl: returns the noise that the kl to a learned prior needs, for mu.
        """
        if prior is None:
            return ops.reparameterize_kl(mu, logvar, noise=noise)
        return ops.reparameterize(mu, logvar, noise=noise), prior.kl(mu, logvar, of_kl(mu))

    def _decode(
        self, z: Tensor, part: Part, name: Pass, condition: Tensor | None, model: VAEModel | None = None
    ) -> Tensor:
        """Decode z by the decoder, or by that of another model; see :meth:`_samples`."""
        model = model or self.model
        noise = part.draws.of_pass(name, model.OFFSETS_PER_PASS)
        prior = name in ("prior", "fresh prior")
        try:
            with self._autocast(z.device):
                if self._logits:
                    decoded = model.raw_output(z, condition)
                else:
                    decoded = model.decode_for_training(z, condition, noise=noise, prior=prior)
        except RuntimeError as error:
            self._explain(error, "decoder", z)
            raise
        expected = [z.shape[0], *part.x.shape[1:]]
        if not isinstance(decoded, Tensor) or (self.distance is None and list(decoded.shape) != expected):
            raise ValueError(
                f"{type(self).__name__}: the model's decoder returned {described(decoded)} for latents of shape "
                f"{list(z.shape)}, expected a tensor {expected}, as the batch; change its last layer, or reshape the "
                "batch"
            )
        return self._for_losses(decoded)

    def _samples(self, decoded: Tensor) -> Tensor:
        """The samples of a decoder's output: their logits, for the error "bce" of a model that makes logits."""
        return decoded.sigmoid() if self._logits else decoded

    def _explain(self, error: RuntimeError, side: str, given: Tensor) -> None:
        """Raise an error in words if a network failed on an input of another device or dtype, else add its shape."""
        what = {"encoder": "the batch", "decoder": "the encoder's z"}[side]
        weight = next(getattr(self.model, side).parameters(), given)
        for property, came, expected in (
            ("device", given.device, weight.device),
            ("dtype", given.dtype, given.dtype if self.options.autocast else weight.dtype),
        ):
            if came != expected:
                raise ValueError(
                    f"{type(self).__name__}: the {property} of {what} is {came}, expected {expected} as that of the "
                    f"{side}'s parameters; convert one of them with .to()"
                ) from error
        error.add_note(f"{type(self).__name__}: the model's {side} failed on {what} of shape {list(given.shape)}")

    def _check_mode(self) -> None:
        """Warn once if all batch norm and dropout of a network that trains is in eval mode."""
        for side, layers in self._modal.items():
            if layers and not any(layer.training for layer in layers) and _trains(getattr(self.model, side)):
                self._modal[side] = []
                warnings.warn(
                    f"{type(self).__name__}: the model's {side} is in eval mode, expected training mode: its batch "
                    "norm normalizes by running statistics and does not update them, and its dropout has no effect; "
                    f"call {side}.train()",
                    stacklevel=4,
                )

    @property
    def kind(self) -> str:
        """The kind of the objective's reconstruction error."""
        kind = self.objective.kind
        if kind is None:
            raise ValueError(f"{type(self).__name__}: the objective's error is perceptual; give distance=")
        return "bce_with_logits" if self._logits else kind

    def _rec(self, recon: Tensor, target: Tensor) -> Tensor:
        """Compute the reconstruction error of a decoder's output and samples, [B]."""
        if self.distance is not None:
            return self.distance(recon, target)
        if self.error_average is not None:
            return ops.reconstruction_error(recon, target) * (0.5 / self.error_average.variance(recon))
        return ops.reconstruction_error(recon, target, kind=self.kind)

    def _weighted_kl(self, kl: Tensor, mu: Tensor, logvar: Tensor, class_share: float) -> Tensor:
        """Weight the class's part of kl [B] by `class_share`."""
        return kl if class_share == 1.0 else _weighted(kl, self._class_kl(mu, logvar), class_share)

    def _class_kl(self, mu: Tensor, logvar: Tensor) -> Tensor | None:
        part, of_logvar = self.model.class_part(mu), self.model.class_part(logvar)
        return None if part is None or of_logvar is None else ops.gaussian_kl(part, of_logvar)

    def _real_kl(self, kl: Tensor, mu: Tensor, logvar: Tensor, class_share: float) -> tuple[Tensor, Metrics]:
        """Weight the kl as :meth:`_weighted_kl`, and return the mean kl and the class's part of it for the record."""
        metrics, of_class = {"kl_real": kl.detach().mean()}, self._class_kl(mu, logvar)
        if of_class is not None:
            metrics["kl_real_class"] = of_class.detach().mean()
        return _weighted(kl, of_class, class_share), metrics

    def _for_losses(self, output: Tensor) -> Tensor:
        return output if self.options.autocast is None else output.float()


def _trains(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _weighted(kl: Tensor, of_class: Tensor | None, class_share: float) -> Tensor:
    return kl if of_class is None or class_share == 1.0 else kl + (class_share - 1.0) * of_class


def mean_of(metrics: list[Metrics]) -> Metrics:
    """Average the metrics of equally large parts."""
    if len(metrics) == 1:
        return metrics[0]
    return {name: torch.stack([values[name] for values in metrics]).mean() for name in metrics[0]}
