"""`sivae.from_pretrained` takes a model's folder, a checkpoint's or a run's, and says what is wrong with any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sivae
from sivae.errors import ModelFileError
from sivae.models import VAEModel
from sivae.models.storage import save_model, write_model
from tests.models.samples import small_conv


def _is(model: VAEModel, seed: int) -> bool:
    expected = small_conv(seed).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def _run(folder: Path, steps: list[int], *, averaged: int | None = None) -> Path:
    for step in steps:
        checkpoint = folder / "checkpoints" / str(step)
        checkpoint.mkdir(parents=True)
        write_model(checkpoint, small_conv(step), averaged=None if averaged is None else small_conv(averaged))
        (checkpoint / "state.pt").touch()
    return folder


def test_of_a_model_s_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_conv(3))
    model = sivae.from_pretrained(str(tmp_path / "model"))
    assert _is(model, 3)
    assert not model.training
    mu, logvar = model.encode(model.sample(2))
    assert mu.shape == logvar.shape == (2, 5)


def test_of_a_run_it_is_the_last_checkpoint_by_number(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [9, 10])
    (run / "checkpoints" / "damaged-11").mkdir()
    (run / "checkpoints" / ".tmp-12-ab").mkdir()
    assert _is(sivae.from_pretrained(run), 10)
    assert _is(sivae.from_pretrained(run / "checkpoints" / "9"), 9)


def test_beside_a_damaged_checkpoint_an_earlier_one_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [9, 10])
    (run / "checkpoints" / "10" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelFileError, match=r"or name an earlier checkpoint, such as .*checkpoints/9"):
        sivae.from_pretrained(run)


def test_averaged_weights_are_taken_unless_declined(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [9], averaged=1)
    assert _is(sivae.from_pretrained(run), 1)
    assert _is(sivae.from_pretrained(run, averaged=False), 9)


def test_other_paths_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.pth").touch()
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    old = _run(tmp_path / "old", [7])
    (old / "checkpoints" / "7" / "model.json").unlink()
    for path, message in (
        ("none", "none: there is no such folder; name a model's, a checkpoint's or a run's"),
        ("empty", r"empty holds neither model\.json nor checkpoints/"),
        ("x.pth", r"x\.pth is a file, expected a folder; .* sivae import-checkpoint .*x\.pth --out DIR"),
        ("begun", "begun has no checkpoint yet; train on with sivae train --resume .*begun"),
        ("old", r"old/checkpoints/7 has weights, but no model\.json .* an older sivae wrote it"),
        ("old/checkpoints/7", r"old/checkpoints/7 has weights, but no model\.json"),
    ):
        with pytest.raises(ValueError, match=message):
            sivae.from_pretrained(tmp_path / path)


def test_importing_the_package_imports_no_torch() -> None:
    script = (
        "import sys, sivae\nassert 'torch' not in sys.modules\nsivae.from_pretrained\nassert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="module 'sivae' has no attribute 'from_pretraind'"):
        sivae.from_pretraind  # noqa: B018


def test_the_name_of_a_model_of_a_hub_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=r"no such folder; .* to fetch a hub's model: hf download org/vae --local"):
        sivae.from_pretrained("org/vae")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelFileError, match=r"no such folder; name a model's, a checkpoint's or a run's$"):
        sivae.from_pretrained("runs/vae")
