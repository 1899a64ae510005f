"""What all iterations on images share: the variants, their settings, and what is said of one that cannot run."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from benchmarks import image_iterations as iterations
from benchmarks import image_step_suite, style_step_suite
from benchmarks.image_step_suite import ImageCase
from benchmarks.ops_suite import EAGER
from benchmarks.results import spread_of, step_rows
from benchmarks.style_step_suite import StyleCase
from sivae.settings.growth import PUBLISHED_BATCHES
from tests.benchmarks.test_results import FACTS
from tests.benchmarks.test_suites import TINY_EFFORT

CUDA = torch.device("cuda")
SMALL = ImageCase(batch=4, side=16, widths=(8, 16), z_dim=4)


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterations.MatrixProbe, "side_on_cpu", 16)


def test_a_gpu_has_every_precision_of_both_and_graphs_where_launching_counts():
    """The makers make nothing before they are called, so the list can be had without a GPU."""
    for suite, small, large in (
        (image_step_suite, SMALL, ImageCase(4, 256, (8, 16), 4)),
        (style_step_suite, StyleCase(2, 16), StyleCase(2, 256)),
    ):
        found = suite.makers(small, CUDA)
        assert {
            *(EAGER, iterations.TF32, iterations.BF16, iterations.BF16_COMPILED),
            *(iterations.OURS, iterations.OURS_TF32, iterations.OURS_BF16, iterations.OURS_GRAPH),
            iterations.OURS_COMPILED,
        } <= set(found)
        without = suite.makers(large, CUDA, compiled=False)
        assert set(found) - set(without) == {
            iterations.OURS_GRAPH,
            iterations.OURS_COMPILED,
            iterations.BF16_COMPILED,
        }


def test_the_style_model_s_batches_are_those_published_for_one_gpu():
    published = PUBLISHED_BATCHES[1]
    batches = {(case.side, case.batch): case for case in style_step_suite.CUDA_CASES}
    for side in (64, 128, 256, 512, 1024):
        lod = side.bit_length() - 3
        case = batches[side, published[min(lod, len(published) - 1)]]
        # The width of that resolution in the networks of 1024 x 1024 and of 256 x 256 alike.
        assert case.start_channels == min(512, 16 * 1024 // side)


@pytest.mark.parametrize(("wrapper", "tf32"), [(iterations.exact, False), (iterations.rounded, True)])
def test_products_are_rounded_inside_the_call_only(wrapper, tf32):
    def switches() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = switches()
    assert wrapper(switches)() == (tf32, tf32)
    assert switches() == before


def test_operations_are_counted_as_the_formulas_have_them():
    a = torch.ones(3, 4)
    image, kernel = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert iterations.counted_flops(lambda: a @ a.T) == 2 * 3 * 4 * 3
    assert iterations.counted_flops(lambda: torch.conv2d(image, kernel, padding=1)) == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


class TestRows:
    def test_share_of_the_matrix_rate(self):
        result = image_step_suite.run(SMALL, effort=TINY_EFFORT)
        for row in step_rows(result, FACTS):
            # Of each round: the operations in a second over those of the matrix product in a second.
            times = zip(
                result.measurement.seconds[row["variant"]], result.measurement.seconds[iterations.MATRIX], strict=True
            )
            shares = [row["flops"] / own / (result.matrix_flops / matrix) for own, matrix in times]
            share = spread_of(row, "share_of_matrix")
            assert share is not None
            assert share.median == pytest.approx(sorted(shares)[1])

    def test_one_that_cannot_run_is_left_out_with_its_reason(self):
        def fails() -> iterations.Call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot\nand more")

        fine = image_step_suite.makers(SMALL)[EAGER]
        result = iterations.timed(SMALL, {"plain": fine, "large": fails}, torch.device("cpu"), TINY_EFFORT)
        assert result.variants == ("plain",)
        left_out = step_rows(result, FACTS)[1]
        assert (left_out["variant"], left_out["seconds"]) == ("large", None)
        assert left_out["skipped"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate a lot"

    def test_the_operations_of_what_cannot_be_watched_are_those_of_its_like(self):
        names = (iterations.BF16, iterations.BF16_COMPILED)
        makers = dict.fromkeys(names, image_step_suite.makers(SMALL)[EAGER])
        result = iterations.timed(SMALL, makers, torch.device("cpu"), TINY_EFFORT)
        assert result.flops[names[0]] == result.flops[names[1]] > 0


def test_batches_are_gone_round():
    seen: list[int] = []

    def step(x: Tensor) -> None:
        seen.append(int(x))

    call = iterations.over(step, [torch.tensor(index) for index in range(3)])
    for _ in range(4):
        call()
    assert seen == [0, 1, 2, 0]


def test_a_network_that_is_compiled_is_the_same_object():
    model = image_step_suite.networks(SMALL, torch.device("cpu"))[1]
    compiled = iterations.with_compiled_networks(model)
    assert compiled is model
    assert all(network._compiled_call_impl is not None for network in (model.encoder, model.decoder))


def test_settings_of_the_trainer_end_with_the_measurement():
    """Networks past the compiler's limit would silently run as they are."""
    from torch._dynamo import config as dynamo

    before = torch.backends.cudnn.benchmark, dynamo.recompile_limit
    with iterations.as_trained():
        assert torch.backends.cudnn.benchmark
        assert dynamo.recompile_limit > 100
    assert (torch.backends.cudnn.benchmark, dynamo.recompile_limit) == before


def test_a_maker_is_called_once(tmp_path):
    count = 0

    def make() -> iterations.Call:
        nonlocal count
        count += 1
        return functools.partial(torch.zeros, 3)

    iterations.timed(SMALL, {"zeros": make}, torch.device("cpu"), TINY_EFFORT)
    assert count == 1
