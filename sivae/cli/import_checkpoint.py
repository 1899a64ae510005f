"""`sivae import-checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Folder, one
from sivae.errors import CheckpointError, RunFolderError

_FILE = arg(help="A checkpoint that one of the authors' programs saved.", help_behavior_hint="", metavar="FILE")


@dataclass
class Arguments:
    """Turn an official checkpoint into a model folder, which every other verb and sivae.from_pretrained take.

    The architecture is found in the file: the conv model's, or the style-based one's. Nothing in it is executed.

    examples:
      sivae import-checkpoint cifar10_soft_intro_vae.pth --out models/cifar10
      sivae import-checkpoint ffhq_fid_17.pth --out models/ffhq256
    """

    file: Annotated[Positional[Path | None], one(Path, "FILE"), _FILE] = None
    out: Annotated[Folder, arg(help="The model's new folder.", help_behavior_hint="")] = None
    as_trained: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Of a style-based checkpoint the weights as trained, not the averaged ones.", help_behavior_hint=""),
    ] = False


def run(arguments: Arguments) -> None:
    """Import, and say what was found."""
    file, out = arguments.file, arguments.out
    if file is None:
        raise RunFolderError("name the checkpoint's file; sivae import-checkpoint FILE.pth --out DIR")
    if out is None:
        raise RunFolderError("name the new folder by --out DIR")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunFolderError(f"{out} is not empty; choose another --out")
    from sivae.errors import ModelFileError
    from sivae.models.official import import_official
    from sivae.models.storage import save_model

    try:
        imported = import_official(file, averaged=not arguments.as_trained)
        save_model(out, imported.model, source=imported.source)
    except ModelFileError as error:
        raise CheckpointError(str(error)) from None
    model = imported.model
    source = imported.source
    found = {"format": source["format"]}
    found |= {name: f"{source[name]:,}" for name in ("epoch", "iteration") if name in source}
    if "averaged" in source:
        found["weights"] = "averaged" if source["averaged"] else "as trained"
    found |= {
        "model": model.name,
        **{name: _in_words(value) for name, value in model.hyperparameters.items()},
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "folder": str(out),
    }
    print("\n".join(f"{name:<15}{words}" for name, words in found.items()))


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
