"""Run the Triton kernels on the CPU, in Triton's interpreter."""

from __future__ import annotations

import pytest

from sivae import ops


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the tallest tiles: the interpreter runs one program after the other, a tenth of a second each."""
    reason = ops.backend_status()["triton"]["cpu"]
    if reason is not None:
        pytest.skip(f"no Triton interpreter: {reason}")
    from sivae.ops.triton import blocks

    monkeypatch.setattr(blocks, "FEW_PROGRAMS", 1)


@pytest.fixture
def small_blocks(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small blocks, so that a small tensor takes several programs, steps and splits."""
    from sivae.ops.triton import blocks

    single = blocks.Blocks(elements=16, warps=1, steps=1)
    for name in ("LATENT_BACKWARD", "RECONSTRUCTION_BACKWARD", "EXP_ELBO", "NORMALS"):
        monkeypatch.setattr(blocks, name, single)
    for name in ("LATENT_FORWARD", "RECONSTRUCTION_FORWARD"):
        monkeypatch.setattr(blocks, name, single._replace(steps=2))
    for name in ("STYLED_FORWARD", "STYLED_BACKWARD"):
        monkeypatch.setattr(blocks, name, single._replace(steps=2))
        monkeypatch.setattr(blocks, f"{name}_WHOLE", 16)
    monkeypatch.setattr(blocks, "CHAMFER", single)
    monkeypatch.setattr(blocks, "CHAMFER_POINTS", 4)
    monkeypatch.setattr(blocks, "MIXTURE", single)
    for name, value in (("COLUMNS", 4), ("DIMS", 4), ("PARTS", 3), ("LEAST_ROWS", 2)):
        monkeypatch.setattr(blocks, f"MIXTURE_{name}", value)
    monkeypatch.setattr(blocks, "GROUP_NORM", single._replace(steps=2))
    monkeypatch.setattr(blocks, "GROUP_NORM_CHANNELS", 4)
    monkeypatch.setattr(blocks, "SUMS", single._replace(elements=4))
    monkeypatch.setattr(blocks, "ENOUGH_PROGRAMS", 2)
