"""Compare the Chamfer distance of the Triton backend, in the interpreter, with float64."""

from __future__ import annotations

import math

import pytest
import torch

from tests.ops.chamfer_parity import assert_chamfer, forward, gradients, squared_distances

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    assert_chamfer("triton", torch.randn(2, 5, 3).to(dtype), torch.randn(2, 7, 3).to(dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dims", [1, 4])
def test_many_tiles(small_blocks, dims, reduction):
    """Views are read in place."""
    points, targets = torch.randn(2, dims, 9).transpose(1, 2), torch.randn(2, 2 * 13, dims)[:, ::2]
    assert_chamfer("triton", points, targets, reduction)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
def test_of_equally_near_points_the_first_counts(request, blocks):
    request.getfixturevalue(blocks)
    points, targets = torch.randint(2, (1, 9, 2)).float(), torch.randint(2, (1, 14, 2)).float()
    pairs = squared_distances(points, targets)
    _, nearest_target, nearest_point = forward("triton", points, targets)
    assert torch.equal(nearest_target.long(), pairs.min(2).indices)
    assert torch.equal(nearest_point.long(), pairs.min(1).indices)


@pytest.mark.parametrize("blocks", ["interpreter", "small_blocks"])
def test_nan_is_the_nearest(request, blocks):
    request.getfixturevalue(blocks)
    points, targets = torch.randn(2, 2, 9, 3)
    points[0, 6, 1], targets[0, 7, 2] = math.nan, math.nan
    found, expected = (forward(backend, points, targets) for backend in ("triton", "reference"))
    assert found[0].isnan().tolist() == [True, False]
    assert all(torch.equal(a, b) for a, b in zip(found[1:], expected[1:], strict=True))


def test_infinitely_far():
    points = torch.full((1, 5, 3), 3e30)
    distance, *nearest = forward("triton", points, -points)
    assert distance.tolist() == [math.inf]
    assert not any(places.any() for places in nearest)


@pytest.mark.parametrize(("count", "others"), [(0, 4), (4, 0), (0, 0)])
def test_clouds_without_points(count, others):
    points, targets = torch.randn(2, count, 3), torch.randn(2, others, 3)
    distance, *nearest = forward("triton", points, targets)
    assert distance.tolist() == [0.0 if count == others else math.inf] * 2
    assert all((places == -1).all() for places in nearest)
    for gradient in gradients("triton", torch.ones(2), points, targets, nearest):
        assert not gradient.any()


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_asked_for(needed):
    points, targets = torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    distance, *nearest = forward("triton", points, targets)
    both = gradients("triton", distance, points, targets, nearest)
    one = gradients("triton", distance, points, targets, nearest, needed=needed)
    for found, expected, wanted in zip(one, both, needed, strict=True):
        assert torch.equal(found, expected) if wanted else found.shape == (0,)
