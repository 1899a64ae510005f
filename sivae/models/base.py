"""What training, evaluation and the command line ask of a model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae import ops

_IMAGES_AT_ONCE, _VALUES_AT_ONCE = 256, 1 << 22


class VAEModel(nn.Module):
    """An encoder and a decoder over a Gaussian latent of `z_dim` values.

    Attributes:
        name: of the architecture, its key in :data:`sivae.models.MODELS`.
        encoder: x [B, ...] -> mu and logvar side by side, [B, 2 z_dim]; a conditional model's also takes the condition.
        decoder: z [B, z_dim] -> x [B, ...]; likewise.
        z_dim: latent values per sample.
        sample_shape: of one sample, without the batch.
        value_range: of the values that samples have, None where they have no bounds.
        condition_dim: values of the condition vector that goes with each sample; 0 where the model takes none.
        mixes_samples: whether a sample's output in training mode depends on the batch around it (batch norm). Real and
            fake batches then have to pass apart.
        hyperparameters: the constructor's arguments, in types of JSON: `build_model(name, **hyperparameters)` makes the
            same architecture.
        tells_class: whether its latents are a content and a class, so that images can be translated.
        has_styles: whether it makes images from styles, which can be mixed and truncated.
        OFFSETS_PER_PASS: offsets of Philox noise that a training pass of the decoder may use.
        ADAM_BETAS: of the optimizer's moments.
    """

    name: ClassVar[str]
    tells_class: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False
    OFFSETS_PER_PASS: ClassVar[int] = 32
    ADAM_BETAS: ClassVar[tuple[float, float]] = (0.9, 0.999)
    encoder: nn.Module
    decoder: nn.Module
    z_dim: int
    sample_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None
    condition_dim: int = 0
    mixes_samples: bool = False
    hyperparameters: dict[str, Any]

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each [B, z_dim]: views of one tensor.

        Args:
            x: [B, *sample_shape].
            condition: [B, condition_dim], for a conditional model and only there.

        Raises:
            ValueError: a condition is missing, not taken, or of the wrong shape.
        """
        mu, logvar = self._call(self.encoder, x, condition).chunk(2, dim=1)
        return mu, logvar

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The mean of p(x|z), [B, *sample_shape].

        Args:
            z: [B, z_dim].
            condition: as for :meth:`encode`.

        Raises:
            ValueError: as for :meth:`encode`.
        """
        return self._call(self.decoder, z, condition)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Reconstruct x through the posterior mean."""
        return self.decode(self.encode(x, condition)[0], condition)

    def sample(
        self, count: int, *, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Decode draws from the prior N(0, 1), in eval mode whatever mode the model is in.

        Args:
            count: how many.
            generator: of the noise, on any device: a CPU generator gives the same draws wherever the model is.
            condition: [count, condition_dim], for a conditional model.

        Returns:
            [count, *sample_shape] on the model's device, without gradient.
        """
        z = self.prior_draws(count, generator)
        with evaluating(self):
            return self._in_pieces(self.decode, z, condition)

    def reconstruct(self, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Decode the posterior means of x [B, *sample_shape], in eval mode as :meth:`sample`, without gradient."""
        with evaluating(self):
            return self._in_pieces(lambda x, c: self.render(self.encode(x, c)[0], c), x, condition)

    def render(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Decode as a function of z alone, where decoding draws noise of its own; else as :meth:`decode`."""
        return self.decode(z, condition)

    def decode_for_training(
        self, z: Tensor, condition: Tensor | None = None, *, noise: ops.PhiloxNoise, prior: bool
    ) -> Tensor:
        """Decode in a training step.

        Args:
            z: [B, z_dim].
            condition: as for :meth:`encode`.
            noise: seed and first offset of what the pass may draw, up to `OFFSETS_PER_PASS` offsets.
            prior: whether z is drawn from the prior.
        """
        return self.decode(z, condition)

    def latents_to_decode(self, z: Tensor) -> Tensor:
        """What a training step decodes to reconstruct a batch whose posterior draws are z, [B, z_dim]: z itself."""
        return z

    def class_part(self, of_z: Tensor) -> Tensor | None:
        """The columns of z, mu or logvar [B, z_dim] that stand for the class, where the model tells it apart."""
        return None

    def grow(self, lod: int, blend: float = 1.0) -> None:
        """Set the stage of a model that grows.

        Args:
            lod: the stage, from 0.
            blend: how far the stage is blended in, from 0 to 1.

        Raises:
            ValueError: the model does not grow, or there is no such stage.
        """
        raise ValueError(f"{type(self).__name__}: it does not grow")

    def follow(self, other: VAEModel) -> None:
        """Take over the state of `other` that is neither weights nor buffers: the stage of a model that grows."""

    def rate_scales(self) -> dict[str, float]:
        """What the optimizer multiplies its steps by, for the parameters (by name) where that is not 1."""
        return {}

    def prior_draws(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the prior N(0, 1), [count, z_dim], where and as the weights are."""
        weight = next(self.parameters())
        source = weight.device if generator is None else generator.device
        return torch.randn(count, self.z_dim, generator=generator, device=source).to(weight.device, weight.dtype)

    def _in_pieces(
        self, function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, condition: Tensor | None
    ) -> Tensor:
        size = samples_at_once(self.sample_shape)
        if len(x) <= size:
            return function(x, condition)
        conditions = [None] * -(-len(x) // size) if condition is None else condition.split(size)
        return torch.cat([function(*piece) for piece in zip(x.split(size), conditions, strict=True)])

    def _call(self, network: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        result: Tensor
        if self.condition_dim == 0:
            if condition is not None:
                raise ValueError(
                    f"{type(self).__name__}: got a condition, but the model has condition_dim 0 and takes none"
                )
            result = network(x)
            return result
        expected = (x.shape[0], self.condition_dim)
        if condition is None or condition.shape != expected:
            came = "none" if condition is None else f"one of shape {list(condition.shape)}"
            raise ValueError(f"{type(self).__name__}: expected a condition of shape {list(expected)}, got {came}")
        result = network(x, condition)
        return result


def samples_at_once(sample_shape: tuple[int, ...]) -> int:
    """How many samples to run together where nothing asks for a batch size: a few GB of activations at most."""
    most = max(1, _VALUES_AT_ONCE // math.prod(sample_shape))
    return most if len(sample_shape) < 3 else min(_IMAGES_AT_ONCE, most)


def device_and_dtype(
    model: HasParameters, device: torch.device | str | None = None
) -> tuple[torch.device, torch.dtype]:
    """The device of a model's parameters, or the one given, and their dtype."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return torch.device(device or "cpu"), torch.get_default_dtype()
    return torch.device(device or parameter.device), parameter.dtype


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Turn labels [B] into conditions, float32 [B, classes], 1 at the label and 0 elsewhere.

    Raises:
        ValueError: a label is not one of 0 to classes - 1.
    """
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}, "
            f"as the model knows {classes} classes"
        )
    return F.one_hot(labels.long(), classes).float()


class HasParameters(Protocol):
    """A module of torch, or an object with its method `parameters`."""

    def parameters(self) -> Iterator[nn.Parameter]: ...


class HasMode(Protocol):
    """A module of torch, or an object with its methods `eval` and `modules`."""

    def eval(self) -> object: ...

    def modules(self) -> Iterator[nn.Module]: ...


@contextlib.contextmanager
def evaluating(model: HasMode) -> Iterator[None]:
    """Inside, the model is in eval mode and makes no gradients; afterwards every module has its own mode again."""
    # Part of a model may be in eval mode while the rest trains.
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def checked_counts(owner: str, least: int, **values: object) -> None:
    """Raise ValueError where a hyperparameter is not a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{owner}: {name} is {value!r}, expected a whole number of at least {least}")
