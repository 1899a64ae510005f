"""Folders of diffusers' `AutoencoderKL` with weights of a formula, written without diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tests.models.diffusers_layouts import RECORDED, SMALL, weights

RECORD: dict[str, Any] = json.loads(RECORDED.read_text())["small"]


def folder_of(name: str, folder: Path, **changes: Any) -> Path:
    """Write the folder of a small layout, with changes of its config.json; a value of None takes a key out."""
    config = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1", **SMALL[name], **changes}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    write_weights(folder, weights(RECORD[name]["shapes"]))
    return folder


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the file of weights."""
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "diffusion_pytorch_model.safetensors"
    )
