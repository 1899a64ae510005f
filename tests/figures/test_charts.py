"""Pictures: complete PNG files under their names, whatever a run recorded, and nothing beside them."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sivae.figures.charts import plot_curves, plot_density, plot_samples, plot_scores
from sivae.figures.look import BLUE, NOT_FINITE, ORANGE

KEYS = ("rec", "kl_real", "kl_fake", "exp_elbo_fake", "loss_encoder", "loss_decoder")


def pixels(path: Path) -> np.ndarray:
    """The decoded picture; checks that it is a whole PNG with nothing left beside it."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        decoded = np.asarray(image.convert("RGB")).astype(int)
    assert not [entry for entry in path.parent.iterdir() if entry.suffix != ".png"]
    return decoded


def close(picture: np.ndarray, color: str) -> np.ndarray:
    """Which pixels are within 12 steps of a colour in each channel."""
    wanted = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
    return (np.abs(picture - wanted) <= 12).all(axis=2)


def near(picture: np.ndarray, color: str) -> int:
    """How many pixels are near a colour."""
    return int(close(picture, color).sum())


def draw_samples(path: Path) -> None:
    plot_samples(path, torch.zeros(10, 2), torch.ones(5, 2), 1.0, "samples")


def draw_density(path: Path) -> None:
    plot_density(path, torch.rand(8, 8, generator=torch.Generator().manual_seed(0)), 2.0, "density")


def draw_curves(path: Path) -> None:
    plot_curves(path, [{"step": k, **dict.fromkeys(KEYS, 1.0 + k)} for k in range(5)], "curves")


every_plot = pytest.mark.parametrize("draw", [draw_samples, draw_density, draw_curves])


@every_plot
def test_writes_one_png_and_replaces_it(draw: Callable[[Path], None], tmp_path: Path) -> None:
    target = tmp_path / "new" / "picture.png"
    draw(target)
    first = pixels(target)
    assert min(first.shape[:2]) > 400 and len(np.unique(first.reshape(-1, 3), axis=0)) > 20
    target.write_bytes(b"old")
    draw(target)
    assert (pixels(target) == first).all()


@every_plot
def test_accepts_a_path_as_text(draw: Callable[[str], None], tmp_path: Path) -> None:
    draw(str(tmp_path / "picture.png"))
    pixels(tmp_path / "picture.png")


@every_plot
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "picture.png"
    target.write_bytes(b"old")

    def fail(self: Figure, file: object, **_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw(target)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["picture.png"]


def test_the_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def recorded(name: str) -> Callable[..., None]:
        original = getattr(os, name)

        def call(*args: object) -> None:
            order.append(name)
            original(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    draw_density(tmp_path / "picture.png")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, and the folder that holds the name


def test_the_file_has_ordinary_permissions(tmp_path: Path) -> None:
    draw_density(tmp_path / "picture.png")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("picture.png", "plain")}
    assert len(modes) == 1


def test_matplotlibs_global_state_is_untouched(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for draw in (draw_samples, draw_density, draw_curves):
        draw(tmp_path / "picture.png")
    assert dict(matplotlib.rcParams) == before


class TestSamples:
    def test_the_model_panel_shows_the_generated_points(self, tmp_path: Path) -> None:
        centre = torch.zeros(400, 2)
        cloud = (torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 3
        plot_samples(tmp_path / "a.png", centre, centre, 1.0, "t")
        plot_samples(tmp_path / "b.png", centre, cloud, 1.0, "t")
        a, b = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
        changed = (a != b).any(axis=2)
        middle = a.shape[1] // 2
        # Below the title and above the caption only the right half, the model's, may change.
        band = slice(a.shape[0] // 10, a.shape[0] * 9 // 10)
        assert changed[band, middle:].sum() > 4000 and not changed[band, :middle].any()

    def test_no_points_and_broken_points(self, tmp_path: Path) -> None:
        broken = torch.tensor([[math.nan, 0.0], [math.inf, 1.0], [0.5, 0.5]], dtype=torch.bfloat16)
        plot_samples(tmp_path / "a.png", torch.zeros(0, 2), broken.requires_grad_(), 1.0, "t")
        assert pixels(tmp_path / "a.png").shape[2] == 3

    def test_a_title_is_text_not_mathematics(self, tmp_path: Path) -> None:
        plot_samples(tmp_path / "a.png", torch.zeros(1, 2), torch.zeros(1, 2), 1.0, r"run $\frac{$ 100%")
        assert pixels(tmp_path / "a.png").shape[2] == 3

    @pytest.mark.parametrize("shape", [(4,), (4, 3)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"fake must be \[N, 2\]"):
            plot_samples(tmp_path / "a.png", torch.zeros(4, 2), torch.zeros(shape), 1.0, "t")
        assert not any(tmp_path.iterdir())


class TestDensity:
    def test_the_first_index_runs_to_the_right_and_the_second_upwards(self, tmp_path: Path) -> None:
        grid = torch.zeros(10, 10)
        grid[8, 1] = 1.0
        plot_density(tmp_path / "a.png", grid, 1.0, "t")
        picture = pixels(tmp_path / "a.png")
        dark = (picture.sum(axis=2) < 160) & (np.arange(picture.shape[1]) < 0.84 * picture.shape[1])
        dark[: picture.shape[0] // 10] = False  # the title
        rows, columns = np.nonzero(dark)
        # The cell's centre is at 85 % across and 15 % up of the axes, which lie at 0.115 + 0.715 and 0.14 +
        # 0.757 of the figure; a cell is 7 % of the figure wide, so 2 % is well inside it.
        assert columns.mean() / picture.shape[1] == pytest.approx(0.115 + 0.715 * 0.85, abs=0.02)
        assert 1 - rows.mean() / picture.shape[0] == pytest.approx(0.14 + 0.757 * 0.15, abs=0.02)

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    def test_grids_without_anything_to_scale_by(self, value: float, tmp_path: Path) -> None:
        plot_density(tmp_path / "a.png", torch.full((4, 4), value), 1.0, "t")
        assert pixels(tmp_path / "a.png").shape[2] == 3

    def test_cells_that_are_not_finite_have_a_colour_of_their_own(self, tmp_path: Path) -> None:
        grid = torch.full((4, 4), 0.5)
        plot_density(tmp_path / "a.png", grid, 1.0, "t")
        grid[1, 2] = math.nan
        plot_density(tmp_path / "b.png", grid, 1.0, "t")
        finite, broken = (near(pixels(tmp_path / name), NOT_FINITE) for name in ("a.png", "b.png"))
        # A sixteenth of axes of 0.715 of 921 pixels, less its edges.
        assert broken - finite > 0.9 * (0.715 * 921 / 4) ** 2

    @pytest.mark.parametrize("shape", [(4,), (4, 3), (0, 0)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"grid must be \[R, R\]"):
            plot_density(tmp_path / "a.png", torch.zeros(shape), 1.0, "t")


class TestCurves:
    @pytest.mark.parametrize(
        "records",
        [
            [],
            [{"step": 3}],
            [{"rec": 1.0}],
            [{"step": 1, "rec": math.nan, "kl_real": math.inf, "loss_encoder": None, "kl_fake": "broken"}],
            [{"step": 1, "rec": 2.0}, {"step": None, "rec": 1.0}, {"step": 2, "loss_decoder": -1e20}],
            [{"step": 1, "loss_encoder": 0.0}, {"step": 2, "loss_encoder": 0.0}],
            [{"step": torch.tensor(1), "rec": torch.tensor(0.5)}, {"step": 2, "rec": 1e-30}],
        ],
        ids=["none", "step only", "no step", "nothing finite", "gaps", "zeros", "tensors"],
    )
    @pytest.mark.filterwarnings("error")
    def test_whatever_was_recorded(self, records: list[dict[str, object]], tmp_path: Path) -> None:
        plot_curves(tmp_path / "a.png", records, "t")
        assert pixels(tmp_path / "a.png").shape[2] == 3

    @pytest.mark.filterwarnings("error")
    def test_each_key_is_drawn(self, tmp_path: Path) -> None:
        """Encoder-side and real curves are blue, decoder-side and fake ones orange."""
        plot_curves(tmp_path / "none.png", [{"step": k} for k in range(50)], "t")
        empty = pixels(tmp_path / "none.png")
        for key in KEYS:
            records = [{"step": k, key: 10.0 ** (k % 7)} for k in range(50)]
            plot_curves(tmp_path / f"{key}.png", records, "t")
            color = BLUE if key in ("rec", "kl_real", "loss_encoder") else ORANGE
            assert near(pixels(tmp_path / f"{key}.png"), color) > near(empty, color) + 500, key

    @pytest.mark.filterwarnings("error")
    def test_long_runs_get_a_running_median(self, tmp_path: Path) -> None:
        """Noise around a constant: the median's line is fully coloured, which the thin raw curve is not."""
        noise = torch.rand(2000, generator=torch.Generator().manual_seed(0)).tolist()
        records = [{"step": k, "rec": 1 + noise[k], "loss_encoder": -(100.0 * noise[k])} for k in range(2000)]
        plot_curves(tmp_path / "a.png", records, "t")
        # A line across a panel of 0.405 of 1440 pixels, 1.7 points = 3.4 pixels wide, at least half of it
        # unblended.
        assert near(pixels(tmp_path / "a.png"), BLUE) > 2 * 0.5 * 3.4 * 0.405 * 1440 * 0.9


def shown(path: Path, color: str) -> int:
    """How many columns of the picture hold the colour of an outline."""
    picture = pixels(path)
    return int(close(picture[picture.shape[0] * 3 // 10 :], color).any(axis=0).sum())  # below the legend


def values(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, 200)


class TestScores:
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
    def test_both_sets_take_room(self, inside: np.ndarray, outside: np.ndarray, tmp_path: Path) -> None:
        path = tmp_path / "new" / "scores.png"
        plot_scores(path, {"a model": {"in": inside, "out": outside}}, "score", "title", threshold=2.0)
        # A bin is 1/60 of the axes, which are 6.3 of 7.2 inches at 144 dots: 15 pixels, too few to be seen.
        assert shown(path, BLUE) > 30 and shown(path, ORANGE) > 30
        assert [file.name for file in path.parent.iterdir()] == ["scores.png"]

    @pytest.mark.filterwarnings("error")
    def test_models_stand_side_by_side_under_any_name(self, tmp_path: Path) -> None:
        sets = {r"$\frac{$": values(1, 2), "out": values(2, 3)}
        for count in (1, 2):
            plot_scores(tmp_path / f"{count}.png", {f"$model {k}": sets for k in range(count)}, "score", "a $title")
        with Image.open(tmp_path / "1.png") as one, Image.open(tmp_path / "2.png") as two:
            assert two.width > one.width and two.height == one.height

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("same", [3.0, math.inf])
    def test_scores_that_are_all_the_same(self, same: float, tmp_path: Path) -> None:
        plot_scores(tmp_path / "a.png", {"m": {"in": [same, same], "out": [same]}}, "score", "t")
        assert (tmp_path / "a.png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("panels", "message"),
        [
            ({}, "no scores"),
            ({"m": {"in": [], "out": [1.0]}}, "no scores"),
            ({"m": {"in": [math.nan]}}, "a score is NaN"),
        ],
    )
    def test_nothing_to_draw(self, panels: dict[str, dict[str, list[float]]], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            plot_scores(tmp_path / "a.png", panels, "score", "t")
        assert not list(tmp_path.iterdir())
