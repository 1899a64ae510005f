"""Compute the hours that a published schedule takes on one GPU from the rates measured at its resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.iterations.images import OURS
from benchmarks.names import STYLE_STEP
from benchmarks.rows import Row
from benchmarks.tables import Table
from sivae.settings.growth import SMALLEST, Growing
from sivae.training import preset_config

FFHQ_IMAGES = 70_000
SCHEDULES = ("ffhq256", "ffhq1024")  # presets; from 64x64 on, their sides and batches are measured


def hours_table(rows: Sequence[Row], images: int = FFHQ_IMAGES) -> Table:
    """A line for each stage: its images divided by the rate of our fastest variant at its side and batch.

    Sides below the smallest measured one train faster than it; they get its rate, and their hours are upper bounds. A
    schedule is left out if a larger side was not measured at its batch. The hours do not include pictures, metrics,
    checkpoints, or waiting for a slow disk.

    Args:
        rows: of one device; those of a CPU do not count, as their networks are narrower.
        images: in the data set.
    """
    rates = _rates(rows)
    lines = []
    for preset in SCHEDULES:
        config = preset_config(preset)
        side, growth = config.data.side, config.growth
        assert isinstance(growth, Growing) and config.epochs is not None
        plan = growth.planned(epochs=config.epochs, side=side, images=images)
        assert plan.stage_steps is not None and plan.stage_batches is not None
        stages: list[list[str]] = []
        hours = 0.0
        for lod, (steps, batch) in enumerate(zip(plan.stage_steps, plan.stage_batches, strict=True)):
            side = SMALLEST << lod
            found = _rate_at(rates, side, batch)
            if found is None:
                break
            measured_at, rate, variant = found
            taken = steps * batch / rate / 3600
            hours += taken
            stages.append(
                [
                    *(preset, _square(side), str(batch), _millions(steps * batch)),
                    f"{rate:.1f} ({variant})" if measured_at == side else f"that of {_square(measured_at)}",
                    f"{'' if measured_at == side else 'at most '}{taken:.1f}",
                ]
            )
        else:
            lines += [*stages, [preset, "all", "", _millions(plan.images_after(plan.total_steps)), "", f"{hours:.1f}"]]
    headings = ["preset", "side", "batch", "million images", "images/s", "hours, computed"]
    return Table(f"Hours of published schedules on one GPU with {images:,} images, computed", headings, lines, labels=2)


def _square(side: int) -> str:
    return f"{side}x{side}"


def _millions(images: int) -> str:
    return f"{images / 1e6:.2f}"


def _rates(rows: Sequence[Row]) -> dict[tuple[int, int], tuple[float, str]]:
    """(side, batch) -> images per second of our fastest variant, and its name."""
    rates: dict[tuple[int, int], tuple[float, str]] = {}
    for row in rows:
        if row["op"] != STYLE_STEP or row["device_type"] != "cuda" or row["seconds"] is None:
            continue
        if not row["variant"].startswith(OURS):
            continue
        batch, _, side, _ = row["shape"]
        rates[side, batch] = max(rates.get((side, batch), (0.0, "")), (batch / row["seconds"], row["variant"]))
    return rates


def _rate_at(rates: dict[tuple[int, int], tuple[float, str]], side: int, batch: int) -> tuple[int, float, str] | None:
    """The side that was measured for this one, its rate and its variant; None: there is no such side."""
    if (side, batch) in rates:
        return side, *rates[side, batch]
    smallest = min(rates, default=None)
    if smallest is None or side >= smallest[0]:
        return None
    return smallest[0], *rates[smallest]
