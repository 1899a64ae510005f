"""The variants of iterations on images: which there are, their settings, their rows, and one that cannot run."""

from __future__ import annotations

import functools

import pytest
import torch

from benchmarks.iterations import images
from benchmarks.iterations.base import over
from benchmarks.iterations.conv import ConvCase
from benchmarks.iterations.images import CHANNELS_LAST, FRESH, OURS
from benchmarks.iterations.style import StyleCase
from benchmarks.names import EAGER
from benchmarks.probes import MatrixProbe
from benchmarks.rows import iteration_rows, spread_of
from benchmarks.timing import CPU
from tests.benchmarks import small

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MatrixProbe, "side_on_cpu", 16)


@pytest.mark.parametrize(
    ("graphed", "large"),
    [(small.CONV, ConvCase(4, 256, (8, 16), 4)), (StyleCase(2, 16), StyleCase(2, 256))],
    ids=["conv", "style"],
)
def test_a_gpu_has_every_precision_of_both_and_graphs_of_small_images(graphed, large):
    """Nothing is made before a variant is called, so no GPU is needed to list them."""
    found = images.variants(graphed, CUDA)
    assert {
        *(EAGER, images.TF32, images.BF16, images.BF16_COMPILED),
        *(OURS, images.OURS_TF32, images.OURS_BF16, images.OURS_GRAPH, images.OURS_COMPILED),
    } <= set(found)
    without = images.variants(large, CUDA, compiled=False)
    assert set(found) - set(without) == {images.OURS_GRAPH, images.OURS_COMPILED, images.BF16_COMPILED}


@pytest.mark.parametrize(
    ("case", "variants"),
    [(small.CONV, (EAGER, CHANNELS_LAST, OURS)), (small.STYLE, (EAGER, CHANNELS_LAST, OURS, f"{OURS}, {FRESH}"))],
    ids=["conv", "style"],
)
def test_every_variant_is_timed_with_its_memory_and_its_share_of_the_matrix_rate(case, variants):
    result = images.run(case, small.ITERATION_EFFORT)
    assert result.variants == variants
    for row in iteration_rows(result, small.FACTS):
        assert row["op"] == case.op and row["rounds"] == 3 and row["peak_extra_bytes"] > 0
        # Of each round: the operations in a second over those of the matrix product in a second.
        times = zip(result.measurement.seconds[row["variant"]], result.measurement.seconds[images.MATRIX], strict=True)
        shares = [row["flops"] / own / (result.matrix_flops / matrix) for own, matrix in times]
        share = spread_of(row, "share_of_matrix")
        assert share is not None
        assert share.median == pytest.approx(sorted(shares)[1])


@pytest.mark.parametrize(("wrapper", "tf32"), [(images.exact, False), (images.rounded, True)])
def test_products_are_rounded_inside_the_call_only(wrapper, tf32):
    def switches() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    assert wrapper(switches)() == (tf32, tf32)
    assert switches() == before


def test_operations_are_counted_by_their_formulas():
    a = torch.ones(3, 4)
    image, kernel = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert images.counted_flops(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert images.counted_flops(lambda: torch.conv2d(image, kernel, padding=1)) == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_a_variant_that_cannot_run_is_left_out_with_the_reason():
    def fails() -> images.Call:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot\nand more")

    makers = {"plain": lambda: functools.partial(torch.zeros, 3), "large": fails}
    result = images.timed(small.CONV, makers, small.ITERATION_EFFORT)
    assert result.variants == ("plain",)
    left_out = iteration_rows(result, small.FACTS)[1]
    assert (left_out["variant"], left_out["seconds"]) == ("large", None)
    assert left_out["skipped"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate a lot"


def test_a_compiled_variant_has_the_operations_of_the_uncompiled_one():
    a = torch.ones(3, 4)
    makers = dict.fromkeys((images.BF16, images.BF16_COMPILED), lambda: lambda: a @ a.T)
    result = images.timed(small.CONV, makers, small.ITERATION_EFFORT)
    assert result.flops == {images.BF16: 72, images.BF16_COMPILED: 72}


def test_each_call_gets_the_next_batch():
    seen: list[int] = []
    call = over(lambda x: seen.append(int(x)), [torch.tensor(index) for index in range(3)])
    for _ in range(4):
        call()
    assert seen == [0, 1, 2, 0]


def test_a_compiled_model_is_the_same_object():
    model = small.CONV.models(CPU)[1]
    compiled = images.with_compiled_networks(model)
    assert compiled is model
    assert all(network._compiled_call_impl is not None for network in (model.encoder, model.decoder))


def test_settings_of_trainings_end_with_the_measurement():
    """Past the compiler's limit, networks would run uncompiled without notice."""
    from torch._dynamo import config as dynamo

    before = torch.backends.cudnn.benchmark, dynamo.recompile_limit
    with images.as_trained():
        assert torch.backends.cudnn.benchmark
        assert dynamo.recompile_limit > 100
    assert (torch.backends.cudnn.benchmark, dynamo.recompile_limit) == before


def test_a_variant_is_made_once():
    made: list[int] = []

    def make() -> images.Call:
        made.append(1)
        return functools.partial(torch.zeros, 3)

    images.timed(small.CONV, {"zeros": make}, small.ITERATION_EFFORT)
    assert made == [1]
