"""What sample, reconstruct and interpolate have in common: the model, the device, images, and where files go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Text, Whole, number, one, several
from sivae.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sivae.models import StyleVAE, VAEModel
    from sivae.models.style import Truncation

_SEED_LIMIT = 1 << 63

Model = Annotated[
    Positional[Path | None],
    one(Path, "RUN_OR_MODEL"),
    arg(
        help="A run's folder (its last checkpoint is taken), one of its checkpoints, or an imported model's folder.",
        help_behavior_hint="",
        metavar="RUN_OR_MODEL",
    ),
]
Raw = Annotated[
    FlagCreatePairsOff[bool],
    arg(help="Take the weights as trained, not their running average.", help_behavior_hint=""),
]
Class = Annotated[
    Whole,
    arg(name="class", help="Which class, for a model that knows classes: 0 or more.", help_behavior_hint=""),
]
Psi = Annotated[
    tuple[Any, ...] | None,
    several(number, "PSI ..."),
    arg(
        help="Draw the styles towards the average one: 1 leaves them, 0 puts it in their place. A style-based model's.",
        help_behavior_hint="",
    ),
]
Cutoff = Annotated[
    Whole, arg(help="How many style inputs --truncation is for, from 4 x 4 on.", help_behavior_hint="(default: 8)")
]
Device = Annotated[
    Text, arg(help="auto (a GPU when there is one), cpu, cuda, cuda:1 ...", help_behavior_hint="(default: auto)")
]


def file(ending: str) -> Any:
    """Annotation of an option that names a file to write."""

    def parse(word: str) -> Path:
        if Path(word).suffix.lower() != ending:
            raise ValueError(f"{word!r} does not end in {ending}, which is what is written")
        return Path(word)

    return one(parse, f"FILE{ending}")


@dataclass
class ImageModel:
    """A model of images, ready on its device."""

    model: VAEModel
    device: torch.device
    source: Path

    @property
    def classes(self) -> int:
        """How many the model knows; 0: it is not conditional."""
        return self.model.condition_dim

    @property
    def side(self) -> int:
        """Height and width of its images."""
        return self.model.sample_shape[1]

    @property
    def channels(self) -> int:
        """Of its images: 1 or 3."""
        return self.model.sample_shape[0]

    @property
    def value_range(self) -> tuple[float, float]:
        """What stands for black and white."""
        from sivae.models.pixels import image_range

        return image_range(self.model)

    def conditions(self, labels: Sequence[int | None]) -> Tensor | None:
        """One-hot [N, classes] on the device; None for a model that is not conditional.

        Raises:
            ConfigError: a label is missing or not one of the model's.
        """
        import torch

        from sivae.models.base import one_hot

        if not self.classes:
            return None
        for label in labels:
            if label is None or not 0 <= label < self.classes:
                came = "no class is given" if label is None else f"an image is of class {label}"
                raise ConfigError(f"{came}, and the model knows 0 to {self.classes - 1}; choose one by --class N")
        return one_hot(torch.tensor(labels, dtype=torch.long), self.classes).to(self.device)

    def to_model(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, C] -> [N, C, H, W] in the model's values, on its device."""
        from sivae.models.pixels import from_uint8

        return from_uint8(pixels.to(self.device), self.value_range)

    def beside(self, name: str) -> Path:
        """Where a file goes that is given no place: into the run's folder, or beside a model's.

        What a model's folder holds is the model: it is replaced as a whole, and a run's checkpoints are checked.
        """
        stem, dot, ending = name.partition(".")
        if self.source.parent.name == "checkpoints":
            step = self.source.name.lstrip("0") or "0"
            return self.source.parent.parent / f"{stem}-step{step}{dot}{ending}"
        if (self.source / "model.json").exists():
            return self.source.with_name(f"{self.source.name}-{name}")
        return self.source / name


def open_model(source: Path | None, *, raw: bool, device: str | None, chosen: int | None) -> ImageModel:
    """The model of images that a command line names.

    Args:
        source: see :data:`Model`.
        raw: leave the averaged weights aside.
        device: its name.
        chosen: the class that was asked for.

    Raises:
        ConfigError: no model is named, it makes no images, has no such class, or the device is not there.
    """
    if source is None:
        raise ConfigError("name a run's folder, one of its checkpoints, or an imported model's folder")
    import sivae
    from sivae.training.devices import find_device

    place = find_device(device or "auto")
    model = sivae.from_pretrained(source, averaged=not raw)
    if len(model.sample_shape) != 3:
        raise ConfigError(f"{source}: this model makes points, not images; sivae evaluate and its plots are for those")
    if chosen is not None and not model.condition_dim:
        raise ConfigError(f"--class {chosen}: this model knows no classes; leave it out")
    if chosen is not None and not 0 <= chosen < model.condition_dim:
        raise ConfigError(f"--class {chosen}: this model knows the classes 0 to {model.condition_dim - 1}")
    return ImageModel(model.to(place), place, source.absolute())


def of_styles(opened: ImageModel, option: str) -> StyleVAE:
    """The model as one with styles and stages, which an option or a verb needs.

    Raises:
        ConfigError: it has none.
    """
    from sivae.models import StyleVAE

    if not isinstance(opened.model, StyleVAE):
        raise ConfigError(
            f"{option} is for a style-based model; this one is {opened.model.name!r}, which has no styles"
        )
    return opened.model


def truncations(psis: Sequence[float] | None, cutoff: int | None) -> list[Truncation]:
    """What :data:`Psi` and :data:`Cutoff` ask for.

    Raises:
        ConfigError: a value cannot be, or the cutoff comes alone.
    """
    from sivae.models.style import Truncation

    if psis is None:
        if cutoff is not None:
            raise ConfigError("--cutoff goes with --truncation PSI; leave it out, or name that")
        return []
    if not psis or not all(math.isfinite(psi) for psi in psis):
        raise ConfigError(f"--truncation {' '.join(map(str, psis))}: expected numbers, 0.7 for instance")
    inputs = {} if cutoff is None else {"cutoff": check_at_least("--cutoff", cutoff, 1)}
    return [Truncation(psi, **inputs) for psi in psis]


def read_files(paths: Sequence[Path], model: ImageModel) -> Tensor:
    """Image files cut to the largest square in their middle and brought to the model's size and channels.

    Returns:
        uint8 [N, H, W, C].
    """
    import numpy as np
    import torch

    from sivae.data.images.pixels import decode, fit

    return torch.from_numpy(
        np.stack(
            [
                fit(
                    decode(path.read_bytes(), str(path)),
                    resolution=model.side,
                    crop="center",
                    channels=model.channels,
                    where=str(path),
                )
                for path in paths
            ]
        )
    )


def check_seed(name: str, seed: int) -> int:
    """The seed, if it is one.

    Raises:
        ConfigError: it is not from 0 to 2^63 - 1.
    """
    if not 0 <= seed < _SEED_LIMIT:
        raise ConfigError(f"{name} {seed}: expected 0 to 2^63 - 1")
    return seed


def check_at_least(name: str, value: int, least: int) -> int:
    """The value, if it is large enough.

    Raises:
        ConfigError: it is not.
    """
    if value < least:
        raise ConfigError(f"{name} {value}: expected at least {least}")
    return value
