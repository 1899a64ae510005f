"""`sivae import-checkpoint`, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sivae
from sivae.models import ConvVAE
from tests.cli.running import run

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "official_conv_rgb32.pth"


def test_a_checkpoint_becomes_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "models" / "cifar10"
    code, printed, err = run(capsys, "import-checkpoint", FIXTURE, "--out", out)
    assert (code, err) == (0, f"sivae: next: sivae sample {out}\n")
    found = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert found == {
        "format": "official conv",
        "epoch": "7",
        "model": "conv",
        "image_size": "32",
        "channels": "3",
        "widths": "8, 16, 32",
        "z_dim": "16",
        "norm": "batch",
        "condition_dim": "0",
        "parameters": "92,131",
        "folder": str(out),
    }
    described = json.loads((out / "model.json").read_text())
    assert described["source"] == {"format": "official conv", "file": "official_conv_rgb32.pth", "epoch": 7}
    model = sivae.from_pretrained(out)
    assert isinstance(model, ConvVAE)
    assert model.sample(2).shape == (2, 3, 32, 32)


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").touch()
    other = tmp_path / "other.pth"
    other.write_bytes(b"nothing")
    for words, expected, message in (
        ((), 2, "name the checkpoint's file: sivae import-checkpoint FILE.pth --out DIR"),
        ((FIXTURE,), 2, "name the new folder by --out DIR"),
        ((FIXTURE, "--out", taken), 2, "taken is not empty; choose another --out"),
        ((FIXTURE, "--out", other), 2, "other.pth is not empty; choose another --out"),
        ((tmp_path / "none.pth", "--out", tmp_path / "new"), 2, "none.pth: No such file or directory"),
        ((other, "--out", tmp_path / "new"), 1, "other.pth: not a checkpoint of torch.save, or damaged"),
    ):
        code, out, err = run(capsys, "import-checkpoint", *words)
        assert (code, out) == (expected, "")
        assert err.startswith("sivae: ")
        assert err.count("\n") == 1
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth", "taken"]
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


def test_an_empty_folder_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = run(capsys, "import-checkpoint", FIXTURE, "--out", tmp_path)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
