"""The exercise for compute-sanitizer runs every op."""

from __future__ import annotations

import torch

from benchmarks.gpu import exercise
from sivae import ops
from sivae.ops import library


def test_every_op_runs_forward_and_backward(monkeypatch):
    backend = next(name for name in ops.available_backends() if name != "triton")  # slow in its interpreter
    called: set[str] = set()
    assert set(library.OP_NAMES) <= set(ops.__all__)
    for name in library.OP_NAMES:
        real = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, name=name, real=real, **k: (called.add(name), real(*a, **k))[1])
    assert exercise.exercise(backend, torch.device("cpu")) > 100
    assert called == set(library.OP_NAMES)
