"""The settings of a growing model: resolution, batch, rate and weights of each iteration.

Arithmetic alone; imports no torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar

from sivae.errors import ConfigError
from sivae.fields import COUNTS, FACTORS, NOT_NEGATIVE, POSITIVE, Choice, Need, Range, plain, setting, show
from sivae.words import plural

_NONE_BELOW_0 = Range(lambda value: len(value) > 0 and min(value) >= 0, "one or more, each 0 or more")
_SOME_ABOVE_0 = Range(lambda value: min(value, default=-1) >= 0 and max(value) > 0, "0 or more each, one above 0")

SMALLEST = 4  # pixels, the side at the first stage

# The whole batch at 4, 8, 16 … pixels by the number of GPUs, as published; beyond their end the last one holds.
PUBLISHED_BATCHES: dict[int, tuple[int, ...]] = {
    1: (128, 128, 128, 32, 16, 8, 4),
    2: (128, 128, 128, 64, 32, 16, 8),
    4: (512, 256, 128, 64, 32, 32, 16, 8, 4),
    8: (512, 256, 128, 64, 32, 32, 32, 32, 32),
}


@dataclass(frozen=True)
class Stage:
    """The values that an iteration takes from its stage.

    Attributes:
        lod: the stage, from 0.
        side: of the images, 4 * 2^lod pixels.
        index: of the iteration within the stage, from 0.
        blend: how far the stage's blocks have been blended in, above 0; 1 once half of `epochs_per_stage` have passed.
        batch_size: of all processes together.
        rate_factor: what the learning rate is multiplied by.
        beta_neg_factor: what beta_neg is multiplied by.
        last: whether no stage follows.
    """

    lod: int
    side: int
    index: int
    blend: float
    batch_size: int
    rate_factor: float
    beta_neg_factor: float
    last: bool


@dataclass(frozen=True, kw_only=True)
class Growth(Choice):
    """Whether a model grows, and when.

    Class attributes:
        grows: whether there are stages.
    """

    LABEL: ClassVar[str] = "growth"
    grows: ClassVar[bool] = False

    def stage_at(self, step: int) -> Stage | None:
        """The stage of iteration `step`, counted from 1; None where nothing grows."""
        return None

    def completed_by(self, plan: Growth) -> Growth:
        """A copy with the values of `plan` where this one leaves them open."""
        return self


@dataclass(frozen=True, kw_only=True)
class FixedSize(Growth):
    """The model has its whole size from the start."""

    NAME: ClassVar[str] = "none"


@dataclass(frozen=True, kw_only=True)
class Growing(Growth):
    """The model grows from 4x4 pixels on. Lists go from 4x4 on; where one is too short, its last value holds.

    Attributes:
        stage_beta_neg_factors: a stage's first pass over the images has the factor of the stage before, as in the
            authors' program.
        stage_steps, epoch_steps, blend_steps: iterations at each resolution, of a pass over the images, and over which
            the resolution is blended in; None: as many as the epochs make.
    """

    NAME: ClassVar[str] = "grow"
    grows: ClassVar[bool] = True

    epochs_per_stage: float = setting(
        help="Passes over the images at each resolution; the last one gets the remaining passes.",
        within=POSITIVE,
    )
    warmup_epochs: float = setting(
        0.0,
        help="First passes, which train a plain VAE.",
        within=NOT_NEGATIVE,
        need=Need(lambda config: config.objective.WARMS_UP, "a plain VAE needs no warm-up"),
    )
    stage_batches: tuple[int, ...] | None = setting(
        None,
        help="Samples per iteration at 4, 8, 16 ... pixels, of all processes together.",
        within=COUNTS,
        unset="as published for the number of GPUs",
        found=True,
    )
    stage_rate_factors: tuple[float, ...] = setting(
        (1.0,), help="Factors of the learning rate at 4, 8, 16 ... pixels.", within=FACTORS
    )
    stage_beta_neg_factors: tuple[float, ...] = setting(
        (1.0,),
        help="Factors of beta_neg at 4, 8, 16 ... pixels, from a stage's second epoch on.",
        within=FACTORS,
        need=Need(
            lambda config: "beta_neg" in config.objective.key_names() and not config.objective.follows_kl,
            "it is a factor of a fixed beta_neg, which this run has not",
        ),
    )
    stage_steps: tuple[int, ...] | None = setting(
        None, help="Iterations at each resolution.", within=_SOME_ABOVE_0, option="", found=True
    )
    epoch_steps: tuple[int, ...] | None = setting(
        None,
        help="Iterations of a pass over the images at each resolution.",
        within=_NONE_BELOW_0,
        option="",
        found=True,
    )
    blend_steps: tuple[int, ...] | None = setting(
        None,
        help="Iterations over which each resolution is blended in.",
        within=_NONE_BELOW_0,
        option="",
        found=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.stage_steps or ())
        for key in ("stage_batches", "stage_rate_factors", "stage_beta_neg_factors", "epoch_steps", "blend_steps"):
            value = getattr(self, key)
            if value is not None and len(value) < stages:
                raise ConfigError(
                    f"{key} = {show(plain(value))}: stage_steps has {plural(stages, 'stage')}, and each needs a value; "
                    "restore the file as the run wrote it"
                )

    def planned(
        self,
        *,
        epochs: float,
        side: int,
        images: int,
        processes: int = 1,
        accumulate: int = 1,
        total_steps: int | None = None,
    ) -> Growing:
        """A copy with every list as long as there are stages, and the iterations of each stage.

        Args:
            epochs: of the whole run.
            side: of the images at the last stage, a power of two.
            images: to train on.
            processes: that share each batch.
            accumulate: parts that a process cuts its share into.
            total_steps: iterations to draw out or compress the schedule to; None: as many as the epochs make.

        Raises:
            ConfigError: a batch cannot be shared equally, or there are too few images for it; or no model grows to this
                side.
        """
        if side < SMALLEST or side & (side - 1):
            raise ConfigError(f"resolution = {side}: a growing model needs a power of two, {SMALLEST} or more")
        stages = side.bit_length() - SMALLEST.bit_length() + 1
        batches = self.stage_batches
        if batches is None:
            fitting = max(count for count in PUBLISHED_BATCHES if count <= processes)
            multiple = processes * accumulate
            batches = tuple(
                max(1, min(math.ceil(one / multiple), images // multiple)) * multiple
                for one in PUBLISHED_BATCHES[fitting]
            )
        batches = _lengthened(batches, stages)
        for lod, batch in enumerate(batches):
            _check_shared(batch, lod, processes, accumulate)
            if batch > images:
                raise ConfigError(f"{_named(batch, lod)}: there are only {plural(images, 'image')}; choose less")
        epoch_steps = tuple(images // batch for batch in batches)
        epochs_of = [
            max(0.0, min(self.epochs_per_stage, epochs - self.epochs_per_stage * lod)) for lod in range(stages)
        ]
        epochs_of[-1] = max(0.0, epochs - self.epochs_per_stage * (stages - 1))
        steps = tuple(round(share * one) for share, one in zip(epochs_of, epoch_steps, strict=True))
        if sum(steps) == 0:
            steps = (1, *steps[1:])
        if total_steps is not None:
            ratio = total_steps / sum(steps)
            ends = [0, *(round(end * ratio) for end in itertools.accumulate(steps))]
            steps = tuple(end - start for start, end in itertools.pairwise(ends))
            epoch_steps = tuple(max(1, round(one * ratio)) for one in epoch_steps)
        # A stage that lasts longer than the others is blended in as fast as they are.
        blended = [0.0, *(min(1.0, self.epochs_per_stage / max(one, self.epochs_per_stage)) for one in epochs_of[1:])]
        return dataclasses.replace(
            self,
            stage_batches=batches,
            stage_rate_factors=_lengthened(self.stage_rate_factors, stages),
            stage_beta_neg_factors=_lengthened(self.stage_beta_neg_factors, stages),
            stage_steps=steps,
            epoch_steps=epoch_steps,
            blend_steps=tuple(int(share * count) // 2 for share, count in zip(blended, steps, strict=True)),
        )

    def check_shared(self, processes: int, accumulate: int) -> None:
        """Check that so many processes can share the plan's batches.

        Raises:
            ConfigError: they cannot.
        """
        for lod, batch in enumerate(self._plan("stage_batches")):
            _check_shared(batch, lod, processes, accumulate)

    def completed_by(self, plan: Growth) -> Growth:
        """See :meth:`Growth.completed_by`; `plan` may come from :meth:`planned`."""
        if not isinstance(plan, Growing):
            return self
        return dataclasses.replace(
            self,
            stage_steps=self.stage_steps or plan.stage_steps,
            epoch_steps=self.epoch_steps or plan.epoch_steps,
            blend_steps=self.blend_steps or plan.blend_steps,
            stage_batches=plan.stage_batches
            if self.stage_batches is None or plan.stage_batches is None
            else _lengthened(self.stage_batches, len(plan.stage_batches)),
            stage_rate_factors=_lengthened(self.stage_rate_factors, len(plan.stage_rate_factors)),
            stage_beta_neg_factors=_lengthened(self.stage_beta_neg_factors, len(plan.stage_beta_neg_factors)),
        )

    @property
    def total_steps(self) -> int:
        """Iterations of all stages, of a plan."""
        return sum(self._plan("stage_steps"))

    @property
    def warmup_steps(self) -> int:
        """Iterations that train a plain VAE first, of a plan."""
        return min(round(self.warmup_epochs * self._plan("epoch_steps")[0]), self.total_steps)

    def images_after(self, steps: int) -> int:
        """Images seen in the first `steps` iterations of a plan."""
        seen = 0
        for stage_steps, batch in zip(self._plan("stage_steps"), self._plan("stage_batches"), strict=True):
            done = min(steps, stage_steps)
            seen, steps = seen + done * batch, steps - done
        return seen

    def stage_at(self, step: int) -> Stage:
        """The stage of iteration `step`, counted from 1, of a plan. Beyond the end the last one holds."""
        steps = self._plan("stage_steps")
        ends = list(itertools.accumulate(steps))
        reached = max(lod for lod, count in enumerate(steps) if count > 0)
        lod = min(bisect_left(ends, step), reached)
        index = step - 1 - (ends[lod] - steps[lod])
        follows = lod > 0 and index < self._plan("epoch_steps")[lod]
        return Stage(
            lod=lod,
            side=SMALLEST << lod,
            index=index,
            blend=_blend(index, self._plan("blend_steps")[lod]),
            batch_size=self._plan("stage_batches")[lod],
            rate_factor=self.stage_rate_factors[lod],
            beta_neg_factor=self.stage_beta_neg_factors[lod - 1 if follows else lod],
            last=lod == len(steps) - 1,
        )

    def _plan(self, key: str) -> tuple[int, ...]:
        value: tuple[int, ...] | None = getattr(self, key)
        if value is None:
            raise ConfigError(f"{key}: how many iterations a stage has is known once the data is open")
        return value


def _blend(index: int, steps: int) -> float:
    """1/2 + 1/2 sin(pi t - pi/2), t from 0 to 1 over `steps` iterations."""
    if index >= steps:
        return 1.0
    return 0.5 + 0.5 * math.sin(math.pi * (index + 1) / (steps + 1) - math.pi / 2)


def _named(batch: int, lod: int) -> str:
    return f"stage_batches: {batch} at {SMALLEST << lod} pixels"


def _check_shared(batch: int, lod: int, processes: int, accumulate: int) -> None:
    if batch % (processes * accumulate):
        raise ConfigError(
            f"{_named(batch, lod)}: {processes} processes with accumulate = {accumulate} cannot share it equally; "
            f"choose a multiple of {processes * accumulate}"
        )


GROWTH_KINDS: dict[str, type[Growth]] = {kind.NAME: kind for kind in (FixedSize, Growing)}


def _lengthened(values: tuple[float, ...] | tuple[int, ...], count: int) -> tuple:
    return (*values[:count], *[values[-1]] * (count - len(values)))
