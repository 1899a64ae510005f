"""The style model's iteration: contenders that do the same work, by the same networks and the same steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import style_step_suite as suite
from benchmarks.image_iterations import CHANNELS_LAST, OURS, batches
from benchmarks.measure import Effort
from benchmarks.ops_suite import EAGER
from sivae import ops
from sivae.models.style.decoder import Noise

CPU = torch.device("cpu")
SMALL = suite.StyleCase(batch=4, side=16, start_channels=4, max_channels=8, z_dim=6, mapping_layers=2)
TINY_EFFORT = Effort(rounds=3, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0)


def _maps(noise: ops.PhiloxNoise, case: suite.StyleCase) -> list[Tensor]:
    """What our decoder draws from a seed."""
    like = torch.zeros(1, dtype=torch.float64)
    sides = [4 << index for index in range(int(math.log2(case.side)) - 1)]
    return [Noise(noise).map(2 * i + k, case.batch, side, like) for i, side in enumerate(sides) for k in range(2)]


@pytest.mark.parametrize("side", [16, 128], ids=["resampled", "resampled within convolutions"])
def test_plain_networks_are_ours(side):
    """In float64, where only the order of sums differs."""
    case = suite.StyleCase(2, side, 2, 4, 6, 2)
    plain, ours = (model.double() for model in suite.networks(case, CPU))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(case.shape, dtype=torch.float64, generator=generator) * 2 - 1
    for mine, theirs in zip(ours.encode(x), plain.encode(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    z = torch.randn(case.batch, case.z_dim, dtype=torch.float64, generator=generator)
    noise = ops.PhiloxNoise(5)
    torch.testing.assert_close(ours.decode(z, noise=noise), plain.decode(z, _maps(noise, case)), rtol=1e-9, atol=1e-11)


def test_both_optimizers_give_every_parameter_the_same_rate():
    plain, ours = suite.networks(SMALL, CPU)
    assert plain.rate_scales() == pytest.approx(ours.rate_scales())
    plain_step, our_step = suite.plain_step(plain), suite.our_step(ours)
    for name in ("encoder", "decoder"):
        rates = []
        for step, model in ((plain_step, plain), (our_step, ours)):
            groups = getattr(step, f"{name}_optimizer").param_groups
            of_parameter = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
            rates.append({key: of_parameter[id(value)] for key, value in getattr(model, name).named_parameters()})
        assert rates[0] == pytest.approx(rates[1])


def test_cases_are_models_that_exist():
    for case in (*suite.CPU_CASES, *suite.CUDA_CASES):
        with torch.device("meta"):
            plain, ours = suite.PlainStyleVAE(**case.sizes), suite.StyleVAE(**case.sizes)
        assert {name: value.shape for name, value in plain.state_dict().items()} == {
            name: value.shape for name, value in ours.state_dict().items()
        }


def test_ours_leaves_out_the_passes_that_serve_nothing():
    """Plain: 14 E + 19 D forward passes and backward ones alike; ours with shared passes 13 E + 11 D."""
    x = batches(SMALL, CPU, torch.contiguous_format)[0]
    counts = []
    for step in (suite.plain_step(suite.networks(SMALL, CPU)[0]), suite.our_step(suite.networks(SMALL, CPU)[1])):
        with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
            step(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.80 * counts[0]


def test_every_variant_is_timed():
    result = suite.run(SMALL, effort=TINY_EFFORT)
    assert result.variants == (EAGER, CHANNELS_LAST, OURS, f"{OURS}, {suite.FRESH}")
    for name in result.variants:
        assert len(result.measurement.seconds[name]) == 3
