"""Trained models by their folder, whatever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

from sivae.errors import ModelFileError, NoModelError
from sivae.models import VAEModel, diffusers_folder
from sivae.models.storage import AVERAGED, DESCRIPTION, MODEL, load_model

_CHECKPOINTS = "checkpoints"


def from_pretrained(path: str | os.PathLike[str], *, averaged: bool = True) -> VAEModel:
    """Load a trained model.

    Args:
        path: a model's folder (as `sivae import-checkpoint` writes it), a checkpoint's (`RUN/checkpoints/STEP`), or a
            run's, for its last checkpoint; or the folder of an `AutoencoderKL` of diffusers.
        averaged: take the averaged weights where the checkpoint has them.

    Returns:
        The model in float32, on the CPU, in eval mode.

    Raises:
        ModelFileError: there is no model, or its files are damaged; a ValueError.
    """
    folder = folder_of(path)
    if diffusers_folder.is_folder(folder):
        return diffusers_folder.read_folder(folder)
    try:
        return load_model(folder, averaged=averaged and (folder / AVERAGED).exists())
    except ModelFileError as error:
        if folder.parent.name != _CHECKPOINTS or folder == (first := _steps(folder.parent)[0]):
            raise
        raise ModelFileError(f"{error}; or name an earlier checkpoint, such as {first}") from None


def _steps(checkpoints: Path) -> list[Path]:
    """The folders of a run's checkpoints, the last one last."""
    return sorted((file for file in checkpoints.iterdir() if file.name.isdecimal()), key=lambda file: int(file.name))


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Find the folder that :func:`from_pretrained` reads: of a run, that of its last checkpoint.

    Raises:
        ModelFileError: there is no model.
    """
    path = Path(path)
    if diffusers_folder.is_folder(path) or (path / DESCRIPTION).exists():
        return path
    if (path / _CHECKPOINTS).is_dir():
        steps = _steps(path / _CHECKPOINTS)
        if not steps:
            raise NoModelError(f"{path} has no checkpoint yet; train on with sivae train --resume {path}")
        path = steps[-1]
        if (path / DESCRIPTION).exists():
            return path
    if (path / MODEL).exists():
        raise ModelFileError(
            f"{path} has weights, but no {DESCRIPTION} to say of which network: an older sivae wrote it. Build the "
            f"network and load {MODEL} into it, or train again"
        )
    if path.is_file():
        raise NoModelError(
            f"{path} is a file, expected a folder; an official checkpoint becomes one by "
            f"sivae import-checkpoint {path} --out DIR"
        )
    if diffusers_folder.is_folder(path / "vae") or diffusers_folder.problem_of(path / "vae"):
        raise ModelFileError(f"{path} is a pipeline of diffusers; name the folder of its autoencoder, {path / 'vae'}")
    if (problem := diffusers_folder.problem_of(path)) is not None:
        raise ModelFileError(problem)
    if not path.exists():
        hub = len(path.parts) == 2 and not path.parent.exists()  # ORGANIZATION/NAME
        fetch = f" (nothing is downloaded; to fetch a hub's model: hf download {path} --local-dir DIR)" if hub else ""
        raise NoModelError(f"{path}: there is no such folder; name a model's, a checkpoint's or a run's{fetch}")
    raise NoModelError(f"{path} holds neither {DESCRIPTION} nor {_CHECKPOINTS}/; name a model's or a run's folder")
