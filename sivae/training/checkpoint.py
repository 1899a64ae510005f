"""Save and load checkpoints. Each is a folder `checkpoints/STEP/` that appears whole or not at all.

    model.json          the architecture, see sivae.models.storage
    model.safetensors   the model's parameters and buffers
    ema.safetensors     those of the averaged copy, if the run keeps one
    state.pt            the other state that resuming needs: tensors and plain containers, never objects
    manifest.json       size and SHA-256 of the other files, and the score

A checkpoint whose files do not match their manifest is damaged and is never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sivae import files
from sivae.errors import CheckpointError, ModelFileError, reason_of
from sivae.fields import SEED
from sivae.json_files import read_json
from sivae.models import VAEModel
from sivae.models.reading import read_plain
from sivae.models.storage import AVERAGED, DESCRIPTION, MODEL, read_description, write_model

STATE, MANIFEST = "state.pt", "manifest.json"
_DAMAGED = "the checkpoint is damaged; delete or restore its folder"


class _File(TypedDict):
    bytes: int
    sha256: str


class _Manifest(TypedDict):
    step: Annotated[int, SEED]
    score: float | None
    files: dict[str, _File]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, its tensors on the CPU.

    Attributes:
        path: its folder.
        step: number of completed iterations.
        hyperparameters: of the model.
        model: state dict of the model.
        averaged: state dict of the averaged copy, if there is one.
        state: the state given to :func:`save_checkpoint`.
    """

    path: Path
    step: int
    hyperparameters: dict[str, Any]
    model: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    state: dict[str, Any]

    def restore(self, model: nn.Module) -> None:
        """Load the weights into a model of the same architecture.

        Raises:
            CheckpointError: names or shapes differ.
        """
        self._restore(model, self.model, MODEL)

    def restore_averaged(self, model: nn.Module) -> None:
        """Load the averaged weights.

        Raises:
            CheckpointError: the checkpoint has none, or names or shapes differ.
        """
        if self.averaged is None:
            raise CheckpointError(f"{self.path} has no {AVERAGED}; use it with the config.json that the run wrote")
        self._restore(model, self.averaged, AVERAGED)

    @contextlib.contextmanager
    def fitting(self, remedy: str) -> Iterator[None]:
        """Have a block that restores the state raise a :class:`CheckpointError` where the state does not fit."""
        try:
            yield
        except (CheckpointError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch's loaders raise anything for a state of other types
            raise CheckpointError(
                f"{self.path / STATE} does not fit this run or this version of sivae ({reason_of(error)}); {remedy}"
            ) from None

    def _restore(self, model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.path / name} belongs to another network ({reason}); "
                "use it with the config.json that the run wrote"
            ) from None


def save_checkpoint(
    folder: Path,
    step: int,
    model: VAEModel,
    state: Mapping[str, Any],
    *,
    averaged: VAEModel | None = None,
    score: float | None = None,
    keep: int = 2,
    compares_after: int = 0,
) -> Path:
    """Write `folder/STEP/`, then delete older checkpoints except the last `keep` and the best one.

    Args:
        folder: the run's `checkpoints/`; made if it is missing.
        step: number of completed iterations.
        model: saved with its buffers.
        state: tensors, numbers, text and containers of them.
        averaged: the averaged copy.
        score: quality of the checkpoint, lower is better; None if it is unknown.
        keep: number of the last checkpoints that are kept.
        compares_after: scores up to this step do not compare with later ones.

    Returns:
        The checkpoint's path. It is on the disk when the call returns, and older checkpoints are deleted only after it.
    """
    folder.mkdir(exist_ok=True)
    path = folder / str(step)
    with files.atomic_folder(path) as temporary:
        write_model(temporary, model, averaged=averaged)
        files.write_tensors(temporary / STATE, {"step": step, **state})
        manifest = {file.name: _fingerprint(file) for file in sorted(temporary.iterdir())}
        files.write_json(temporary / MANIFEST, {"step": step, "score": score, "files": manifest})
    best = best_checkpoint(folder, after=compares_after)
    for old in list_checkpoints(folder)[:-keep]:
        if old != best:
            files.remove_folder(old)
    return path


def best_checkpoint(folder: Path, *, after: int = 0) -> Path | None:
    """Find the checkpoint after step `after` with the lowest score in a run's `checkpoints/`; None if none has one."""
    later = [path for path in list_checkpoints(folder) if int(path.name) > after]
    scores = {path: score for path in later if (score := _score(path)) is not None}
    return min(scores, key=lambda path: scores[path], default=None)


def _score(path: Path) -> float | None:
    try:
        return _manifest(path)["score"]
    except CheckpointError:
        return None  # a damaged one is not the best


def _manifest(path: Path) -> _Manifest:
    try:
        return read_json(path / MANIFEST, _Manifest, error=CheckpointError, remedy=_DAMAGED)
    except FileNotFoundError:
        raise CheckpointError(f"{path / MANIFEST} is missing; {_DAMAGED}") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """List the finished checkpoints in a run's `checkpoints/` by step, damaged ones included."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint. Nothing in it is executed: the weights are safetensors, the rest is plain data.

    Raises:
        CheckpointError: a file is missing or damaged, or holds objects other than tensors and plain containers.
    """
    manifest = _manifest(path)
    step = manifest["step"]
    for name in (MODEL, DESCRIPTION, STATE, *sorted({AVERAGED} & set(manifest["files"]))):
        try:
            same = _fingerprint(path / name) == manifest["files"].get(name)
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error.strerror}; {_DAMAGED}") from None
        if not same:
            raise CheckpointError(f"{path / name}: its content differs from what was written; {_DAMAGED}")
    try:
        hyperparameters = read_description(path)["hyperparameters"]
        state = read_plain(path / STATE)
    except (ModelFileError, OSError) as error:
        raise CheckpointError(f"{error}; use only checkpoints that sivae wrote, and delete this one") from None
    weights: dict[str, dict[str, Tensor]] = {}
    for name in {MODEL, AVERAGED} & set(manifest["files"]):
        try:
            weights[name] = load_file(path / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path / name}: {error}; {_DAMAGED}") from None
    named = state.get("step") if isinstance(state, dict) else None
    if not isinstance(named, int) or named != step or path.name != str(step):
        raise CheckpointError(f"{path}: the folder's name and its files name different steps; {_DAMAGED}")
    return Checkpoint(path, step, hyperparameters, weights[MODEL], weights.get(AVERAGED), state)


def load_latest(folder: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """Read the last checkpoint that is whole; None if there are no checkpoints.

    Args:
        folder: a run's `checkpoints/`.
        notice: called with a message for each damaged checkpoint that is skipped.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    paths: list[Path] = []
    failure: CheckpointError | None = None
    while paths != (paths := list_checkpoints(folder)):  # a running training deletes older ones meanwhile
        for path in reversed(paths):
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                if path.exists():
                    notice(f"skipped a checkpoint: {error}")
                    failure = error
    if failure is not None:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used. {failure}. "
            "Restore the folder from a copy, or train again in another folder with --out"
        )
    return None


def set_aside_after(folder: Path, step: int) -> None:
    """Rename checkpoints after `step` to `damaged-STEP`, so that they are ignored and their names are free."""
    for path in list_checkpoints(folder):
        if int(path.name) > step:
            target = path.with_name(f"damaged-{path.name}")
            if target.exists():
                files.remove_folder(target)
            path.rename(target)


def _fingerprint(path: Path) -> _File:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
