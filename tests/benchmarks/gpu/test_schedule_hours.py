"""Hours of the published schedules: a division for each stage, and no line without a rate."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu.schedule_hours import hours_table
from benchmarks.names import STYLE_STEP

RATES = {(64, 16): 1000.0, (128, 8): 500.0, (256, 4): 200.0, (512, 4): 50.0, (1024, 4): 20.0}


def row(side: int, batch: int, rate: float, **changes: Any) -> dict[str, Any]:
    shape = [batch, 3, side, side]
    facts = {
        "op": STYLE_STEP,
        "device_type": "cuda",
        "variant": "native, bf16",
        "shape": shape,
        "seconds": batch / rate,
    }
    return facts | changes


ROWS = [row(*key, rate) for key, rate in RATES.items()]


def test_hours_are_images_over_rate():
    lines = hours_table(ROWS).lines
    stages = {(line[0], line[1]): line for line in lines}
    # docs/ffhq.md: 204 epochs of 70,000 images at the last side; passes end with whole batches.
    assert stages["ffhq256", "256x256"][2:] == ["4", "14.28", "200.0 (native, bf16)", f"{14.28e6 / 200 / 3600:.1f}"]
    assert stages["ffhq1024", "1024x1024"][-1] == f"{12.04e6 / 20 / 3600:.1f}"
    for preset, stage_count in (("ffhq256", 7), ("ffhq1024", 9)):
        hours = [float(line[-1].removeprefix("at most ")) for line in lines if line[0] == preset]
        assert len(hours) == stage_count + 1
        assert hours[-1] == pytest.approx(sum(hours[:-1]), abs=0.05 * stage_count)  # each is rounded to a tenth


def test_smaller_sides_are_bounded_by_the_smallest_one_measured():
    line = next(line for line in hours_table(ROWS).lines if line[:2] == ["ffhq256", "8x8"])
    assert line[4:] == ["that of 64x64", "at most 0.3"]


def test_a_schedule_with_a_side_that_was_not_measured_is_left_out():
    without = [entry for entry in ROWS if entry["shape"][3] != 512]
    assert {line[0] for line in hours_table(without).lines} == {"ffhq256"}
    assert hours_table([]).lines == []


def test_the_fastest_of_ours_counts_and_nothing_else():
    others = [
        row(256, 4, 250.0, variant="native, bf16, graph"),
        row(256, 4, 900.0, variant="eager, bf16, channels-last"),
        row(256, 4, 900.0, device_type="cpu"),
        row(256, 4, 900.0, op="image_step"),
        row(256, 4, 1.0, variant="native, bf16, compiled", seconds=None),
        row(256, 32, 900.0),
    ]
    line = next(line for line in hours_table(ROWS + others).lines if line[:2] == ["ffhq256", "256x256"])
    assert line[4] == "250.0 (native, bf16, graph)"
