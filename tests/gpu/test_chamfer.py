"""The Chamfer distance on the GPU: the tests of the CPU with tensors there, and clouds of the sizes of trainings."""

from __future__ import annotations

import pytest
import torch

from tests.ops.chamfer_parity import assert_chamfer, forward, gradients
from tests.ops.test_chamfer import (  # noqa: F401  (collected here, with the GPU's fixtures)
    TestSpecialValues,
    clouds,
    results,
    test_any_layout_has_the_same_bits,
    test_far_from_the_origin_nothing_cancels,
    test_it_is_the_sum_of_both_directions_and_of_squares,
    test_of_equally_near_points_the_first_counts,
    test_only_the_gradients_asked_for,
    test_positions_outside_a_cloud_count_as_none,
    test_reductions,
    test_values_and_gradients,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape", [(32, 2048, 2048, 3), (8, 128, 128, 3), (2, 5000, 3001, 3), (4, 1024, 700, 16)], ids=str
)
def test_clouds_that_people_train_with(compiled_backend, shape, dtype):
    assert_chamfer(compiled_backend, *clouds(shape, dtype))


def test_repeats_have_the_same_bits(compiled_backend):
    pair = clouds((8, 1000, 1500, 3))
    first, second = results(compiled_backend, *pair), results(compiled_backend, *pair)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_memory_grows_with_the_points(compiled_backend):
    """Choices and partial sums, then two gradients."""
    points, targets = clouds((2, 8192, 8192, 3))
    results(compiled_backend, points, targets)  # Triton compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    distance, *nearest = forward(compiled_backend, points, targets)
    gradients(compiled_backend, distance, points, targets, nearest)
    assert torch.cuda.max_memory_allocated() - before <= 2 * 2 * 8192 * 32 + (1 << 16)


def test_a_graph_replays_what_was_captured(compiled_backend):
    pair = clouds((3, 300, 257, 3))
    for _ in range(3):  # Triton compiles, and the allocator grows, before the capture
        expected = results(compiled_backend, *pair)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(compiled_backend, *pair)
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
