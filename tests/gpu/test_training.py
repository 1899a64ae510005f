"""Training on a GPU: graphs, precisions, compiled networks and what is left out, against the plain way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sivae.settings.presets import preset_config
from sivae.training.checkpoint import list_checkpoints
from sivae.training.recorder import read_records
from sivae.training.run import train
from sivae.training.tasks.images import ImageTask
from tests.gpu.conftest import DEVICE

pytestmark = pytest.mark.gpu

_TINY = {"steps": 12, "batch_size": 16, "widths": (8, 16), "z_dim": 4, "seed": 3, "device": DEVICE}
_OFTEN = {"log_every": 2, "checkpoint_every": 6, "sample_every": 12}
RATE = 2e-4


def _trained(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    train(preset_config("digits", **{**_TINY, **_OFTEN, **changes}), folder, progress=False)
    return load_file(list_checkpoints(folder / "checkpoints")[-1] / "model.safetensors")


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    "changes", [{"cuda_graph": "on"}, {"memory_format": "contiguous"}], ids=["graph", "contiguous"]
)
def test_it_ends_where_launching_one_by_one_ends(tmp_path: Path, norm: str, changes: dict[str, Any]) -> None:
    """Up to rounding: twelve steps of Adam move a weight by up to 12 rates, and rounding by a small part of one."""
    plain = _trained(tmp_path / "plain", cuda_graph="off", norm=norm)
    other = _trained(tmp_path / "other", norm=norm, **{"cuda_graph": "off", **changes})
    for name, value in plain.items():
        if value.is_floating_point():
            assert (other[name] - value).abs().max() < RATE * max(1.0, value.abs().max().item()), name
        else:
            assert torch.equal(other[name], value), name  # batch norm's counts: nothing ran twice
    losses = [[record["rec"] for record in read_records(tmp_path / run)] for run in ("plain", "other")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_graph_draws_fresh_noise_and_follows_the_rate(tmp_path: Path) -> None:
    _trained(tmp_path / "run", cuda_graph="on", milestones=(0.5,), batch_size=64)
    records = read_records(tmp_path / "run")
    assert len({record["kl_fake"] for record in records}) == len(records)
    assert [record["learning_rate"] for record in records][-1] == pytest.approx(0.1 * RATE)


@pytest.mark.parametrize("cuda_graph", ["off", "on"])
def test_an_accident_is_left_out_on_the_device(
    tmp_path: Path, cuda_graph: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = ImageTask.batch

    def batch(self: ImageTask, step: int) -> Any:
        images, condition = original(self, step)
        return (images * float("nan") if step == 9 else images), condition

    monkeypatch.setattr(ImageTask, "batch", batch)
    weights = _trained(tmp_path / "run", cuda_graph=cuda_graph, norm="batch")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert "left out, from step 9 on" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precisions_train(tmp_path: Path, precision: str) -> None:
    _trained(tmp_path / "run", precision=precision, steps=60)
    records = read_records(tmp_path / "run")
    assert records[-1]["rec"] < records[0]["rec"]


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    """With a graph, whose capture comes anew; CUDA's convolutions are free to round differently."""
    whole = _trained(tmp_path / "whole", cuda_graph="on")
    _trained(tmp_path / "run", cuda_graph="on", steps=12)
    for path in list_checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (tmp_path / "run" / "summary.json").unlink()
    train(out=tmp_path / "run", resume=True, progress=False)
    again = load_file(list_checkpoints(tmp_path / "run" / "checkpoints")[-1] / "model.safetensors")
    for name, value in whole.items():
        assert (again[name].double() - value.double()).abs().max() < RATE * max(1.0, value.abs().max().item()), name
