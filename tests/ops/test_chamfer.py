"""Test the Chamfer distance on every backend of the CPU: values, choices, gradients, layouts, bits and memory.

`chamfer_parity` derives the bounds of errors against float64; other tests are exact or state their bound.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from tests.ops.chamfer_parity import assert_chamfer, forward, gradients, squared_distances
from tests.ops.test_layouts import allocated_bytes

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
U = 2.0**-24
# (B, N, M, D): one point; groups of points and vectors of targets that are not full; several blocks of targets; more
# points than a block of threads has; every kernel by dimension.
SHAPES = [
    *((1, 1, 1, 3), (2, 5, 7, 3), (3, 1, 40, 2), (2, 130, 17, 3), (2, 4, 4, 1)),
    *((1, 33, 300, 5), (1, 300, 257, 3), (2, 37, 150, 2), (1, 20, 30, 6)),
]


def clouds(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    batch, count, others, dims = shape
    return torch.randn(batch, count, dims).to(dtype), torch.randn(batch, others, dims).to(dtype)


def results(backend: str, points: Tensor, targets: Tensor) -> list[Tensor]:
    """Everything that both passes give."""
    distance, *nearest = forward(backend, points, targets)
    upstream = torch.linspace(-1, 2, len(points), dtype=distance.dtype)
    return [distance, *nearest, *gradients(backend, upstream, points, targets, nearest)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(backend, shape, dtype):
    assert_chamfer(backend, *clouds(shape, dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions(backend, reduction):
    assert_chamfer(backend, *clouds((3, 20, 30, 3)), reduction)


def test_it_is_the_sum_of_both_directions_and_of_squares(backend):
    """By hand: exact in every dtype."""
    points = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    targets = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [5.0, 0.0, 0.0]]])
    points.requires_grad_()
    targets.requires_grad_()
    distance = ops.chamfer_distance(points, targets, backend=backend)
    assert distance.tolist() == [(1 + 4) + (1 + 4 + 4)]
    distance.sum().backward()
    # Twice the differences: both have each other; the second target has the first point.
    assert points.grad.tolist() == [[[0.0, -4.0, -4.0], [-8.0, 0.0, 0.0]]]
    assert targets.grad.tolist() == [[[0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [8.0, 0.0, 0.0]]]


@pytest.mark.parametrize("shape", [(2, 70, 300, 3), (2, 300, 70, 2), (1, 40, 50, 4)], ids=str)
def test_of_equally_near_points_the_first_counts(backend, shape):
    """On a coarse grid, where distances are exact and most are shared."""
    batch, count, others, dims = shape
    points = torch.randint(3, (batch, count, dims)).float()
    targets = torch.randint(3, (batch, others, dims)).float()
    pairs = squared_distances(points, targets)
    distance, nearest_target, nearest_point = forward(backend, points, targets)
    assert torch.equal(nearest_target.long(), pairs.min(2).indices)
    assert torch.equal(nearest_point.long(), pairs.min(1).indices)
    assert torch.equal(distance.double(), pairs.amin(2).sum(1) + pairs.amin(1).sum(1))


def test_far_from_the_origin_nothing_cancels(backend):
    """The form |x|^2 + |y|^2 - 2 x y, which the bound of the op excludes, loses all but a few bits here."""
    points, targets = (0.01 * torch.rand(2, 60, 3) + 100 for _ in range(2))
    assert_chamfer(backend, points, targets)
    exact = squared_distances(points, targets).amin(2).sum(1)
    expanded = points.square().sum(2)[:, :, None] + targets.square().sum(2)[:, None] - 2 * points @ targets.mT
    assert ((expanded.amin(2).sum(1) - exact).abs() > 0.5 * exact).all()


def test_equal_clouds_have_distance_zero(backend):
    points = torch.randn(2, 50, 3)
    assert ops.chamfer_distance(points, points.flip(1), backend=backend).tolist() == [0.0, 0.0]


class TestSpecialValues:
    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("at", [0, 17, 49])
    def test_nan_is_the_nearest(self, backend, which, at):
        """Its pair of clouds has the distance NaN; the other pair keeps its bits."""
        pair = [torch.randn(2, 50, 3) for _ in range(2)]
        before = results(backend, *pair)
        pair[which][0, at, 1] = math.nan
        distance, nearest_target, nearest_point, *grads = results(backend, *pair)
        assert distance[0].isnan()
        of_nan, of_others = (nearest_target, nearest_point) if which == 0 else (nearest_point, nearest_target)
        assert of_nan[0, at] == 0
        assert (of_others[0] == at).all()
        for old, new in zip(before, (distance, nearest_target, nearest_point, *grads), strict=True):
            assert torch.equal(old[1], new[1])

    def test_infinite_coordinates(self, backend):
        """A point at infinity is infinitely far from finite ones; the difference of two such points is NaN."""
        points, targets = torch.randn(2, 1, 20, 3)
        points[0, 3, 0] = math.inf
        distance, nearest_target, _ = forward(backend, points, targets)
        assert distance.tolist() == [math.inf]
        assert nearest_target[0, 3] == 0
        targets[0, 5, 0] = math.inf
        assert forward(backend, points, targets)[0].isnan().all()

    def test_overflow(self, backend):
        """Squares beyond the largest number are infinite, and the first point is the nearest."""
        points = torch.full((1, 20, 3), 3e30)
        distance, nearest_target, nearest_point, *grads = results(backend, points, -points)
        assert distance.tolist() == [math.inf]
        assert not nearest_target.any()
        assert not nearest_point.any()
        assert all(grad.isfinite().all() for grad in grads)

    @pytest.mark.parametrize(("count", "others"), [(0, 4), (4, 0), (0, 0)])
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_clouds_without_points(self, backend, count, others, reduction):
        """Infinitely far from a point, with gradient 0; at no distance from each other."""
        points, targets = torch.randn(2, count, 3, requires_grad=True), torch.randn(2, others, 3, requires_grad=True)
        distance = ops.chamfer_distance(points, targets, reduction=reduction, backend=backend)
        expected = 0.0 if count == others else math.inf
        assert distance.tolist() == ([expected] * 2 if reduction == "none" else expected)
        grads = torch.autograd.grad(distance.sum(), (points, targets))
        assert [grad.shape for grad in grads] == [points.shape, targets.shape]
        assert not any(grad.any() for grad in grads)
        _, nearest_target, nearest_point = forward(backend, points.detach(), targets.detach())
        assert (nearest_target == -1).all()
        assert (nearest_point == -1).all()

    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_no_clouds(self, backend, reduction):
        points, targets = torch.randn(0, 3, 3, requires_grad=True), torch.randn(0, 4, 3)
        distance = ops.chamfer_distance(points, targets, reduction=reduction, backend=backend)
        assert distance.shape == ((0,) if reduction == "none" else ())
        assert reduction == "none" or (distance.isnan() if reduction == "mean" else distance == 0)
        distance.sum().backward()
        assert points.grad.shape == points.shape


LAYOUTS = {
    "slices": lambda v: torch.stack([v, v + 1], 3)[..., 0],
    "transposed": lambda v: v.transpose(1, 2).contiguous().transpose(1, 2),
    "batch innermost": lambda v: v.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "part of a wider one": lambda v: torch.cat([v + 1, v], 2)[:, :, v.shape[2] :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_layout_has_the_same_bits(compiled_backend, layout, dtype):
    points, targets = clouds((2, 37, 50, 3), dtype)
    expected = results(compiled_backend, points, targets)
    view = LAYOUTS[layout]
    for pair in ((view(points), targets), (points, view(targets)), (view(points), view(targets))):
        found = results(compiled_backend, *pair)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_cloud_for_the_whole_batch(backend):
    """Expanded over the batch: its gradient is the sum over the pairs'. Their terms add up in another order."""
    points, one = torch.randn(4, 20, 3), torch.randn(1, 30, 3, requires_grad=True)
    whole = ops.chamfer_distance(points, one.expand(4, -1, -1), backend=backend).sum()
    each = sum(ops.chamfer_distance(points[b : b + 1], one, backend=backend) for b in range(4)).sum()
    (found,), (expected,) = torch.autograd.grad(whole, one), torch.autograd.grad(each, one)
    assert ((found - expected).abs() <= 64 * U * 20 * 4 * 2 * 6).all()  # up to 80 terms of at most 2 * 6


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_asked_for(compiled_backend, needed):
    points, targets = clouds((2, 20, 30, 3))
    distance, *nearest = forward(compiled_backend, points, targets)
    both = gradients(compiled_backend, distance, points, targets, nearest)
    one = gradients(compiled_backend, distance, points, targets, nearest, needed=needed)
    for found, expected, wanted in zip(one, both, needed, strict=True):
        assert torch.equal(found, expected) if wanted else found.shape == (0,)


def test_autograd_runs_the_backward_op(compiled_backend):
    points, targets = (cloud.requires_grad_() for cloud in clouds((2, 20, 30, 3)))
    distance = ops.chamfer_distance(points, targets, backend=compiled_backend)
    upstream = torch.tensor([0.5, -2.0])
    found = torch.autograd.grad(distance, (points, targets), upstream)
    points, targets = points.detach(), targets.detach()
    _, *nearest = forward(compiled_backend, points, targets)
    expected = gradients(compiled_backend, upstream, points, targets, nearest)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_positions_outside_a_cloud_count_as_none(compiled_backend):
    """The gradient of direct calls never reads outside an operand."""
    points, targets = clouds((1, 4, 5, 3))
    nearest = (torch.tensor([[5, -1, 2**31 - 1, -(2**31)]], dtype=torch.int32), torch.full((1, 5), 4).int())
    for gradient in gradients(compiled_backend, torch.ones(1), points, targets, nearest):
        assert not gradient.any()


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("shape", [(1, 1500, 700, 3), (5, 600, 400, 3), (2, 900, 300, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_any_number_of_threads(compiled_backend, shape, dtype):
    """On several threads a cloud is cut into parts."""
    points, targets = clouds(shape, dtype)
    points = (8 * points).round() / 8  # ties across the parts
    targets = (8 * targets).round() / 8
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(results(compiled_backend, points, targets))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.usefixtures("restore_threads")
def test_nan_on_any_number_of_threads(compiled_backend):
    points, targets = clouds((1, 1000, 400, 3))
    points[0, 700], points[0, 300] = math.nan, math.nan
    for threads in (1, 3):
        torch.set_num_threads(threads)
        distance, nearest_target, nearest_point = forward(compiled_backend, points, targets)
        assert distance.isnan().all()
        assert (nearest_point == 300).all()
        assert nearest_target[0, 300] == nearest_target[0, 700] == 0


def test_memory_grows_with_the_points_not_with_their_pairs(compiled_backend):
    """Choices, distances and a copy of one pair of clouds; in the backward pass two gradients and sums in float64."""
    points, targets = (cloud.requires_grad_() for cloud in clouds((2, 4096, 4096, 3)))
    each = 2 * 2 * 4096
    used = allocated_bytes(lambda: ops.chamfer_distance(points, targets, backend=compiled_backend))
    assert used <= 40 * each + 4096
    distance = ops.chamfer_distance(points, targets, backend=compiled_backend)
    used = allocated_bytes(lambda: torch.autograd.grad(distance.sum(), (points, targets), retain_graph=True))
    assert used <= 40 * each + 4096


def test_the_reference_holds_a_part_of_the_pairs_at_a_time():
    points, targets = torch.randn(1, 6000, 1), torch.randn(1, 6000, 1)
    pairs = 6000 * 6000 * 4
    peaks: list[int] = []
    original = torch.Tensor.min

    def spy(self: Tensor, *arguments: int) -> object:
        peaks.append(self.nbytes)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "min", spy)
        forward("reference", points, targets)
    assert max(peaks) < pairs / 8
