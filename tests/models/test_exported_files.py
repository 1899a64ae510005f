"""Folders of programs: what they hold, that they are compared with the model, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sivae.errors import ConfigError, ModelFileError
from sivae.models import MLPVAE, ConvVAE, exported_files
from sivae.models.exported_files import NoiseChoice, check_packages, export_model
from tests.models.every_model import small_models

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


def _about(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return content


def test_programs_of_torch_load_without_the_package_and_are_described(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ConvVAE(8, 1, (4,), 3, condition_dim=2).train()
    done = export_model(tmp_path / "out", model, "torch.export", about={"source": "a run"})
    assert model.training
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["decoder.pt2", "encoder.pt2", "export.json"]
    about = _about(tmp_path / "out")
    assert about["source"] == "a run" and about["value_range"] == [0.0, 1.0] and about["prior"] == "N(0, 1)"
    assert about["encoder"]["inputs"] == {"x": ["batch", 1, 8, 8], "condition": ["batch", 2]}
    assert about["encoder"]["outputs"] == ["mu", "logvar"] and about["encoder"]["compared_at"] == [1, 2, 64, 300]
    assert [one.deviation for one in done] == [about[part]["largest_deviation"] for part in ("encoder", "decoder")]
    decode = torch.export.load(tmp_path / "out" / "decoder.pt2").module()
    z, condition = torch.randn(5, 3), torch.eye(2)[[0, 1, 0, 1, 1]]
    with torch.no_grad():
        # The same sums in another order: some hundred roundings of float32.
        assert (decode(z, condition) - model.eval().decode(z, condition)).abs().max() < 1e-5


def test_a_learned_prior_is_written_beside_the_programs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MLPVAE(hidden=4, layers=1, prior="mixture", prior_components=5)
    export_model(tmp_path / "out", model, "torch.export")
    assert _about(tmp_path / "out")["prior"] == "prior.npz"
    components = model.prior_components()
    assert components is not None
    with np.load(tmp_path / "out" / "prior.npz") as arrays:
        for name, value in components._asdict().items():
            assert np.array_equal(arrays[name], value.detach().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["fixed", "drawn", "inputs"])
def test_noise_is_fixed_drawn_or_an_input(noise: NoiseChoice, tmp_path: Path) -> None:
    done = export_model(tmp_path / "out", small_models()["style"], "torch.export", noise=noise)
    inputs = _about(tmp_path / "out")["decoder"]["inputs"]
    maps = {f"noise{number}": ["batch", 1, side, side] for number, side in enumerate((4, 4, 8, 8))}
    assert inputs == {"z": ["batch", 5]} | (maps if noise == "inputs" else {})
    assert (done[1].deviation is None) == (noise == "drawn")


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["mlp", "conv", "translation", "style", "pointnet", "autoencoder"])
def test_every_model_becomes_onnx(name: str, tmp_path: Path) -> None:
    done = export_model(tmp_path / "out", small_models()[name], "onnx")
    assert [one.file for one in done] == ["encoder.onnx", "decoder.onnx"]
    # The runtime computes the same sums in another order: some hundred roundings of float32.
    assert all(one.rows == (1, 2, 64, 300) and one.deviation is not None and one.deviation < 1e-5 for one in done)


def test_a_program_that_is_not_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(program: object, path: Path, *_: object) -> exported_files.Run:
        path.touch()
        return lambda given: tuple(torch.zeros(len(next(iter(given.values()))), 2) for _ in range(2))

    monkeypatch.setattr(exported_files, "_write", other)
    with pytest.raises(ModelFileError, match=r"encoder\.pt2 differs from the model by 1 of its largest value"):
        export_model(tmp_path / "out", MLPVAE(hidden=4, layers=1), "torch.export")
    assert list(tmp_path.iterdir()) == []


def test_other_files_noise_without_maps_and_missing_packages_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MLPVAE(hidden=4, layers=1)
    with pytest.raises(ConfigError, match=r"noise 'inputs': the model 'mlp' has no noise"):
        export_model(tmp_path / "out", model, "torch.export", noise="inputs")
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ConfigError, match="holds other files than an export"):
        export_model(tmp_path, model, "torch.export")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"ONNX needs onnx, onnxscript, onnxruntime, which pip install 'soft-intro-vae\[onnx\]'"
    ):
        check_packages()


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL) if "onnxruntime" not in block
    )
    names: dict[str, Any] = {}
    exec(compile(example, "export.md", "exec"), names)
    assert names["images"].shape == (300, 3, 16, 16)
