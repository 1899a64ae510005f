"""`sivae import-checkpoint`: convert a checkpoint of the authors' code into a model folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from sivae.cli.parsing import Parser
from sivae.cli.printing import notice
from sivae.errors import CheckpointError, RunFolderError


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Convert an official checkpoint into a model folder, which every other verb and sivae.from_pretrained read.

        The command detects the architecture (conv, style-based or of point clouds) from the file. No code in the file
        is executed.
        """,
        [
            "sivae import-checkpoint cifar10_soft_intro_vae.pth --out models/cifar10",
            "sivae import-checkpoint ffhq_fid_17.pth --out models/ffhq256",
        ],
    )
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="Checkpoint that one of the authors' programs saved."
    )
    parser.require("file", "name the checkpoint's file: sivae import-checkpoint FILE.pth --out DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", help="New folder of the model.")
    parser.require("out", "name the new folder by --out DIR")
    parser.add_argument(
        "--as-trained",
        action="store_true",
        help="Import the weights as trained, not their average (style-based checkpoints).",
    )


def run(given: argparse.Namespace) -> None:
    """Import, and print what was found."""
    file, out = given.file, given.out
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunFolderError(f"{out} is not empty; choose another --out")
    from sivae.errors import ModelFileError
    from sivae.models.official import import_official
    from sivae.models.storage import save_model

    try:
        imported = import_official(file, averaged=not given.as_trained)
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
    notice(f"next: sivae sample {shlex.quote(str(out))}")


def _in_words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
