"""Pictures of point clouds: what is near, far, above and below, and files that are complete."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sivae.data.clouds import open_clouds
from sivae.figures.clouds import cloud_gif, cloud_grid, cloud_rows, draw_clouds

SIDE = 64


def cloud(*points: tuple[float, float, float]) -> Tensor:
    return torch.tensor([points])


def centre_of_ink(picture: Tensor, below: float = 0.75) -> tuple[float, float]:
    """Mean row and column of the pixels of balls, which are darker than the shadow."""
    rows, columns = (picture.amin(0) < below).nonzero(as_tuple=True)
    return float(rows.double().mean()), float(columns.double().mean())


def test_up_is_up_and_the_viewer_is_at_the_right_of_the_front() -> None:
    places = {
        name: centre_of_ink(draw_clouds(cloud(point), side=SIDE, extent=1.0)[0], below=0.9)
        for name, point in {
            "middle": (0.0, 0.0, 0.0), "above": (0.0, 0.5, 0.0), "right": (0.5, 0.0, 0.0), "front": (0.0, 0.0, 0.5),
        }.items()
    }  # fmt: skip
    row, column = places["middle"]
    assert row == pytest.approx(SIDE / 2, abs=1.5)
    assert column == pytest.approx(SIDE / 2, abs=1.5)
    assert places["above"][0] < row - 5
    assert places["right"][1] > column + 5
    assert places["front"][0] > row + 2  # seen from above, what is nearer is lower
    assert places["front"][1] < column - 2


def test_z_may_be_up() -> None:
    shapes = open_clouds("shapes:chair", points=300)
    upright = shapes.cloud(0, torch.Generator().manual_seed(0))[None]
    lying = torch.stack([upright[..., 0], -upright[..., 2], upright[..., 1]], -1)
    assert torch.equal(draw_clouds(lying, side=SIDE, up="z"), draw_clouds(upright, side=SIDE))


def test_near_balls_are_darker_larger_and_in_front() -> None:
    side = 256  # balls cover the middle pixels whole
    yaw, pitch = math.radians(38.0), math.radians(24.0)
    toward = torch.tensor([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    near, far = (draw_clouds(step * toward.view(1, 1, 3), side=side, extent=1.0)[0] for step in (0.6, -0.6))
    both = draw_clouds(torch.stack([0.6 * toward, -0.6 * toward])[None], side=side, extent=1.0)[0]
    assert near.amin() < far.amin() - 0.2
    assert (near.amin(0) < 0.7).sum() > (far.amin(0) < 0.7).sum()
    middle = slice(side // 2 - 1, side // 2 + 1)
    assert torch.equal(both[:, middle, middle], near[:, middle, middle])


def test_edges_are_smooth_and_the_rest_is_white() -> None:
    picture = draw_clouds(cloud((0.0, 0.0, 0.0)), side=SIDE, extent=1.0)[0]
    assert picture.shape == (3, SIDE, SIDE)
    assert (picture[:, :4] == 1.0).all()
    assert len(picture[0].unique()) > 6


def test_clouds_of_one_picture_have_one_scale() -> None:
    ball = torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(0))
    large, small = draw_clouds(torch.cat([ball, 0.3 * ball]), side=SIDE)
    assert (small.amin(0) < 0.75).sum() < (large.amin(0) < 0.75).sum() / 2
    alone, scaled = draw_clouds(ball, side=SIDE), draw_clouds(4.0 * ball, side=SIDE)
    assert (alone - scaled).abs().max() <= 1 / 255  # the extent is rounded once


@pytest.mark.filterwarnings("error")
def test_points_that_are_not_finite_are_left_out_and_shown_by_a_frame() -> None:
    whole = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([whole, torch.full((1, 1, 3), math.nan), torch.full((1, 1, 3), math.inf)], 1)
    plain, framed = (draw_clouds(clouds, side=SIDE, extent=2.0)[0] for clouds in (whole, broken))
    assert framed[:, 0, 0].tolist() == [1.0, 0.0, 1.0]
    assert plain[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(framed[:, 3:-3, 3:-3], plain[:, 3:-3, 3:-3])
    nothing = draw_clouds(torch.full((1, 4, 3), math.nan), side=SIDE)[0]
    assert (nothing[:, 4:-4, 4:-4] == 1.0).all()


def test_files_of_grids_rows_and_animations_are_written(tmp_path: Path) -> None:
    clouds = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0))
    cloud_grid(clouds, tmp_path / "new" / "grid.png", columns=3, side=100)
    with Image.open(tmp_path / "new" / "grid.png") as picture:
        assert picture.size == (3 * 102 + 2, 2 * 102 + 2)
    cloud_rows([clouds, clouds[:, :7]], tmp_path / "rows.png", row_labels=["original", "reconstruction"], side=100)
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 5 * 102
        assert np.asarray(picture)[:, :60].min() < 128  # the labels
    cloud_gif(clouds, tmp_path / "path.gif", side=100)
    with Image.open(tmp_path / "path.gif") as animation:
        assert animation.n_frames == 8  # there and back, without the ends twice
        assert animation.size == (200, 200)
        assert animation.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # as the page around it
    cloud_gif(clouds[:1], tmp_path / "one.gif")


@pytest.mark.parametrize(
    ("clouds", "up", "message"),
    [
        (torch.zeros(3, 5), "y", r"clouds are \[3, 5\], expected \[N, P, 3\]"),
        (torch.zeros(0, 5, 3), "y", r"clouds are \[0, 5, 3\], expected"),
        (torch.zeros(1, 5, 3), "x", "up = 'x', expected y or z"),
    ],
)
def test_other_input_is_refused(clouds: Tensor, up: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_clouds(clouds, up=up)  # type: ignore[arg-type]
