"""Checkpoints appear whole or not at all, only some are kept, and damaged ones are not loaded."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae import files
from sivae.errors import CheckpointError
from sivae.models import MLPVAE
from sivae.training.checkpoint import (
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    set_aside_after,
)


def _model(seed: int = 0, hidden: int = 4) -> MLPVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLPVAE(hidden=hidden, layers=1)


def _save(folder: Path, step: int, **more: Any) -> Path:
    state = {"generator": torch.Generator().manual_seed(step).get_state(), "note": "x", "nested": {"lr": 0.5}}
    return save_checkpoint(folder, step, _model(step), state, **more)


def _steps(folder: Path) -> list[int]:
    return [int(path.name) for path in list_checkpoints(folder)]


def _silent(text: str) -> None:
    raise AssertionError(f"unexpected notice: {text}")


def test_a_checkpoint_loads_bit_for_bit(tmp_path: Path) -> None:
    path = _save(tmp_path, 7)
    checkpoint = load_checkpoint(path)
    model = _model(99)
    checkpoint.restore(model)
    for name, value in _model(7).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert checkpoint.step == 7
    assert checkpoint.state["nested"] == {"lr": 0.5}
    assert torch.equal(checkpoint.state["generator"], torch.Generator().manual_seed(7).get_state())
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "model.json",
        "model.safetensors",
        "state.pt",
    ]
    with pytest.raises(CheckpointError, match=r"has no ema\.safetensors"):
        checkpoint.restore_averaged(model)


def test_averaged_weights_load_beside_the_model_s(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(_save(tmp_path, 7, averaged=_model(8)))
    model = _model(99)
    checkpoint.restore_averaged(model)
    for name, value in _model(8).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
        assert torch.equal(checkpoint.model[name], _model(7).state_dict()[name])


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    for step, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 4.0)):
        _save(tmp_path, step, score=score)
    assert _steps(tmp_path) == [2, 4, 5]
    assert best_checkpoint(tmp_path) == tmp_path / "2"
    _save(tmp_path, 6, score=0.5, keep=1)
    assert _steps(tmp_path) == [6]


def test_the_last_two_are_kept_by_number_not_by_spelling(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none", _silent) is None
    for step in (8, 9, 10):
        _save(tmp_path, step)
    assert _steps(tmp_path) == [9, 10]
    latest = load_latest(tmp_path, _silent)
    assert latest is not None
    assert latest.step == 10


def test_an_unfinished_write_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)

    def power_cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", power_cut)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]

    # A killed process cannot remove its files.
    leftover = tmp_path / ".tmp-2-abcd"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert _steps(tmp_path) == [1]
    files.remove_leftovers(tmp_path)
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / name
    content = file.read_bytes()
    if damage == "truncate":
        os.truncate(file, len(content) // 2)
    elif damage == "flip":
        middle = content.index(b'"sha256": "') + 11 if name == "manifest.json" else len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "2")
    notices: list[str] = []
    latest = load_latest(tmp_path, notices.append)
    assert latest is not None
    assert latest.step == 1
    (notice,) = notices
    assert str(tmp_path / "2") in notice


def test_when_all_are_damaged_the_error_names_a_file_and_the_remedy(tmp_path: Path) -> None:
    (_save(tmp_path, 1) / "state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"1/state\.pt.*Restore the folder from a copy, or train again"):
        load_latest(tmp_path, lambda text: None)


class _Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SIVAE_TEST_TRAP"],)


def test_objects_in_the_state_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("SIVAE_TEST_TRAP", str(trap))
    path = _save(tmp_path / "checkpoints", 1)
    torch.save({"step": 1, "payload": _Foreign()}, path / "state.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    content = (path / "state.pt").read_bytes()
    manifest["files"]["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"state\.pt: refused.*use only checkpoints that sivae wrote"):
        load_checkpoint(path)
    assert not trap.exists()


def _rewrite_manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "2"}, 'step = "2": expected a whole number'),
        ({"files": ["state.pt"]}, "files = .*: expected an object"),
        ({"files": {"state.pt": {"bytes": 1}}}, r"files\.state\.pt\.sha256 is missing"),
        ({"files": {}}, r"model\.safetensors: its content differs"),
        ({"score": [1]}, "score = .*: expected a finite number"),
    ],
)
def test_a_manifest_of_other_types_is_damaged(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = _save(tmp_path, 2)
    _rewrite_manifest(path, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    best_checkpoint(tmp_path)


@pytest.mark.parametrize("state", [{"step": torch.zeros(2)}, {"step": "2"}, {}, [2]])
def test_a_state_of_another_step_is_damaged(state: Any, tmp_path: Path) -> None:
    path = _save(tmp_path, 2)
    torch.save(state, path / "state.pt")
    content = (path / "state.pt").read_bytes()
    listed = json.loads((path / "manifest.json").read_text())["files"]
    listed["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _rewrite_manifest(path, files=listed)
    with pytest.raises(CheckpointError, match="name different steps"):
        load_checkpoint(path)


def test_a_folder_renamed_to_another_step_is_damaged(tmp_path: Path) -> None:
    _save(tmp_path, 1).rename(tmp_path / "5")
    with pytest.raises(CheckpointError, match="different steps"):
        load_checkpoint(tmp_path / "5")


def test_weights_of_another_network_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(_save(tmp_path, 1))
    with pytest.raises(CheckpointError, match=r"model\.safetensors belongs to another network .*size mismatch"):
        checkpoint.restore(_model(hidden=5))


def test_damaged_later_checkpoints_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2):
        _save(tmp_path, step)
    (tmp_path / "2" / "state.pt").unlink()
    set_aside_after(tmp_path, 1)
    assert _steps(tmp_path) == [1]
    assert (tmp_path / "damaged-2").is_dir()
    _save(tmp_path, 2)
    assert _steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("write", [files.write_text, files.write_bytes])
def test_a_full_disk_is_an_error_that_names_the_file(write: Any, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with pytest.raises(OSError, match="No space left") as caught, files.named(full), open("/dev/full", "w") as device:
        device.write("x" * 100_000)
    assert caught.value.filename == str(full)
    with pytest.raises(OSError) as inside, files.atomic_folder(tmp_path / "20") as temporary:
        (temporary / "none" / "state.pt").touch()
    assert inside.value.filename == str(tmp_path / "20" / "none" / "state.pt")
    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "none" / "file", "x" if write is files.write_text else b"x")
    assert missing.value.filename == str(tmp_path / "none" / "file")


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError, match="stop"), files.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
