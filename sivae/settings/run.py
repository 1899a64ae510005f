"""The settings of a run, as one frozen record that is written to `config.json` and read back unchanged."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from sivae import fields, json_files
from sivae.errors import ConfigError
from sivae.fields import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SHARES,
    Choice,
    Need,
    about,
    setting,
    settings_of,
)
from sivae.method.objectives import OF_IMAGES, Augmentation, Objective
from sivae.objectives import OBJECTIVES
from sivae.settings.data import DATA_KINDS, Data
from sivae.settings.growth import GROWTH_KINDS, FixedSize, Growing, Growth, Stage
from sivae.settings.models import MODEL_KINDS, Model

Precision = Literal["fp32", "tf32", "bf16", "auto"]
MemoryFormat = Literal["channels-last", "contiguous"]
Automatic = Literal["auto", "on", "off"]
Passes = Literal["shared", "fresh"]
Network = Literal["encoder", "decoder"]
WARM_UP = "warm-up"


class Change(TypedDict):
    """A setting that a run changed on its way.

    Attributes:
        after: number of iterations that were trained before.
        key: the setting.
        before, now: its values.
    """

    after: Annotated[int, NOT_NEGATIVE]
    key: str
    before: Any
    now: Any


FORMAT = 3  # of config.json; raised when an old reader would misread a new file

OF_LENGTH = ("steps", "epochs", "warmup_fraction", "milestones", "freeze_fraction")  # change with a run's length

_NOT_GROWING = Need(lambda config: not config.growth.grows, "the model grows, and each of its stages has its own value")
_WARMS_UP = Need(
    lambda config: not config.growth.grows and config.objective.WARMS_UP,
    "a plain VAE needs no warm-up, and a growing model has warmup_epochs",
)
_HAS_EPOCHS = Need(lambda config: not config.data.ENDLESS, "points of a density have no epochs")
_SHARES_PASSES = Need(
    lambda config: config.objective.SHARES_PASSES,
    "the objective {config.objective.name!r} updates both networks at once",
)
_FREEZES = Need(lambda config: config.freeze is not None, "no network is frozen")
_HAS_STAGES = Need(
    lambda config: config.model.HAS_STAGES,
    "the networks of the model {config.model.name!r} have no stages",
    strict=True,
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings that decide what a run computes, and how often it writes.

    Attributes:
        preset: the preset that it was made from; a name for people.
        data: where the samples come from.
        model: the networks.
        objective: what is minimised.
        growth: whether the model grows with the images, and when.
        others: each field says in its help.

    Raises:
        ConfigError: a value is of the wrong type or out of range, or the parts do not fit each other.
    """

    preset: str
    data: Data
    model: Model
    objective: Objective
    growth: Growth = field(default_factory=FixedSize)
    steps: int | None = setting(
        None,
        help="Training iterations, the warm-up's included. The schedule of a growing model is scaled to them.",
        within=AT_LEAST_1,
        unset="by --epochs",
        found=True,
    )
    epochs: float | None = setting(
        None,
        help="Passes over the images, instead of --steps.",
        within=POSITIVE,
        need=_HAS_EPOCHS,
        unset="by --steps",
    )
    init_from: str | None = setting(
        None,
        help="Start from the weights of a trained model: a run, a checkpoint's or a model's folder, or a file of the "
        "authors' programs. Layers that do not fit start at random, and are named. The networks become those of a "
        "folder of diffusers, unless options say otherwise.",
        unset="random weights",
        metavar="PATH",
        since=None,
    )
    freeze: Network | None = setting(
        None, help="The network that does not train, and stays as it is.", unset="both train", since=None
    )
    freeze_fraction: float = setting(
        1.0,
        help="Share of the steps, at the start, in which --freeze has an effect.",
        within=SHARE,
        need=_FREEZES,
        since=1.0,
    )
    batch_size: int = setting(
        512,
        help="Samples per iteration, of all processes together.",
        within=AT_LEAST_1,
        need=_NOT_GROWING,
        changeable=True,
    )
    learning_rate: float = setting(
        2e-4,
        help="Adam's rate for encoder and decoder before the first milestone.",
        within=POSITIVE,
        changeable=True,
    )
    warmup_fraction: float = setting(
        0.0,
        help="Share of the steps, at the start, that train a plain VAE. With the objective lord: the share of its "
        "first stage.",
        within=SHARE,
        need=_WARMS_UP,
    )
    milestones: tuple[float, ...] = setting(
        (), help="Shares of the steps after which the rate drops, ascending.", within=SHARES
    )
    rate_factor: float = setting(0.1, help="Factor of the rate at each milestone.", within=POSITIVE)
    ema_half_life: float | None = setting(
        None,
        help="Number of images after which a weight's share in the averaged copy has halved. The averaged copy then "
        "makes pictures and metrics.",
        within=POSITIVE,
        unset="no average",
    )
    precision: Precision = setting(
        "fp32",
        help="Precision of the networks; weights and losses stay float32. tf32 rounds products on NVIDIA GPUs. auto: "
        "bf16 where the device multiplies it in hardware, else fp32; fp32 for points in the plane on a GPU.",
    )
    memory_format: MemoryFormat = setting(
        "channels-last", help="The order of an image's values in memory.", need=OF_IMAGES._replace(strict=False)
    )
    compile: bool = setting(False, help="Compile the networks with torch.compile.")
    cuda_graph: Automatic = setting("auto", help="Run iterations as one CUDA graph; auto: on a GPU, for small images.")
    decoder_passes: Passes = setting(
        "shared",
        help="shared: the decoder's update uses the encoder's forward passes. fresh: it draws new noise and encodes "
        "the images again, as the authors' style-based program does.",
        need=_SHARES_PASSES,
    )
    augment: tuple[Augmentation, ...] = setting(
        (),
        help="Show the encoder images, real and fake ones, that are changed at random: color, translation, cutout, or "
        "several of them. Reconstructions are still compared with the images as they were.",
        need=OF_IMAGES,
        since=(),
    )
    accumulate: int = setting(
        1,
        help="Number of parts of a batch; only one part is in memory at a time.",
        within=AT_LEAST_1,
        changeable=True,
    )
    checkpoint_activations: bool = setting(
        False,
        help="Keep only each stage's input and compute the rest again in the backward pass: less memory, more time.",
        need=_HAS_STAGES,
    )
    seed: int = setting(0, help="Seed of the first weights, the data, the noise and the metrics' samples.", within=SEED)
    device: str = setting("auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1 ...", metavar="NAME")
    ops: str | None = setting(
        None,
        help="Backend of the fused ops; sivae info lists them.",
        unset="the fastest available one",
        metavar="NAME",
    )
    threads: int | None = setting(
        None, help="CPU threads.", within=AT_LEAST_1, unset="one for points in the plane, else torch's choice"
    )
    log_every: int = setting(
        25, help="Iterations between two records of the losses. Updates are checked as often.", within=AT_LEAST_1
    )
    checkpoint_every: int = setting(
        1_000, help="Iterations between two checkpoints.", within=AT_LEAST_1, resumable=True
    )
    keep_checkpoints: int = setting(
        2, help="Number of last checkpoints to keep, besides the best one.", within=AT_LEAST_1, resumable=True
    )
    changes: tuple[Change, ...] = setting((), help="What the run changed when it was resumed.", option="", since=())
    sample_every: int | None = setting(
        None,
        help="Iterations between two pictures of samples.",
        within=AT_LEAST_1,
        unset="a tenth of the steps",
        found=True,
    )

    def __post_init__(self) -> None:
        _check_parts(self.parts)
        fields.converted("preset", self.preset, str)
        fields.conform(self)
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"milestones = {fields.show(list(self.milestones))}: give them in ascending order")
        if not self.growth.grows and self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate}: it must divide the batch_size, {self.batch_size}; "
                "choose one that does"
            )
        if self.data.SAMPLES != self.model.SAMPLES:
            raise ConfigError(f"model = {self.model.name!r}: it does not fit the data {self.data.name!r}")
        if self.data.ENDLESS and self.epochs is not None:
            raise ConfigError(f"epochs = {self.epochs}: points of a density have none; give steps")
        for part in (self, *self.parts.values()):
            for one in settings_of(part):
                need = about(one).need
                if need and need.strict and getattr(part, one.name) != one.default and not need.holds(self):
                    raise ConfigError(f"{one.name}: {need.why_not.format(config=self)}; leave it out")
        if len(set(self.augment)) < len(self.augment):
            raise ConfigError(f"augment = {fields.show(list(self.augment))}: name each kind once")
        self.objective.check(self)
        self.model.check(self)
        if self.paired and self.batch_size % (2 * self.accumulate):
            raise ConfigError(
                f"batch_size = {self.batch_size}: pairs want an even number in each of {self.accumulate} parts"
            )
        if self.growth.grows and not self.model.GROWS:
            raise ConfigError(f"growth = 'grow': the model {self.model.name!r} does not grow; leave it out")
        if self.growth.grows and self.epochs is None:
            raise ConfigError("epochs: how long a growing run takes to grow is counted in them; give them")
        if self.growth.grows and self.warmup_fraction:
            raise ConfigError(
                f"warmup_fraction = {self.warmup_fraction}: a growing model has warmup_epochs instead; leave it out"
            )
        freezes = self.freeze_fraction > 0 if self.steps is None else round(self.freeze_fraction * self.steps) > 0
        if self.freeze is not None and not freezes:
            raise ConfigError(
                f"freeze_fraction = {self.freeze_fraction:g}: the {self.freeze} would be frozen for no step, expected "
                "a larger share; or leave freeze out"
            )
        if self.changes:
            _ = self.versions  # a change that a file misstates is an error now
        if self.steps is None and self.epochs is None:
            raise ConfigError("steps: say how long to train, by steps or by epochs")

    def check_processes(self, count: int) -> None:
        """Refuse a number of processes that cannot train this together.

        Raises:
            ConfigError: they cannot.
        """
        self.model.check_processes(count, self.device)
        if isinstance(self.growth, Growing):
            if self.growth.stage_steps is not None:  # a resumed run, perhaps with another number of processes
                self.growth.check_shared(count, self.accumulate)
            return
        multiple, what = count * self.accumulate, "it"
        if self.paired:
            multiple, what = 2 * multiple, "its pairs"
        if self.batch_size % multiple:
            raise ConfigError(
                f"batch_size = {self.batch_size}: {count} processes with accumulate = {self.accumulate} cannot share "
                f"{what} equally; choose a multiple of {multiple}"
            )

    @property
    def parts(self) -> dict[str, Choice]:
        """Data, model, objective and growth, by their labels."""
        return {label: getattr(self, label) for label in PARTS}

    def value(self, key: str) -> Any:
        """A setting of the run or of one of its parts, by its key.

        Raises:
            ConfigError: the run has no such setting.
        """
        for part in (self, *self.parts.values()):
            if key in [one.name for one in settings_of(part)]:
                return getattr(part, key)
        raise ConfigError(self._misplaced(key, None))

    def has(self, key: str) -> bool:
        """Whether the run or one of its parts has a setting."""
        return any(key == one.name for part in (self, *self.parts.values()) for one in settings_of(part))

    @property
    def paired(self) -> bool:
        """Whether batches consist of pairs of one class."""
        return self.model.wants_pairs and self.objective.TAKES_PAIRS

    @property
    def total_steps(self) -> int:
        """Training iterations.

        Raises:
            ConfigError: only epochs are known yet.
        """
        if self.steps is None:
            raise ConfigError("steps: how many iterations the epochs make is known once the data is open")
        return self.steps

    @property
    def warmup_steps(self) -> int:
        """Iterations that train a plain VAE first."""
        if isinstance(self.growth, Growing):
            return self.growth.warmup_steps
        return round(self.warmup_fraction * self.total_steps)

    def phase_at(self, step: int) -> str:
        """The phase of iteration `step`, counted from 1: "warm-up", or the objective's name."""
        return WARM_UP if step <= self.warmup_steps else self.objective.name

    def frozen_at(self, step: int) -> Network | None:
        """The network that does not train in iteration `step`, counted from 1."""
        return self.freeze if step <= round(self.freeze_fraction * self.total_steps) else None

    def learning_rate_at(self, step: int) -> float:
        """Adam's rate in iteration `step`, counted from 1."""
        passed = sum(step > round(milestone * self.total_steps) for milestone in self.milestones)
        stage = self.stage_at(step)
        of_stage = 1.0 if stage is None else stage.rate_factor
        return self.at(step).learning_rate * of_stage * self.rate_factor**passed

    def stage_at(self, step: int) -> Stage | None:
        """The stage of growth in iteration `step`, counted from 1; None where the model does not grow."""
        return self.growth.stage_at(step)

    def samples_after(self, steps: int) -> int:
        """Samples seen in the first `steps` iterations, by all processes together."""
        if isinstance(self.growth, Growing):
            return self.growth.images_after(steps)
        sizes = [one for one in self.batch_sizes if one[0] < steps] + [(steps, 0)]
        return sum((end - begin) * size for (begin, size), (end, _) in itertools.pairwise(sizes))

    @functools.cached_property
    def versions(self) -> tuple[tuple[int, RunConfig], ...]:
        """The settings over time, each with the number of iterations before they hold. The last are these here."""
        of_values = [one for one in self.changes if one["key"] in changeable_keys()]
        found = []
        for after in sorted({0, *(one["after"] for one in of_values)}):
            before = {one["key"]: one["before"] for one in reversed(of_values) if one["after"] > after}
            found.append((after, self.replace(**before, changes=()) if before else self))
        return tuple(found)

    def version_at(self, step: int) -> int:
        """The position in :attr:`versions` of the settings of iteration `step`, counted from 1."""
        return sum(after < step for after, _ in self.versions) - 1

    def at(self, step: int) -> RunConfig:
        """The settings of iteration `step`, counted from 1: these here, unless the run has changed them later."""
        return self.versions[self.version_at(step)][1]

    @functools.cached_property
    def batch_sizes(self) -> tuple[tuple[int, int], ...]:
        """Each batch size of the run, with the number of iterations before it."""
        sizes = [(after, version.batch_size) for after, version in self.versions]
        return (sizes[0], *(later for one, later in itertools.pairwise(sizes) if later[1] != one[1]))

    def sizes_until(self, step: int) -> tuple[tuple[int, int], ...]:
        """The :attr:`batch_sizes` of the iterations up to `step`, counted from 1."""
        return tuple(one for one in self.batch_sizes if one[0] < step)

    @property
    def compares_after(self) -> int:
        """The number of iterations after which all losses are weighted as the last ones."""
        same = [after for after, version in self.versions if version.objective != self.objective]
        return next((after for after, _ in self.versions if not same or after > same[-1]), 0)

    def to_json(self) -> str:
        """Indented JSON with every key."""
        content: dict[str, Any] = {"format": FORMAT}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            content[one.name] = value.to_dict() if isinstance(value, Choice) else fields.plain(value)
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: it is not JSON or of another format, a key is unknown or missing, a value is wrong.
        """
        try:
            values = json_files.parse(text)
        except ValueError as error:
            raise ConfigError(f"{error}; restore the file as the run wrote it") from None
        if not isinstance(values, dict):
            raise ConfigError("not a JSON object; restore the file as the run wrote it")
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"format = {fields.show(values.get('format'))}: this version reads format {FORMAT}; "
                "use the version of sivae that wrote the run"
            )
        values.pop("format")
        values = fields.with_later_settings(cls, values)
        fields.check_keys(values, [one.name for one in dataclasses.fields(cls)], "")
        parts = {label: fields.choice_from_dict(kinds, values[label]) for label, kinds in PARTS.items()}
        return cls(**{**values, **parts})

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a `config.json`.

        Raises:
            ConfigError: as for :meth:`from_json`, with the file's name.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(json_files.read_text(path))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    def for_longer(self, steps: int, epochs: float | None, after: int, *, pace: float = 1.0) -> RunConfig:
        """Copy the settings of a run that goes on for longer. What counts in shares of the steps keeps its iterations.

        Args:
            steps, epochs: the new ones.
            after: number of iterations that are trained already.
            pace: iterations to come for each one that would have come, where another batch size keeps the epochs. With
                another pace than 1, the run may become shorter.

        Raises:
            ConfigError: the run would not become longer, or its model grows.
        """
        old = self.total_steps
        self.check_longer(steps, epochs)
        least = old if pace == 1.0 else after
        if steps <= least:
            asked = f"steps = {steps}:" if epochs is None else f"epochs = {epochs:g}: they make {steps:,} steps, and"
            raise ConfigError(f"{asked} the run has {least:,} already, expected more; leave it out")

        def share(value: float) -> float:
            iterations = round(value * old)
            return min(1.0, (iterations + round(max(0, iterations - after) * (pace - 1.0))) / steps)

        new: dict[str, Any] = dict.fromkeys(OF_LENGTH)
        new |= {"steps": steps, "epochs": epochs, "warmup_fraction": share(self.warmup_fraction)}
        new["milestones"] = tuple(map(share, self.milestones))
        new["freeze_fraction"] = 1.0 if self.freeze_fraction == 1.0 else share(self.freeze_fraction)
        changes = [
            Change(after=after, key=key, before=fields.plain(getattr(self, key)), now=fields.plain(value))
            for key, value in new.items()
            if getattr(self, key) != value
        ]
        return self.replace(**new, changes=(*self.changes, *changes))

    def with_changes_after(self, after: int, stored: RunConfig) -> RunConfig:
        """List what these settings of a resumed run change of the stored ones, for the iterations to come.

        Args:
            after: number of iterations that the run goes on from.
            stored: the run's settings; changes after later iterations, which the run has lost, are replaced.
        """
        kept = [one for one in stored.changes if one["after"] <= after or one["key"] not in changeable_keys()]
        before = stored.at(after + 1)
        changes = [
            Change(after=after, key=key, before=fields.plain(before.value(key)), now=fields.plain(self.value(key)))
            for key in changeable_keys()
            if self.has(key) and before.value(key) != self.value(key)
        ]
        return self.replace(changes=(*kept, *changes))

    def with_length_at(self, after: int) -> RunConfig:
        """Copy the settings with the length that the run had after `after` iterations, and the shares of that length.

        The changes of the length after later iterations, which the run has lost, are no longer listed.
        """
        lost = [one for one in self.changes if one["after"] > after and one["key"] in OF_LENGTH]
        before = {one["key"]: one["before"] for one in reversed(lost)}
        kept = tuple(one for one in self.changes if one not in lost)
        return self.replace(**{"steps": self.steps, "epochs": self.epochs, **before, "changes": kept})

    def check_longer(self, steps: int | None, epochs: float | None) -> None:
        """Refuse another length of a run that grows.

        Raises:
            ConfigError: the model grows.
        """
        if self.growth.grows:
            asked = f"steps = {steps}" if epochs in (None, self.epochs) else f"epochs = {epochs:g}"
            raise ConfigError(
                f"{asked}: a run that grows cannot go on for longer, as its stages count from its end; leave it out, "
                "or start a new run in another folder"
            )

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with other values. The parts' settings are given flat, beside the run's own.

        Steps replace epochs, and epochs replace steps.

        Raises:
            ConfigError: a key is unknown or has no effect here, or a value is wrong.
        """
        own = {key: changes.pop(key) for key in list(changes) if key in _OWN_KEYS}
        _check_parts({label: own[label] for label in PARTS if label in own})
        for label, part in self.parts.items():
            part = own.get(label, part)
            inside = {key: changes.pop(key) for key in list(changes) if key in part.key_names()}
            if label == "objective" and "kind" in inside and not {"data", "model"} & own.keys():
                part.check_kind(inside["kind"], self)  # by the model's kinds, before the type's, which are more
            if inside:
                own[label] = part.changed(**inside)
        for key, value in changes.items():
            raise ConfigError(self._misplaced(key, value))
        if "epochs" in own and "steps" not in own:
            own["steps"] = None
        grows = own.get("growth", self.growth).grows  # then steps compress the epochs' schedule
        if "steps" in own and own["steps"] is not None and "epochs" not in own and not grows:
            own["epochs"] = None
        return dataclasses.replace(self, **own)

    def _misplaced(self, key: str, value: Any) -> str:
        homes = _homes(key)
        if not homes:
            return fields.unknown(key, every_key())
        label, names = homes
        option = next(placed.option for placed in every_setting() if placed.field.name == key)
        if option.replace("-", "_") != key:
            key = f"{key} (--{option})"
        shown = fields.show(list(value) if isinstance(value, tuple) else value)
        choose = f"choose the {label}" if label in ("objective", "growth") else f"choose a preset with the {label}"
        return (
            f"{key} = {shown}: it has no effect with the {label} {self.parts[label].name!r}; "
            f"leave it out, or {choose} {' or '.join(names)}"
        )


def check_one_length(changes: Mapping[str, Any], *, grows: bool) -> None:
    """Refuse changes of both steps and epochs, except for a run that grows: its steps scale the epochs' schedule.

    Raises:
        ConfigError: both are given.
    """
    steps, epochs = changes.get("steps"), changes.get("epochs")
    if steps is not None and epochs is not None and not grows:
        raise ConfigError(
            f"steps = {fields.show(steps)}: epochs = {fields.show(epochs)} are given too, expected one of the two; "
            "leave the other out"
        )


PARTS: Mapping[str, Mapping[str, type[Any]]] = {
    "data": DATA_KINDS,
    "model": MODEL_KINDS,
    "objective": OBJECTIVES,
    "growth": GROWTH_KINDS,
}
_OWN_KEYS = tuple(one.name for one in dataclasses.fields(RunConfig))


class Placed(NamedTuple):
    """A setting, with where it is.

    Attributes:
        part: "run", or the label of a part.
        field: the setting.
        value: what the run has; MISSING where there is no run.
    """

    part: str
    field: dataclasses.Field[Any]
    value: Any

    @property
    def option(self) -> str:
        """Its name on the command line, without dashes; empty where it is no option."""
        named = about(self.field).option
        return self.field.name.replace("_", "-") if named is None else named


def placed_settings(config: RunConfig, *, effective: bool = True) -> Iterator[Placed]:
    """The settings of a run, the run's own first.

    Args:
        config: the run's.
        effective: leave out those that have no effect there.
    """
    for label, part in [("run", config), *config.parts.items()]:
        for one in settings_of(part):
            need = about(one).need
            if not effective or need is None or need.holds(config):
                yield Placed(label, one, getattr(part, one.name))


def every_setting() -> Iterator[Placed]:
    """The settings of every kind of run; one that several kinds of a part have comes once."""
    seen = set()
    kinds = [("run", RunConfig), *((label, kind) for label, of_part in PARTS.items() for kind in of_part.values())]
    for label, kind in kinds:
        for one in settings_of(kind):
            if one.name not in seen:
                seen.add(one.name)
                yield Placed(label, one, MISSING)


def every_key() -> list[str]:
    """The names of all settings, and of the parts."""
    return [*_OWN_KEYS, *(one.field.name for one in every_setting() if one.field.name not in _OWN_KEYS)]


def resumable_keys() -> list[str]:
    """The names of the settings that a resumed run may change."""
    return [one.field.name for one in every_setting() if about(one.field).resumable]


@functools.cache
def changeable_keys() -> tuple[str, ...]:
    """The names of the settings that a resumed run may change for the iterations to come."""
    return tuple(one.field.name for one in every_setting() if about(one.field).changeable)


def found_keys() -> list[str]:
    """The names of the settings that a run fills in when it starts, from the data and the processes."""
    return [one.field.name for one in every_setting() if about(one.field).found]


def _check_parts(parts: Mapping[str, Any]) -> None:
    """Refuse a part of a run that is no record of that part, a name for instance."""
    for label, part in parts.items():
        kinds = PARTS[label]
        if not isinstance(part, tuple(kinds.values())):
            words = ", ".join(kind.__name__ for kind in kinds.values())
            raise ConfigError(f"{label} = {fields.show(part)}: expected a record, one of {words}")


def _homes(key: str) -> tuple[str, list[str]] | None:
    """The part that has a setting, and the names of its kinds that have it."""
    for label, kinds in PARTS.items():
        names = [name for name, kind in kinds.items() if key in kind.key_names()]
        if names:
            return label, names
    return None
