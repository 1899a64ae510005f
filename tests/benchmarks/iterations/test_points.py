"""The iteration on points: the contenders do the same work, with the passes that the least possible time counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.environment import compared_backends
from benchmarks.iterations import points
from benchmarks.timing import CPU
from sivae import ops
from tests.benchmarks import small


def test_contenders_start_alike_and_move_alike():
    """Same weights, same data, same optimizer's rule; only the noise differs, so the losses agree roughly."""
    case = points.PointsCase(batch=2048, hidden=16, layers=2)
    plain, shared = points.plain_step(case), points.our_step(case)
    before = [parameter.detach().clone() for parameter in plain.model.parameters()]
    for one, other in zip(before, shared.model.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(0)
    batch = points.batches(case)[0]
    theirs, ours = plain(batch), shared(batch)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value, rel=0.1), name
    moved = [(a - b).abs().max().item() for a, b in zip(before, plain.model.parameters(), strict=True)]
    assert max(moved) == pytest.approx(points.RATE, rel=0.05)  # Adam's first step


def test_the_matrix_products_are_13_encoder_and_11_decoder_passes():
    case = points.PointsCase(batch=6, hidden=8, layers=3)
    model = points.build_model(case)
    passes = {}
    for name, width, network in (("encoder", 2, model.encoder), ("decoder", 2, model.decoder)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(case.batch, width))
        passes[name] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        points.MatrixProducts(case, model)()
    assert counter.get_total_flops() == 13 * passes["encoder"] + 11 * passes["decoder"]


def test_steps_make_as_many_passes_as_the_matrix_products_assume():
    """Floating-point operations of the linear layers: 13 E + 19 D plain, 13 E + 11 D shared.

    Both steps leave out some input gradients of first layers; those layers are small against the hidden ones.
    """
    case = points.PointsCase(batch=4, hidden=64, layers=4)
    model = points.build_model(case)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.decoder(torch.randn(case.batch, 2))
    one = counter.get_total_flops()
    batch = points.batches(case)[0]
    for step, expected in ((points.plain_step(case), 13 + 19), (points.our_step(case), 13 + 11)):
        with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
            step(batch)
        assert counter.get_total_flops() / one == pytest.approx(expected, rel=0.03)


def test_the_plain_model_is_of_torch_s_modules_and_the_paper_s_shape():
    model = points.plain_step(points.CASE).model
    modules = {type(module) for network in (model.encoder, model.decoder) for module in network.modules()}
    assert modules == {nn.Sequential, nn.Linear, nn.ReLU}
    sizes = [tuple(layer.weight.shape) for layer in model.encoder if isinstance(layer, nn.Linear)]
    assert sizes == [(256, 2), (256, 256), (256, 256), (256, 256), (4, 256)]


def test_every_variant_is_timed_with_its_memory():
    result = points.run(small.EFFORT, case=points.PointsCase(batch=8, hidden=8, layers=2))
    backends = compared_backends(CPU)
    steps = dict.fromkeys([*backends, "reference"])
    assert result.variants == ("eager", points.EAGER_FUSED_ADAM, *steps, points.PRODUCTS)
    assert all(len(result.measurement.seconds[name]) == 3 for name in result.variants)
    assert all(result.peak_extra_bytes[name] > 0 for name in result.variants)
