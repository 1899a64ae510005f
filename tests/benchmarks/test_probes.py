"""The probes: what they move or multiply, and that no cache holds it."""

from __future__ import annotations

import torch

from benchmarks import timing
from benchmarks.probes import CopyProbe, MatrixProbe, copy_bandwidth, last_level_cache_bytes, probe_bytes
from benchmarks.timing import Effort, Spread


def test_copy_probe_copies_and_goes_round():
    probe = CopyProbe(1 << 10)
    assert probe.moved == 2 << 10
    results = [probe() for _ in range(4)]
    assert len({result.data_ptr() for result in results}) == 2
    for target, source in probe._pairs:
        assert torch.equal(target, source) and target.count_nonzero() > 0


def test_copy_bandwidth_counts_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(timing, "_clock_sample", lambda call, count: 0.5)
    probe = CopyProbe(1 << 10)
    assert copy_bandwidth(probe, Effort()) == Spread(4096.0, 4096.0, 4096.0)


def test_probes_outgrow_the_cache():
    assert last_level_cache_bytes() > 0
    assert probe_bytes() >= 64 << 20


def test_matrix_probe_multiplies_and_counts_its_operations(monkeypatch):
    monkeypatch.setattr(MatrixProbe, "side_on_cpu", 16)
    probe = MatrixProbe()
    assert probe.flops == 2 * 16 * 16 * 16
    torch.testing.assert_close(probe(), probe._a @ probe._b)
