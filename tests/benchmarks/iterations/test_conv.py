"""The convolutional model's iteration: plain networks and ours compute the same, and ours makes fewer passes."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.iterations.conv import CASES, ConvCase
from benchmarks.iterations.images import batches
from benchmarks.timing import CPU
from sivae import ops

SMALL = ConvCase(batch=4, side=16, widths=(8, 16), z_dim=4)


def test_plain_networks_are_ours():
    """In float64 and in training mode, so that batch norm uses the batch."""
    plain, ours = (model.double() for model in SMALL.models(CPU))
    x = torch.rand(SMALL.shape, dtype=torch.float64)
    for mine, theirs in zip(ours.encode(x), plain.encode(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    z = torch.randn(SMALL.batch, SMALL.z_dim, dtype=torch.float64)
    torch.testing.assert_close(ours.decode(z), plain.decode(z), rtol=1e-10, atol=1e-12)


def test_cases_are_models_that_exist():
    for case in (*CASES["cpu"], *CASES["cuda"]):
        with torch.device("meta"):
            plain, ours = case.plain_model(), case.our_model()
        assert {name: value.shape for name, value in plain.state_dict().items()} == {
            name: value.shape for name, value in ours.state_dict().items()
        }


def test_ours_leaves_out_passes():
    """13 E + 11 D forward passes against 13 E + 19 D, and E costs about what D does: 0.75, and room for small sizes."""
    x = batches(SMALL, CPU, torch.contiguous_format)[0]
    plain, ours = SMALL.models(CPU)
    counts = []
    for step in (SMALL.plain_step(plain), SMALL.our_step(ours)):
        with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
            step(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.80 * counts[0]
