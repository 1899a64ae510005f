"""Histograms of scores: whatever their values, both sets are to be seen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sivae.evaluation.score_plots import plot_scores
from sivae.evaluation.style import BLUE, ORANGE


def shown(path: Path, color: str) -> int:
    """How many columns of the picture hold the colour of an outline."""
    wanted = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    below_legend = pixels[pixels.shape[0] * 3 // 10 :]
    return int((np.abs(below_legend - wanted) <= 12).all(axis=2).any(axis=0).sum())


def values(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, 200)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (values(1, 2), values(2, 3)),
        (values(1, 2), values(1e5, 2e5)),
        (values(-30, -10), values(1e5, 2e5)),
        (np.append(values(1, 2), math.inf), np.append(values(2, 3), -math.inf)),
    ],
    ids=["alike", "far apart", "far apart, some below zero", "some not finite"],
)
@pytest.mark.filterwarnings("error")
def test_both_sets_take_room(inside: np.ndarray, outside: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.png"
    plot_scores(path, {"a model": {"in": inside, "out": outside}}, "score", "title", threshold=2.0)
    # A bin is 1/60 of the axes, which are 6.3 of 7.2 inches at 144 dots: 15 pixels. One bin alone would be invisible.
    assert shown(path, BLUE) > 30 and shown(path, ORANGE) > 30
    assert [file.name for file in path.parent.iterdir()] == ["scores.png"]


@pytest.mark.filterwarnings("error")
def test_models_stand_side_by_side_under_any_name(tmp_path: Path) -> None:
    sets = {r"$\frac{$": values(1, 2), "out": values(2, 3)}
    for count in (1, 2):
        plot_scores(tmp_path / f"{count}.png", {f"$model {k}": sets for k in range(count)}, "score", "a $title")
    with Image.open(tmp_path / "1.png") as one, Image.open(tmp_path / "2.png") as two:
        assert two.width > one.width and two.height == one.height


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("same", [3.0, math.inf])
def test_scores_that_are_all_the_same(same: float, tmp_path: Path) -> None:
    plot_scores(tmp_path / "a.png", {"m": {"in": [same, same], "out": [same]}}, "score", "t")
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("panels", "message"),
    [({}, "no scores"), ({"m": {"in": [], "out": [1.0]}}, "no scores"), ({"m": {"in": [math.nan]}}, "a score is NaN")],
)
def test_nothing_to_draw(panels: dict[str, dict[str, list[float]]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plot_scores(tmp_path / "a.png", panels, "score", "t")
    assert not list(tmp_path.iterdir())
