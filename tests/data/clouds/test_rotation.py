"""Random rotations about an axis."""

from __future__ import annotations

import pytest
import torch

from sivae.data.clouds import rotate
from sivae.data.clouds.rotation import Axis


def clouds() -> torch.Tensor:
    return torch.randn(64, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_lengths_and_the_coordinate_along_the_axis_stay(axis: Axis) -> None:
    before = clouds()
    after = rotate(before, axis=axis, generator=torch.Generator().manual_seed(1))
    along = "xyz".index(axis)
    assert torch.equal(after[..., along], before[..., along])
    torch.testing.assert_close(after @ after.mT, before @ before.mT)
    assert torch.linalg.det(after[:, :3]).sign().equal(torch.linalg.det(before[:, :3]).sign())  # no mirror image


def test_angles_stay_within_the_limit_and_differ_between_clouds() -> None:
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1000, 1, 3)
    turned = rotate(start, axis="z", degrees=30.0, generator=torch.Generator().manual_seed(1))
    angles = torch.rad2deg(torch.atan2(turned[:, 0, 1], turned[:, 0, 0]))
    assert angles.min() < -29.0
    assert angles.max() > 29.0
    assert angles.abs().max() <= 30.0 + 1e-12


def test_one_cloud_turns_like_a_batch_of_one() -> None:
    one = clouds()[0]
    alone, batched = (rotate(x, generator=torch.Generator().manual_seed(2)) for x in (one, one[None]))
    assert torch.equal(alone, batched[0])


def test_other_shapes_and_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clouds are \[4, 2\], expected"):
        rotate(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="axis = 'w', expected x, y or z"):
        rotate(torch.zeros(4, 3), axis="w")  # type: ignore[arg-type]
