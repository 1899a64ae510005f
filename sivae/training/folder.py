"""The folder of a run: make it, and read its settings and its summary.

DIR/config.json           all settings, resolved
DIR/metrics.jsonl         the losses over time; TensorBoard events are in the same folder
DIR/samples/*.png         samples and other pictures over time
DIR/checkpoints/STEP/     see sivae.training.checkpoint
DIR/rollback.json         written when a training diverged: the step that it went back to
DIR/*.png, summary.json   written at the end
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeGuard

from sivae import files
from sivae.errors import RunFolderError
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints

CONFIG, SUMMARY, CHECKPOINTS, SAMPLES, ROLLBACK = (
    "config.json",
    "summary.json",
    "checkpoints",
    "samples",
    "rollback.json",
)

# The required keys of a summary. Its key "metrics" lists the names of the metrics, which are keys too.
SUMMARY_KEYS = (
    *("preset", "objective", "steps", "seed", "metrics", "ms_per_iteration", "samples_per_second", "train_seconds"),
    *("wall_seconds", "final", "pictures", "device", "device_name", "ops", "threads", "versions"),
)


def new_folder(config: RunConfig, out: str | os.PathLike[str] | None) -> Path:
    """Make the folder of a new run: `out`, or runs/PRESET-seedN, with -2, -3 … if that name is taken.

    Raises:
        RunFolderError: `out` is a file, or a folder that is not empty.
    """
    if out is not None:
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RunFolderError(f"{folder} is a file; choose another folder with --out") from None
        if any(not files.is_temporary(path) for path in folder.iterdir()):
            remedy = f"go on with it by --resume {folder}, or " if (folder / CONFIG).exists() else ""
            raise RunFolderError(f"{folder} is not empty; {remedy}choose another folder with --out")
        return folder
    base = Path("runs") / f"{config.preset}-seed{config.seed}"
    base.parent.mkdir(exist_ok=True)
    count = 1
    while True:
        folder = base if count == 1 else base.with_name(f"{base.name}-{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
        else:
            return folder


def read_config(folder: str | os.PathLike[str]) -> RunConfig:
    """Read the configuration of a run.

    Raises:
        RunFolderError: the folder is missing, or is not a run's.
        ConfigError: its `config.json` is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; name the folder of a run (runs/… by default)")
    if not (folder / CONFIG).exists():
        raise RunFolderError(f"{folder} holds no {CONFIG}, so it is not a run's folder; name one that is")
    return RunConfig.read(folder / CONFIG)


def run_of(source: Path) -> RunConfig | None:
    """Read the settings of the run that a model belongs to.

    Args:
        source: a run's folder, one of its checkpoints, or any other model folder.

    Returns:
        The run's settings; None for a model without a run.

    Raises:
        ConfigError: the run's `config.json` is wrong.
    """
    folder = source.parent.parent if source.parent.name == CHECKPOINTS else source
    return read_config(folder) if (folder / CONFIG).is_file() else None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of a finished run; None if the run is not finished."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if is_summary(content) else None


def is_summary(content: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a content is a complete summary."""
    if not isinstance(content, dict) or not all(key in content for key in SUMMARY_KEYS):
        return False
    names = content["metrics"]
    return isinstance(names, list) and all(isinstance(name, str) and name in content for name in names)


def way_back(folder: Path) -> str:
    """Name the last good checkpoint after a failure, in a sentence."""
    paths = list_checkpoints(folder / CHECKPOINTS)
    if not paths:
        return "No checkpoint had been written yet."
    return f"The last good checkpoint is {paths[-1]}."


def read_rollback(folder: Path) -> dict[str, Any] | None:
    """Read the record of a divergence of this run; None if it did not diverge.

    Returns:
        `step`, which the run went back to; `from_step`, in which it diverged; `slowdown`, the factor of the learning
        rate since then; `diagnosis`.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        content = json.loads((folder / ROLLBACK).read_text(encoding="utf-8"))
        return {**content, "step": int(content["step"]), "slowdown": float(content["slowdown"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder / ROLLBACK} is damaged ({error}); delete it to go on without it") from None
