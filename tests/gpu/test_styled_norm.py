"""The styled instance norm on the GPU: the tests of its kernels, and planes as large as people train with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sivae import ops
from tests.ops.styled_norm_parity import assert_styled_norm, backward, forward, make_case
from tests.ops.test_styled_norm_kernels import (  # noqa: F401  (collected here, with the GPU's fixtures)
    results,
    test_constant_planes,
    test_dimensions_of_one,
    test_dtypes,
    test_empty,
    test_far_from_zero,
    test_layouts,
    test_only_gradients_that_are_needed,
    test_repeats_have_the_same_bits,
    test_shapes,
    test_special_values_stay_in_their_plane,
    test_what_may_be_left_out,
)

pytestmark = pytest.mark.gpu
MEMORY = ["contiguous", "channels last"]


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(32, 512, 4, 4), (16, 512, 32, 32), (16, 128, 128, 128), (4, 64, 256, 256), (2, 16, 1024, 1024)],
    ids=str,
)
def test_planes_that_people_train_with(compiled_backend, layout, dtype, shape):
    """Sums of up to 2^20 pixels, 16 samples and their parts: no element takes part in more roundings than DEPTH."""
    assert_styled_norm(compiled_backend, make_case(shape, dtype, parameters=torch.float32, layout=layout))


@pytest.mark.parametrize("layout", MEMORY)
@pytest.mark.parametrize("shape", [(3, 32, 64, 64), (2, 16, 256, 256)], ids=str)
def test_a_graph_replays_what_was_captured(compiled_backend, layout, shape):
    case = make_case(shape, torch.bfloat16, parameters=torch.float32, layout=layout)
    for _ in range(3):  # Triton compiles, and the allocator grows, before the capture
        expected = results(compiled_backend, case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(compiled_backend, case)
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    for found, value in zip(captured, expected, strict=True):
        assert torch.equal(found, value)


def test_more_than_2_to_the_31_elements(compiled_backend):
    """The last planes are those of the same samples alone."""
    count = 2**31 + 2**26
    if torch.cuda.mem_get_info()[0] < 5 * 2 * count:
        pytest.skip(f"{torch.cuda.mem_get_info()[0] >> 30} GiB of GPU memory are free, {10 * count >> 30} are needed")
    size = 1024
    x = torch.empty(count // (16 * size**2), 16, size, size, dtype=torch.bfloat16).normal_()
    bias = torch.randn(16)
    y, mean, std = ops.styled_instance_norm(x, bias=bias, statistics=True, backend=compiled_backend)
    # The cut follows the shape, so the roundings of sums differ: bounded by those of the whole family.
    alone = ops.styled_instance_norm(x[-1:].float(), bias=bias, statistics=True, backend="reference")
    for found, expected, bound in zip((y[-1:], mean[-1:], std[-1:]), alone, (2.0**-6, 1e-4, 1e-4), strict=True):
        # |y| < 8, of which bfloat16 keeps 8 bits: 2^-6.
        assert ((found.float() - expected).abs() <= bound).all()


@pytest.mark.parametrize("layout", MEMORY)
def test_nothing_waits_for_the_host(compiled_backend, layout):
    case = make_case((2, 16, 128, 128), torch.float32, layout=layout)
    results(compiled_backend, case)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found: list[Tensor] = results(compiled_backend, case)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(tensor.isfinite().all() for tensor in found)


def test_an_op_of_the_autograd_graph(compiled_backend):
    """Under autocast, where the images are bfloat16 and the parameters are not."""
    case = make_case((2, 8, 32, 32), torch.bfloat16, parameters=torch.float32)
    leaves = [t.detach().requires_grad_() for t in (case.x, case.noise_weight, case.bias, case.scale, case.shift)]
    x, weight, bias, scale, shift = leaves
    outputs = ops.styled_instance_norm(
        x, noise=case.noise, noise_weight=weight, bias=bias, scale=scale, shift=shift, statistics=True,
        backend=compiled_backend,
    )  # fmt: skip
    gradients = torch.autograd.grad(outputs, leaves, case.grads())
    _, mean, std = forward(compiled_backend, case)
    for found, expected in zip(gradients, backward(compiled_backend, case, mean, std).values(), strict=True):
        assert torch.equal(found, expected)
