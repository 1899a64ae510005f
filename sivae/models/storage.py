"""Save and load models as folders.

    model.json          {"format": 1, "name": …, "hyperparameters": {…}, "source": {…} of an imported model}
    model.safetensors   parameters and buffers
    ema.safetensors     averaged parameters and buffers, in the checkpoints of a run that keeps them

Reading a model executes nothing, and takes no more memory than its files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sivae import files
from sivae.errors import ModelFileError
from sivae.json_files import read_json
from sivae.models.base import VAEModel
from sivae.models.registry import MODELS, build_model

DESCRIPTION, MODEL, AVERAGED = "model.json", "model.safetensors", "ema.safetensors"
_FORMAT = 1


class Description(TypedDict):
    """The keys of model.json that make the architecture again."""

    name: str
    hyperparameters: dict[str, Any]


def save_model(folder: str | os.PathLike[str], model: VAEModel, *, source: Mapping[str, Any] | None = None) -> None:
    """Write a model folder, whole or not at all.

    Args:
        folder: is made; a folder that holds a model and nothing else is replaced.
        model: of an architecture in :data:`sivae.models.MODELS`, on any device. A subclass that has the same parameters
            and buffers loads as its architecture.
        source: the origin of the weights, in types of JSON.

    Raises:
        TypeError: the folder could not be loaded again, since no architecture and hyperparameters give this model.
        ModelFileError: `folder` holds other files.
        OSError: the folder cannot be written.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile(model) holds the model
    _check_rebuilt(model)
    folder = check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_folder(folder) as temporary:
        write_model(temporary, model, source=source)


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Refuse a folder that a model cannot be saved to, and return its absolute path.

    Raises:
        ModelFileError: it holds other files.
    """
    path = Path(os.path.abspath(folder))  # a relative path, such as ".", may have no name
    if not files.holds_only(path, {DESCRIPTION, MODEL}):
        raise ModelFileError(f"{path} holds other files than a model's; choose another folder, or empty it")
    return path


def write_model(
    folder: Path, model: VAEModel, *, averaged: VAEModel | None = None, source: Mapping[str, Any] | None = None
) -> None:
    """Write the files of a model folder. The caller makes sure that the folder appears whole or not at all.

    Args:
        folder: an existing folder.
        model: on any device.
        averaged: the averaged copy, if the run keeps one.
        source: the origin of the weights, in types of JSON.
    """
    description = {"format": _FORMAT, "name": model.name, "hyperparameters": model.hyperparameters}
    if source is not None:
        description["source"] = dict(source)
    files.write_json(folder / DESCRIPTION, description)
    files.write_safetensors(folder / MODEL, plain_state(model))
    if averaged is not None:
        files.write_safetensors(folder / AVERAGED, plain_state(averaged))


def _check_rebuilt(model: Any) -> None:
    """Raise TypeError unless the name and hyperparameters of a model give its architecture."""
    kind, architecture = type(model), MODELS.get(str(getattr(model, "name", None)))
    remedy = "or save its weights alone: safetensors.torch.save_file(model.state_dict(), PATH)"
    if architecture is None or not isinstance(model, architecture):
        raise TypeError(
            f"save_model: model is {kind.__name__}, expected one of sivae.models.MODELS ({', '.join(MODELS)}), which "
            f"loads its folder again; add the class to MODELS under its `name`, {remedy}"
        )
    try:
        hyperparameters = json.loads(json.dumps(model.hyperparameters, allow_nan=False))
        with torch.device("meta"):
            again = build_model(model.name, **hyperparameters)
        problem = None if _shapes(again) == _shapes(model) else "they make other parameters or buffers"
    except (AttributeError, TypeError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise TypeError(
            f"save_model: model.hyperparameters do not make this {kind.__name__} again ({problem}), expected a table "
            f"of the constructor's arguments in types of JSON; set them in the constructor, {remedy}"
        )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in plain_state(model).items()}


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state under the names that it has without torch.compile, which holds modules in others."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}


def load_model(folder: str | os.PathLike[str], *, averaged: bool = False) -> VAEModel:
    """Read a model folder.

    Args:
        folder: holds model.json and the weights.
        averaged: read the averaged weights, which must exist.

    Returns:
        The model in float32, on the CPU, in eval mode.

    Raises:
        ModelFileError: a file is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    model = _described_model(folder)
    path = folder / (AVERAGED if averaged else MODEL)
    try:
        tensors = read_tensors(path, "restore it from a copy")
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; a model folder has {DESCRIPTION} and {MODEL}") from None
    fill(model, tensors, str(path))
    return model


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: the file.
        remedy: what a person can do if it is damaged, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: it cannot be read.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read ({error}); {remedy}") from None


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str, names: Mapping[str, str] | None = None) -> None:
    """Fill a model that was built on the meta device: it gets memory on the CPU, the given state, and eval mode.

    Args:
        model: all of its buffers must be part of its state dict.
        tensors: the state.
        where: the file of the tensors, for errors.
        names: the names of the tensors by the names of the model's state dict; None: they are the same.

    Raises:
        ModelFileError: a tensor is missing or unknown, or has another shape or kind.
    """
    expected = {(name if names is None else names[name]): tensor for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise ModelFileError(f"{where} lacks {_listed(missing)}; it is damaged, or belongs to another model")
    unknown = [name for name in tensors if name not in expected]
    if unknown:
        raise ModelFileError(f"{where} holds {_listed(unknown)}, which this model does not have")
    for name, tensor in expected.items():
        came = tensors[name]
        if came.shape != tensor.shape:
            raise ModelFileError(f"{where}: {name} has shape {list(came.shape)}, expected {list(tensor.shape)}")
        if came.is_floating_point() != tensor.is_floating_point():
            raise ModelFileError(f"{where}: {name} is {came.dtype}, expected {tensor.dtype}")
    model.to_empty(device="cpu")
    model.load_state_dict({name: tensors[name if names is None else names[name]] for name in model.state_dict()})
    model.eval()


def read_description(folder: Path) -> Description:
    """Read the architecture's name and the hyperparameters of a model folder.

    Raises:
        ModelFileError: model.json is missing or damaged.
    """
    path = folder / DESCRIPTION
    try:
        remedy = "restore it from a copy"
        return read_json(path, Description, error=ModelFileError, remedy=remedy, version=_FORMAT)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing; a model folder has {DESCRIPTION} and {MODEL}") from None


def _described_model(folder: Path) -> VAEModel:
    """Build the architecture that model.json names, on the meta device."""
    described = read_description(folder)
    try:
        with torch.device("meta"):
            return build_model(described["name"], **described["hyperparameters"])
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ModelFileError(f"{folder / DESCRIPTION}: {' '.join(str(error).split())[:300]}") from None


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"
