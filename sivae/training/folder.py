"""The folder of a run: make it, and read its settings and its summary.

DIR/config.json           all settings, resolved
DIR/launch.json           the torchrun process that started the run, see sivae.training.restart
DIR/metrics.jsonl         the losses over time; TensorBoard events are in the same folder
DIR/samples/*.png         samples and other pictures over time
DIR/checkpoints/STEP/     see sivae.training.checkpoint
DIR/rollback.json         written when a training diverged: the step that it went back to
DIR/*.png, summary.json   written at the end
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch

from sivae import files
from sivae.errors import CheckpointError, ConfigError, RunFolderError
from sivae.fields import AT_LEAST_1, FACTOR, SEED, converted
from sivae.json_files import read_json
from sivae.method.kl_average import ErrorAverage
from sivae.models.diffusers_folder import is_folder as is_diffusers_folder
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints, load_checkpoint

CONFIG, LAUNCH, SUMMARY, CHECKPOINTS, SAMPLES, ROLLBACK = (
    "config.json",
    "launch.json",
    "summary.json",
    "checkpoints",
    "samples",
    "rollback.json",
)


class Summary(TypedDict):
    """The content of `summary.json`. The key `metrics` lists the names of the metrics, which are keys too."""

    preset: str
    objective: str
    steps: Annotated[int, AT_LEAST_1]
    seed: Annotated[int, SEED]
    metrics: list[str]
    ms_per_iteration: float
    samples_per_second: float
    train_seconds: float
    wall_seconds: float
    final: dict[str, float | None]
    pictures: list[str]
    device: str
    device_name: str
    ops: str
    threads: int
    versions: dict[str, Any]


class Rollback(TypedDict):
    """The content of `rollback.json`: what a run did when it diverged.

    Attributes:
        step: of the checkpoint that it went back to; 0: the start.
        from_step: in which it diverged.
        slowdown: factor of the learning rate since then.
        diagnosis: what may be the reason.
    """

    step: Annotated[int, SEED]
    from_step: Annotated[int, SEED]
    slowdown: Annotated[float, FACTOR]
    diagnosis: str


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
        # A process that is killed early leaves these.
        if any(path.name != LAUNCH and not files.is_temporary(path) for path in folder.iterdir()):
            remedy = f"go on with it by --resume {folder}, or " if (folder / CONFIG).exists() else ""
            raise RunFolderError(f"{folder} is not empty; {remedy}choose another folder with --out")
        return folder
    base = default_folder(config)
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


def default_folder(config: RunConfig) -> Path:
    """The folder of a new run that names none, if the name is free."""
    return Path("runs") / f"{config.preset}-seed{config.seed}"


def read_config(folder: str | os.PathLike[str]) -> RunConfig:
    """Read the configuration of a run.

    Raises:
        RunFolderError: the folder is missing, or is not a run's.
        ConfigError: its `config.json` is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; name the folder of a run (runs/… by default)")
    if is_diffusers_folder(folder):
        raise RunFolderError(f"{folder} holds a model of diffusers, and is not a run's folder; name one that is")
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
    return read_config(folder) if (folder / CONFIG).is_file() and not is_diffusers_folder(folder) else None


def learned_deviation(source: Path, notice: Callable[[str], None] = lambda text: None) -> float | None:
    """Read the standard deviation of the decoder that a run of the kind "gaussian" learned, in the model's units.

    Args:
        source: a run's folder, for its last checkpoint, or one of its checkpoints.
        notice: called with a message about a checkpoint that is damaged or lacks files.

    Returns:
        The deviation; None if there is no such checkpoint, or it has none, as before the first iteration.
    """
    paths = [source] if source.parent.name == CHECKPOINTS else list_checkpoints(source / CHECKPOINTS)
    if not paths:
        return None
    average = ErrorAverage()
    try:
        checkpoint = load_checkpoint(paths[-1])
        with checkpoint.fitting("resume with the version that wrote it"):
            average.load_state(checkpoint.state["error_average"])
    except CheckpointError as error:
        notice(str(error))
        return None
    variance = average.mean(torch.zeros(())).item()
    return math.sqrt(variance) if math.isfinite(variance) else None


def read_summary(folder: Path, notice: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
    """Read the summary of a finished run; None if the run is not finished.

    Args:
        folder: the run's.
        notice: called with a message about a damaged summary; resuming the run writes it anew.
    """
    path, remedy = folder / SUMMARY, "resuming the run writes it anew"
    try:
        content: dict[str, Any] = {**read_json(path, Summary, error=RunFolderError, remedy=remedy)}
        for name in content["metrics"]:
            converted(name, content.get(name, "nothing"), float | None)
    except FileNotFoundError:
        return None
    except RunFolderError as error:
        notice(str(error))
        return None
    except ConfigError as error:
        notice(f"{path} is damaged: {error}; {remedy}")
        return None
    return content


def way_back(folder: Path) -> str:
    """Name the last good checkpoint after a failure, in a sentence."""
    paths = list_checkpoints(folder / CHECKPOINTS)
    if not paths:
        return "No checkpoint had been written yet."
    return f"The last good checkpoint is {paths[-1]}."


def read_rollback(folder: Path) -> Rollback | None:
    """Read the record of a divergence of this run; None if it did not diverge.

    Raises:
        RunFolderError: the file is damaged.
    """
    remedy = "restore it from a copy, or delete it to go on with the full learning rate"
    try:
        return read_json(folder / ROLLBACK, Rollback, error=RunFolderError, remedy=remedy)
    except FileNotFoundError:
        return None
