"""Which format a checkpoint of the authors' implementation has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sivae.errors import ModelFileError
from sivae.models.base import VAEModel
from sivae.models.official import conv, style
from sivae.models.reading import described, read_checkpoint


@dataclass(frozen=True)
class Imported:
    """A model that was read from a checkpoint of the authors' implementation.

    Attributes:
        model: in float32, on the CPU, in eval mode.
        source: where it comes from, in types of JSON.
    """

    model: VAEModel
    source: dict[str, Any]


def import_official(path: Path, *, averaged: bool = True) -> Imported:
    """Read a checkpoint as the authors' programs save it; the architecture is found in its names and shapes.

    Args:
        path: a file of `torch.save`. Nothing in it is executed: in the place of objects beside tensors and plain
            containers stand empty ones.
        averaged: of a checkpoint that holds the weights as trained and averaged ones, take these.

    Raises:
        OSError: the file cannot be read.
        ModelFileError: it is no such checkpoint, or a damaged one, or of a network that this package does not have.
    """
    content = read_checkpoint(path)
    for form in (conv, style):
        if form.recognises(content):
            model, details = form.convert(content, str(path), averaged=averaged)
            return Imported(model, {"format": form.FORMAT, "file": path.name, **details})
    raise ModelFileError(
        f"{path} holds {described(content)}: no checkpoint of the official conv model, which has a table 'model' with "
        "encoder.main.… and decoder.main.…, nor of the official style-based one, which has a table 'models' with "
        "generator and discriminator"
    )
