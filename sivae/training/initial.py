"""Start a run from the weights of a trained model: those of the layers that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sivae.errors import ConfigError, ModelFileError
from sivae.models import VAEModel
from sivae.models.base import evaluating
from sivae.models.official import import_official
from sivae.models.priors import MixturePrior, VampPrior
from sivae.models.storage import DESCRIPTION
from sivae.pretrained import from_pretrained
from sivae.words import plural

_NAMED = 20  # layers in a message


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from.

    Attributes:
        path: where they were read.
        model: the model that has them, on the CPU.
    """

    path: str
    model: VAEModel

    @classmethod
    def read(cls, path: str) -> InitialWeights:
        """Read the model of a run, of one of its checkpoints, of a model folder or of a file of the authors' programs.

        The averaged weights are read where there are some. Nothing in a file is executed.

        Raises:
            ConfigError: there is no model, or it cannot be read.
        """
        if (folder := Path(path).parent).joinpath(DESCRIPTION).is_file() and Path(path).is_file():
            raise ConfigError(f"init_from: {path} is one file of a model; name its folder, {folder}")
        try:
            return cls(path, import_official(Path(path)).model if Path(path).is_file() else from_pretrained(path))
        except (ModelFileError, OSError) as error:
            raise ConfigError(f"init_from: {error}") from None

    @classmethod
    def read_for(cls, path: str, build: Callable[[], VAEModel], frozen: str | None) -> InitialWeights:
        """Read the weights that a run starts from, and check that they fit, without networks in memory.

        Args:
            path: see :meth:`read`.
            build: builds the run's model.
            frozen: see :meth:`load_into`.

        Raises:
            ConfigError: as for :meth:`read` and :meth:`load_into`.
        """
        initial = cls.read(path)
        with torch.device("meta"):
            initial.load_into(build(), frozen)
        return initial

    def load_into(self, model: VAEModel, frozen: str | None = None) -> str:
        """Copy the layers that fit, and return a sentence about those that do not.

        A layer fits if the other model has all of its parameters and buffers, in the same shapes, at the same place:
        the place of the style model's layers is their resolution. A mixture also takes the components of the other
        model's pseudo-inputs. With the whole encoder come the settings of pipelines, which are in units of its latents.

        Args:
            model: on any device; on the meta device nothing is copied.
            frozen: the network that does not train, "encoder" or "decoder".

        Raises:
            ConfigError: no layer fits, or one of the frozen network does not.
        """
        theirs = {self.model.place_of(name): tensor for name, tensor in self.model.state_dict().items()}
        if isinstance(model.prior, MixturePrior) and isinstance(self.model.prior, VampPrior):
            with evaluating(self.model):
                components = self.model.prior_components()
            assert components is not None
            theirs |= {"prior.mu": components.mu, "prior.logvar": components.logvar}
        taken: dict[str, Tensor] = {}
        left = []
        layers = list(_layers(model))
        for layer, tensors in layers:
            found = {name: theirs.get(model.place_of(name)) for name in tensors}
            problem = next(
                (
                    f"{name.rpartition('.')[2]} {'missing' if other is None else list(other.shape)} there, "
                    f"{list(mine.shape)} here"
                    for name, mine in tensors.items()
                    if (other := found[name]) is None or other.shape != mine.shape
                ),
                None,
            )
            if layer == "prior" and problem is not None and (count := self._fitting_components(tensors, found)):
                problem += f"; --prior-components {count} takes them"
            if problem is None:
                taken |= {name: other for name, other in found.items() if other is not None}
            else:
                left.append(f"{layer} ({problem})")
        if not taken:
            raise ConfigError(
                f"init_from = {self.path!r}: no layer of its model {self.model.name!r} fits this run's model "
                f"{model.name!r}, expected one with some layers of the same shapes{self._differences(model)}; name "
                "another, or leave it out"
            )
        if stay := [one for one in left if one.startswith(f"{frozen}.")]:
            raise ConfigError(
                f"freeze = {frozen!r}: {plural(len(stay), 'layer')} of it would stay random, as {self.path} has no "
                f"such weights{self._differences(model)}; give the settings of its networks, or leave freeze out:"
                f"{_listed(stay)}"
            )
        if next(model.parameters()).device.type != "meta":
            model.load_state_dict(taken, strict=False)
        named = {model.place_of(name) for layer, tensors in layers for name in tensors}
        unused = [layer for layer, names in _layers(self.model) if not named & {*map(self.model.place_of, names)}]
        words = f"started from {self.path}: {len(layers) - len(left)} of {plural(len(layers), 'layer')} taken"
        mine, theirs_prior = (one.hyperparameters.get("prior", "standard") for one in (model, self.model))
        words += f"; the prior is {theirs_prior} there and {mine} here" if mine != theirs_prior else ""
        differs = any(one.startswith("encoder.") for one in left)
        if carried := model.take_carried({} if differs else self.model.hyperparameters):
            trains = "" if frozen == "encoder" else ", and may not fit its latents for long, as the encoder trains"
            words += f"; {', '.join(carried)} kept{trains}"
        words += f"; new here:{_listed(left)}" if left else ""
        return words + (f"; only there:{_listed(unused)}" if unused else "")

    @staticmethod
    def _fitting_components(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor | None]) -> int | None:
        """Return the number of the other prior's components, if only the number does not fit; else None."""
        if any((other := theirs[name]) is None or other.shape[1:] != tensor.shape[1:] for name, tensor in mine.items()):
            return None
        return next(len(other) for other in theirs.values() if other is not None)

    def _differences(self, model: VAEModel) -> str:
        """The settings of two models of one kind that differ, in words."""
        mine, theirs = model.hyperparameters, self.model.hyperparameters
        if model.name != self.model.name:
            return ""
        words = [
            f"{key} is {theirs[key]} there and {mine[key]} here"
            for key in mine
            if mine[key] != theirs.get(key, mine[key])
        ]
        return f" ({', '.join(words)})" if words else ""


def _layers(model: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Find the modules with parameters or buffers of their own: name, and these by their names in the state dict."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        layers.setdefault(name.rpartition(".")[0], {})[name] = tensor
    for layer, tensors in layers.items():
        yield (layer if len(tensors) > 1 else next(iter(tensors))), tensors


def _listed(layers: list[str]) -> str:
    """A line for each layer."""
    more = len(layers) - _NAMED
    return "".join(f"\n  {layer}" for layer in layers[:_NAMED]) + (f"\n  and {more:,} more" if more > 0 else "")
