"""The iteration on images: contenders that do the same work, by the same networks."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import image_step_suite as suite
from benchmarks.image_iterations import CHANNELS_LAST, OURS, batches
from benchmarks.ops_suite import EAGER
from sivae import ops
from tests.benchmarks.test_suites import TINY_EFFORT

CPU = torch.device("cpu")
SMALL = suite.ImageCase(batch=4, side=16, widths=(8, 16), z_dim=4)


def test_plain_networks_are_ours():
    """Float64, in training mode, so that batch norm takes part."""
    plain, ours = (model.double() for model in suite.networks(SMALL, CPU))
    x = torch.rand(SMALL.shape, dtype=torch.float64)
    for mine, theirs in zip(ours.encode(x), plain.encode(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    z = torch.randn(SMALL.batch, SMALL.z_dim, dtype=torch.float64)
    torch.testing.assert_close(ours.decode(z), plain.decode(z), rtol=1e-10, atol=1e-12)


def test_cases_are_models_that_exist():
    for case in (*suite.CPU_CASES, *suite.CUDA_CASES):
        with torch.device("meta"):
            plain = suite.PlainConvVAE(case.side, 3, case.widths, case.z_dim)
            ours = suite.ConvVAE(case.side, 3, case.widths, case.z_dim)
        assert {name: value.shape for name, value in plain.state_dict().items()} == {
            name: value.shape for name, value in ours.state_dict().items()
        }


def test_ours_leaves_out_the_passes_that_serve_nothing():
    """13 E + 11 D forward passes against 13 E + 19 D, and E costs about what D does: 0.75, and room for small sizes."""
    plain, _ = suite.networks(SMALL, CPU)
    x = batches(SMALL, CPU, torch.contiguous_format)[0]
    counts = []
    with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
        suite.plain_step(SMALL, plain)(x)
    counts.append(counter.get_total_flops())
    _, ours = suite.networks(SMALL, CPU)
    with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
        suite.our_step(SMALL, ours)(x)
    counts.append(counter.get_total_flops())
    assert counts[1] < 0.80 * counts[0]


def test_every_variant_is_timed():
    result = suite.run(SMALL, effort=TINY_EFFORT)
    assert result.variants == (EAGER, CHANNELS_LAST, OURS)
    for name in result.variants:
        assert len(result.measurement.seconds[name]) == 3
        assert result.peak_extra_bytes[name] > 0
