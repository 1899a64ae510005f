"""`sivae import-checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sivae.cli.options import Folder, one
from sivae.training.errors import CheckpointError, RunFolderError

_FILE = arg(help="A checkpoint that the authors' conv program saved.", help_behavior_hint="", metavar="FILE")


@dataclass
class Arguments:
    """Turn an official checkpoint into a model folder, which every other verb and sivae.from_pretrained take.

    The architecture is found in the file. Nothing in it is executed: a file that holds objects is refused.

    examples:
      sivae import-checkpoint cifar10_soft_intro_vae.pth --out models/cifar10
    """

    file: Annotated[Positional[Path | None], one(Path, "FILE"), _FILE] = None
    out: Annotated[Folder, arg(help="The model's new folder.", help_behavior_hint="")] = None


def run(arguments: Arguments) -> None:
    """Import, and say what was found."""
    file, out = arguments.file, arguments.out
    if file is None:
        raise RunFolderError("name the checkpoint's file; sivae import-checkpoint FILE.pth --out DIR")
    if out is None:
        raise RunFolderError("name the new folder by --out DIR")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunFolderError(f"{out} is not empty; choose another --out")
    from sivae.models.official import import_official
    from sivae.models.storage import ModelFileError, save_model

    try:
        imported = import_official(file)
        save_model(out, imported.model, source=imported.source)
    except ModelFileError as error:
        raise CheckpointError(str(error)) from None
    model = imported.model
    found = {
        "format": imported.source["format"],
        **({"epoch": f"{imported.source['epoch']:,}"} if "epoch" in imported.source else {}),
        "model": model.name,
        **{name: _in_words(value) for name, value in model.hyperparameters.items()},
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "folder": str(out),
    }
    print("\n".join(f"{name:<15}{words}" for name, words in found.items()))


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
