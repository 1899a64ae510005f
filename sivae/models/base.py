"""The base class of all models, and helpers for any model."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae import ops
from sivae.bounds import PRIOR_COMPONENTS
from sivae.models.norm import running_statistics
from sivae.models.priors import PRIORS, Components, LearnedPrior, MixturePrior, VampPrior

_KL_PAIRS = 16  # draws of an evaluation's kl
_KL_SEED, _KL_OFFSET = 0, (1 << 63) - 1  # the last offset: other noise of seed 0 begins with the first ones
_IMAGES_AT_ONCE, _VALUES_AT_ONCE = 256, 1 << 22


class VAEModel(nn.Module):
    """An encoder and a decoder over a Gaussian latent: a vector of `z_dim` values, or maps of another `latent_shape`.

    Attributes:
        name: name of the architecture, its key in :data:`sivae.models.MODELS`.
        encoder: x [B, ...] -> mu and logvar side by side in dimension 1, [B, 2 z_dim] of a vector, or as a pair; a
            conditional model's also takes the condition.
        decoder: z [B, *latent_shape] -> x [B, ...]; likewise.
        z_dim: number of latent values per sample.
        latent_shape: shape of one sample's latent, without the batch.
        sample_shape: shape of one sample, without the batch.
        makes_logits: whether the decoder's output is logits, of which `decode` is the sigmoid.
        prior_std: standard deviation of the latent prior in the units of the networks. z, mu and logvar are in units of
            it, so that the standard prior is N(0, 1) for every model.
        prior: the learned prior of z; None: the standard one, N(0, 1).
        value_range: lowest and highest value of the samples; None if they have no bounds.
        condition_dim: length of the condition vector of each sample; 0 for a model without conditions.
        mixes_samples: whether a sample's output in training mode depends on the rest of its batch (batch norm). Then
            real and fake batches must pass the networks separately.
        hyperparameters: the constructor's arguments, in types of JSON: `build_model(name, **hyperparameters)` makes the
            same architecture.
        carried: the hyperparameters that describe the weights and shape no network.
        tells_class: whether the latents consist of a content and a class, so that images can be translated.
        has_styles: whether the model makes images from styles, which can be mixed and truncated.
        OFFSETS_PER_PASS: number of Philox offsets that a training pass of the decoder may use.
        ADAM_BETAS: betas of Adam.
    """

    name: ClassVar[str]
    carried: ClassVar[tuple[str, ...]] = ()
    tells_class: ClassVar[bool] = False
    has_styles: ClassVar[bool] = False
    OFFSETS_PER_PASS: ClassVar[int] = 32
    ADAM_BETAS: ClassVar[tuple[float, float]] = (0.9, 0.999)
    encoder: nn.Module
    decoder: nn.Module
    z_dim: int
    sample_shape: tuple[int, ...]
    makes_logits: bool = False
    prior_std: float = 1.0
    value_range: tuple[float, float] | None = None
    condition_dim: int = 0
    mixes_samples: bool = False
    hyperparameters: dict[str, Any]
    prior: LearnedPrior | None

    def __init__(self) -> None:
        super().__init__()
        self.prior = None

    def take_carried(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Take the hyperparameters :attr:`carried` from those of the model whose weights this one has.

        Returns:
            Those that there were.
        """
        found = {key: hyperparameters[key] for key in self.carried if key in hyperparameters}
        self.hyperparameters |= found
        return found

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample's latent, without the batch. A model whose latents are no vectors overrides it."""
        return (self.z_dim,)

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar of q(z|x), each [B, *latent_shape].

        Args:
            x: [B, *sample_shape].
            condition: [B, condition_dim] for a conditional model, else None.

        Raises:
            ValueError: the condition is missing, has the wrong shape, or is given to a model without conditions.
            TypeError: the encoder returned something else than mu and logvar.
        """
        return self._in_units_of_prior(*mu_and_logvar(self._call(self.encoder, x, condition)))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute the mean of p(x|z), [B, *sample_shape].

        Args:
            z: [B, *latent_shape].
            condition: as for :meth:`encode`.

        Raises:
            ValueError: as for :meth:`encode`.
        """
        decoded = self.raw_output(z, condition)
        return decoded.sigmoid() if self.makes_logits else decoded

    def raw_output(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute what :meth:`decode` makes the mean of, with its arguments: for a model that makes logits, these."""
        return self._call(self.decoder, self._in_units_of_decoder(z), condition)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Reconstruct x through the posterior mean."""
        return self.decode(self.encode(x, condition)[0], condition)

    def sample(
        self, count: int, *, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Decode draws from the prior. The model runs in eval mode and gets its own mode back.

        Args:
            count: number of samples.
            generator: generator of the noise, on any device: a CPU generator gives the same draws on every device.
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
        """Decode as a function of z alone: a model whose `decode` draws noise uses fixed noise here."""
        return self.decode(z, condition)

    def decode_for_training(
        self, z: Tensor, condition: Tensor | None = None, *, noise: ops.PhiloxNoise, prior: bool
    ) -> Tensor:
        """Decode in a training step.

        Args:
            z: [B, *latent_shape].
            condition: as for :meth:`encode`.
            noise: seed and first offset of the pass's random numbers; it may use `OFFSETS_PER_PASS` offsets.
            prior: whether z is drawn from the prior.
        """
        return self.decode(z, condition)

    def latents_to_decode(self, z: Tensor) -> Tensor:
        """Turn the posterior draws z of a batch into the latents that a training step decodes: z itself."""
        return z

    def class_part(self, of_z: Tensor) -> Tensor | None:
        """Select the columns of z, mu or logvar [B, z_dim] that hold the class; None if the model separates none."""
        return None

    def grow(self, lod: int, blend: float = 1.0) -> None:
        """Set the stage of a growing model.

        Args:
            lod: the stage, from 0.
            blend: share of the stage's new layers, from 0 to 1.

        Raises:
            ValueError: the model does not grow, or it has no such stage.
        """
        raise ValueError(f"{type(self).__name__}: it does not grow")

    def with_own_decoder(self) -> Self:
        """Copy the model. The copy has a decoder of its own, and shares the encoder.

        Raises:
            ValueError: the decoder cannot be copied.
        """
        try:
            return copy.deepcopy(self, {id(module): module for module in self.encoder.modules()})
        except RuntimeError as error:
            if "deepcopy" not in str(error):
                raise
            raise ValueError(
                f"{type(self).__name__}: the decoder has a computed tensor as an attribute, expected parameters and "
                "buffers, so that it can be copied; use torch.nn.utils.parametrizations.weight_norm instead of "
                "torch.nn.utils.weight_norm"
            ) from error

    def follow(self, other: VAEModel) -> None:
        """Copy the state of `other` that is neither weights nor buffers: the stage of a growing model."""

    def place_of(self, name: str) -> str:
        """Name the place of a tensor of the state dict so that models of other sizes have the same name for it."""
        return name

    def rate_scales(self) -> dict[str, float]:
        """Factors of the learning rate by parameter name; a parameter that is not listed has the factor 1."""
        return {}

    def prior_draws(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw [count, *latent_shape] from the prior, on the device and in the dtype of the weights, no gradient."""
        weight = next(self.parameters())
        source = weight.device if generator is None else generator.device
        noise = torch.randn(count, self.noise_dim, generator=generator, device=source)
        return self.from_prior(noise.to(weight.device)).to(weight.dtype)

    @property
    def noise_dim(self) -> int:
        """Values of N(0, 1) that make one sample of the prior: z_dim, and one more for a learned prior."""
        return self.z_dim + (self.prior is not None)

    def from_prior(self, noise: Tensor) -> Tensor:
        """Turn noise of N(0, 1) into samples of the prior, without gradient. Each depends on its row alone.

        Args:
            noise: [N, noise_dim], on the model's device.

        Returns:
            [N, *latent_shape]; for the standard prior the noise itself, in this shape.
        """
        with torch.no_grad():
            components = self.prior_components()
            rows = noise if components is None else components.draw(noise)
            return rows if rows.shape[1:] == self.latent_shape else rows.unflatten(1, self.latent_shape)

    def prior_components(self) -> Components | None:
        """Compute the learned prior's components, with the graph of its parameters; None: the prior is N(0, 1).

        They are over the `z_dim` values of a latent in a row, whatever its shape.
        Pseudo-inputs pass the encoder by batch norm's running statistics: as samples of their own they are no batch.
        """
        if self.prior is None:
            return None
        with running_statistics(self.encoder):
            return self.prior.components(self.encode)

    def kl(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """Compute the KL divergence of posteriors from the prior for an evaluation, without gradient.

        Args:
            mu, logvar: [N, *latent_shape].

        Returns:
            [N], in nats. Exact for the standard prior; for a learned one the estimate of :meth:`Components.kl`, from
            the same draws for all posteriors in every call.
        """
        with torch.no_grad():
            components = self.prior_components()
            if components is None:
                return ops.gaussian_kl(mu, logvar)
            eps = ops.philox_normal(_KL_SEED, (1, _KL_PAIRS, self.z_dim), offset=_KL_OFFSET, device=mu.device)
            return components.kl(mu, logvar, eps.to(mu.dtype))

    def _set_prior(self, prior: str, components: int) -> None:
        """Make the learned prior, after the networks, whose first weights then do not depend on it.

        A model of the standard prior is described as before there was a choice.

        Raises:
            ValueError: there is no such prior, it has no such number of components, or the model has conditions.
        """
        owner = type(self).__name__
        if prior not in PRIORS:
            raise ValueError(f"{owner}: prior is {prior!r}, expected one of {', '.join(PRIORS)}")
        checked_counts(owner, 1, PRIOR_COMPONENTS, prior_components=components)
        if prior == "standard":
            return
        if prior == "vamp" and self.condition_dim:
            raise ValueError(
                f"{owner}: prior is 'vamp' and condition_dim {self.condition_dim}, expected no conditions, as its "
                "pseudo-inputs have none; use the prior 'mixture'"
            )
        self.prior = (
            MixturePrior(components, self.z_dim)
            if prior == "mixture"
            else VampPrior(components, self.sample_shape, self.value_range)
        )
        self.hyperparameters = {**self.hyperparameters, "prior": prior, "prior_components": components}

    def _set_prior_std(self, prior_std: float) -> None:
        """Check and keep it. A model of the usual 1 is described as before there was a choice.

        Raises:
            ValueError: it is no finite number above 0.
        """
        if not isinstance(prior_std, float | int) or not 0 < prior_std < math.inf:
            raise ValueError(f"{type(self).__name__}: prior_std is {prior_std!r}, expected a finite number above 0")
        self.prior_std = float(prior_std)
        if self.prior_std != 1.0:
            self.hyperparameters = {**self.hyperparameters, "prior_std": self.prior_std}

    def _in_units_of_prior(self, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        if self.prior_std == 1.0:
            return mu, logvar
        return mu / self.prior_std, logvar - 2.0 * math.log(self.prior_std)

    def _in_units_of_decoder(self, z: Tensor) -> Tensor:
        return z if self.prior_std == 1.0 else z * self.prior_std

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
    """Choose a batch size for passes without gradients, such that activations take a few GB at most."""
    most = max(1, _VALUES_AT_ONCE // math.prod(sample_shape))
    return most if len(sample_shape) < 3 else min(_IMAGES_AT_ONCE, most)


def mu_and_logvar(heads: Any) -> tuple[Tensor, Tensor]:
    """Return mu and logvar from what an encoder returned: a pair, or one tensor with both side by side.

    mu and logvar are [B, z_dim], or maps [B, C, H, W]; side by side they are [B, 2 z_dim], or [B, 2 C, H, W].

    Raises:
        TypeError: it is neither.
    """
    if isinstance(heads, Tensor):
        if heads.dim() > 1 and heads.shape[1] % 2 == 0:
            mu, logvar = heads.chunk(2, dim=1)
            return mu, logvar
    elif isinstance(heads, tuple | list) and len(heads) == 2 and all(isinstance(head, Tensor) for head in heads):
        mu, logvar = heads
        if mu.shape == logvar.shape:
            return mu, logvar
    raise TypeError(
        f"the model's encoder returned {described(heads)}, expected mu and logvar: two tensors [B, z_dim], or one "
        "tensor [B, 2 z_dim] with both side by side; return these alone"
    )


def described(output: Any) -> str:
    """Describe in words what a network returned, or was given."""
    if isinstance(output, Tensor):
        return f"a tensor {list(output.shape)}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} ({', '.join(map(described, output))})"
    return type(output).__name__


def device_and_dtype(
    model: HasParameters, device: torch.device | str | None = None
) -> tuple[torch.device, torch.dtype]:
    """Return the device of a model's parameters, unless `device` is given, and their dtype."""
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
            f"as the model has {classes} classes"
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
    """Put a model into eval mode without gradients inside; afterwards every module has its own mode again."""
    # Part of a model may be in eval mode while the rest trains.
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def checked_counts(owner: str, least: int, most: int | None = None, **values: object) -> None:
    """Raise ValueError if a hyperparameter is not a whole number from `least` to `most`, or to any where it is None.

    A number of layers needs an end, as a network takes time and memory for each layer before its weights are compared.
    """
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{owner}: {name} is {value!r}, expected a whole number of at least {least}")
        if most is not None and value > most:
            raise ValueError(f"{owner}: {name} is {str(value)[:40]}, expected at most {most:,}")
