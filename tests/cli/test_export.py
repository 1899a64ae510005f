"""export, end to end: the files that it writes, what it prints, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import get_args

import pytest
import torch

import sivae
from sivae.cli.main import parser_of
from sivae.models import MLPVAE, AutoencoderVAE
from sivae.models.exported_files import Form, NoiseChoice
from sivae.models.storage import save_model
from tests.cli.running import run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "model", MLPVAE(hidden=4, layers=1))
    return tmp_path / "model"


def test_programs_are_written_beside_the_model_and_compared(model, capsys):
    code, printed, err = run(capsys, "export", model, "--to", "torch.export")
    assert code == 0, err
    first, second, place = printed.splitlines()
    assert first.startswith("encoder.pt2 differs from the model by") and first.endswith("(batches of 1, 2, 64, 300)")
    assert second.startswith("decoder.pt2") and place == str(model.with_name("model-export-torch-export"))
    assert {file.name for file in Path(place).iterdir()} == {"encoder.pt2", "decoder.pt2", "export.json"}
    assert run(capsys, "export", model, "--to", "torch.export")[0] == 0  # replaces it


def test_weights_are_a_model_that_opens(model, tmp_path, capsys):
    code, _, err = run(capsys, "export", model, "--to", "safetensors", "--out", tmp_path / "out")
    assert code == 0 and "next: sivae.from_pretrained(" in err
    z = torch.randn(3, 2)
    with torch.no_grad():
        assert torch.equal(sivae.from_pretrained(tmp_path / "out").decode(z), sivae.from_pretrained(model).decode(z))


def test_the_choices_are_those_of_the_function():
    actions = {action.dest: action for action in parser_of("export").actions()}
    assert set(actions["noise"].choices) == set(get_args(NoiseChoice))
    assert set(actions["to"].choices) == {*get_args(Form), "safetensors", "diffusers"}


def test_what_cannot_be_exported_is_said(model, tmp_path, capsys, monkeypatch):
    code, _, err = run(capsys, "export", model, "--to", "safetensors", "--noise", "drawn")
    assert code == 2 and "--noise goes with programs" in err
    code, _, err = run(capsys, "export", model, "--to", "torch.export", "--noise", "drawn")
    assert code == 2 and "has no noise" in err
    code, _, err = run(capsys, "export", tmp_path / "nothing", "--to", "torch.export")
    assert code == 2 and "there is no such folder" in err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "export", model)
    assert code == 2 and "pip install 'soft-intro-vae[onnx]'" in err


def test_an_autoencoder_becomes_a_folder_of_diffusers(model, tmp_path, capsys):
    save_model(tmp_path / "vae", AutoencoderVAE(8, 1, (4, 8), 2, layers=1, groups=2, prior_std=0.5))
    for words, factor in (((), 2.0), (("--scaling-factor", 0.3), 0.3)):
        code, printed, err = run(capsys, "export", tmp_path / "vae", "--to", "diffusers", *words)
        assert code == 0, err
        assert printed.strip() == str(tmp_path / "vae-export-diffusers")
        assert json.loads((tmp_path / "vae-export-diffusers" / "config.json").read_text())["scaling_factor"] == factor
    for words, message in (
        (
            (tmp_path / "vae", "--to", "diffusers", "--scaling-factor", 0),
            "scaling_factor = 0.0: it must be more than 0",
        ),
        ((tmp_path / "vae", "--scaling-factor", 1), "--scaling-factor goes with --to diffusers"),
        ((model, "--to", "diffusers"), "the model 'mlp' is no autoencoder of it; choose another form"),
    ):
        code, _, err = run(capsys, "export", *words)
        assert code == 2 and message in err
