"""Detect the format of a checkpoint of the authors' implementation, and import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sivae.errors import ModelFileError
from sivae.models.base import VAEModel
from sivae.models.official import conv, pointnet, style
from sivae.models.reading import described, read_checkpoint


@dataclass(frozen=True)
class Imported:
    """A model that was read from a checkpoint of the authors' implementation.

    Attributes:
        model: in float32, on the CPU, in eval mode.
        source: the checkpoint's format, file name and details, in types of JSON.
    """

    model: VAEModel
    source: dict[str, Any]


def import_official(path: Path, *, averaged: bool = True) -> Imported:
    """Read a checkpoint of the authors' programs. Its architecture follows from its names and shapes.

    Args:
        path: a file of `torch.save`. Nothing in it is executed: tensors and plain containers are read, and any other
            object becomes an empty one.
        averaged: read the averaged weights of a checkpoint that holds averaged and trained weights.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: the file is no such checkpoint, is damaged, or holds a network that this package does not have.
    """
    content = read_checkpoint(path)
    for form in (conv, style, pointnet):
        if form.recognises(content):
            model, details = form.convert(content, str(path), averaged=averaged)
            return Imported(model, {"format": form.FORMAT, "file": path.name, **details})
    raise ModelFileError(
        f"{path} holds {described(content)}: no checkpoint of the official conv model, which has a table 'model' with "
        "encoder.main.… and decoder.main.…, nor of the official style-based one, which has a table 'models' with "
        "generator and discriminator, nor of the official one of point clouds, which has encoder.conv.… and "
        "decoder.model.…"
    )
