"""The interface of an experiment: the trainings that it needs, and the report that it makes of them.

Imports no torch, and neither do the experiments' modules before they report, so that they can be listed at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from sivae import fields
from sivae.errors import ConfigError
from sivae.fields import AT_LEAST_1, setting
from sivae.settings.presets import DEFAULT_OBJECTIVE, preset_config
from sivae.settings.run import RunConfig

if TYPE_CHECKING:
    from sivae.models import VAEModel

Size = Literal["quick", "full"]
SIZES: tuple[Size, ...] = get_args(Size)
# Objective -> title, in the order of pages and figures.
METHODS: dict[str, str] = {"vae": "VAE", "intro": "IntroVAE", "soft-intro": "Soft-IntroVAE"}
_OPTIONAL = ("seeds", "steps", "data", "against", "run", "vgg", "lpips")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that decide the results of a reproduction. A call continues another one with equal settings.

    Attributes:
        changes: settings of a run that every training takes instead of the experiment's; see :meth:`RunConfig.replace`.
        others: each field says in its help.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    size: Size = setting("quick", help="quick: minutes on a small CPU. full: as published.")
    seeds: int | None = setting(
        None, help="Number of seeds, from 0 on.", within=AT_LEAST_1, unset="the experiment's own"
    )
    steps: int | None = setting(
        None, help="Iterations of every training.", within=AT_LEAST_1, unset="the experiment's own"
    )
    data: str | None = setting(None, help="A data set, where the experiment takes one.")
    against: str | None = setting(None, help="Images of another kind than --data, where the experiment takes such.")
    run: str | None = setting(None, help="Folder of a trained run, where the experiment takes one.")
    vgg: str | None = setting(
        None, help="File of VGG-16's weights, where the experiment trains with a perceptual error."
    )
    lpips: str | None = setting(None, help="File of LPIPS' own weights; it is measured where --vgg is given too.")
    device: str = setting("auto", help="auto (a GPU where there is one), cpu, cuda ...")
    threads: int = setting(1, help="CPU threads of each training.", within=AT_LEAST_1)
    changes: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        fields.conform(self)

    def allow(self, *names: str, experiment: str) -> None:
        """Refuse every optional setting but those named, as the experiment does not use it.

        Raises:
            ConfigError: another one is given.
        """
        for name in _OPTIONAL:
            if name not in names and getattr(self, name) is not None:
                raise ConfigError(f"--{name} has no effect on {experiment}; leave it out")

    def pick(self, *, quick: Any, full: Any) -> Any:
        """The value that belongs to the size."""
        return quick if self.size == "quick" else full

    def seed_range(self, *, quick: int, full: int) -> range:
        """The seeds to train with, given the experiment's number of them at each size."""
        return range(self.seeds if self.seeds is not None else self.pick(quick=quick, full=full))

    def configure(
        self, preset: str, *, objective: str = DEFAULT_OBJECTIVE, quick: Mapping[str, Any] | None = None, **values: Any
    ) -> RunConfig:
        """The configuration of one training.

        Args:
            preset, objective: see :func:`sivae.training.preset_config`.
            quick: what the quick size has different from the preset.
            values: what the experiment has different. `steps` and `changes` of these settings come last.
        """
        values |= {"device": self.device, "threads": self.threads, **self.pick(quick=quick or {}, full={})}
        if self.steps is not None:
            values |= {"steps": self.steps}
        config = preset_config(preset, objective=objective, **{**values, **self.changes})
        # Pictures during training are for a person who watches; a report draws its own.
        return config if config.steps is None else config.replace(sample_every=config.steps)

    def configure_images(self, **values: Any) -> RunConfig:
        """The configuration of a training by the preset cifar10 on `data`, or by digits where no data is given."""
        if self.data is None:
            return self.configure("digits", quick={"steps": 400}, **values)
        return self.configure("cifar10", quick={"steps": 300}, path=self.data, **values)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Training:
    """One of an experiment's independent trainings: a run whose folder is OUT/runs/`name`."""

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Trained:
    """A training that has ended.

    Attributes:
        name: of the training.
        config: as its folder holds it, resolved.
        folder: of the run.
        summary: content of its `summary.json`; None where the training diverged before its end.
        divergence: why the training was given up; None where it was not.
        went_back: whether the training diverged once, went back to a checkpoint and came through with half the
            learning rate.
    """

    name: str
    config: RunConfig
    folder: Path
    summary: Mapping[str, Any] | None
    divergence: str | None
    went_back: bool

    def metric(self, name: str) -> float:
        """A metric of the summary; NaN where it is not finite, or there is no summary."""
        value = None if self.summary is None else self.summary.get(name)
        return float("nan") if value is None else float(value)

    def load(self) -> VAEModel:
        """The trained model, in eval mode, on the device of its training."""
        from sivae.machine import find_device
        from sivae.pretrained import from_pretrained

        return from_pretrained(self.folder).to(find_device(self.config.device))


def seeds_of(runs: Mapping[str, Trained]) -> list[int]:
    """The seeds of trainings, in order."""
    return sorted({run.config.seed for run in runs.values()})


def schedule(config: RunConfig) -> str:
    """How long a training is, in words."""
    words = f"{config.total_steps:,} iterations of batch {config.batch_size}"
    return f"{words}, the first {config.warmup_steps:,} as a plain VAE" if config.warmup_steps else words


@dataclass(frozen=True)
class Report:
    """The results of an experiment.

    Attributes:
        about: Markdown: what was trained and measured, on what.
        sections: title and Markdown of each; figures are linked by their names in the folder.
        numbers: all of them, in types of JSON; None where one is not finite.
        figures: names of the PNG files that were written.
    """

    about: str
    sections: Sequence[tuple[str, str]]
    numbers: Mapping[str, Any]
    figures: Sequence[str]


class Experiment(Protocol):
    """A module of this package.

    Attributes:
        NAME: on the command line.
        SUMMARY: what it shows, in a line.
        NEEDS: data and machine.
        TIME: about how long each size takes, and where.
    """

    NAME: str
    SUMMARY: str
    NEEDS: str
    TIME: Mapping[Size, str]

    def trainings(self, settings: Settings) -> list[Training]:
        """The trainings, in the order in which to begin. May be empty.

        Raises:
            ConfigError: a setting has no effect here, or is wrong.
        """

    def report(self, settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
        """Evaluate the trainings, by name, and draw into `folder`. Depends on nothing else, so it can be repeated.

        Args:
            settings: of the reproduction.
            runs: the trainings.
            folder: of the figures.
            show: show progress on stderr where it takes long.
        """
