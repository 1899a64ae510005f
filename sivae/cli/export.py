"""`sivae export`: write a model's networks as files for other programs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sivae.cli.generation import IN_FOLDER, OpenedModel, add_model, refuse
from sivae.cli.parsing import Parser, number
from sivae.cli.printing import notice
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from sivae.models import AutoencoderVAE

_WEIGHTS = "safetensors"
_DIFFUSERS = "diffusers"
_FORMS = ("onnx", "torch.export", _WEIGHTS, _DIFFUSERS)


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Write a model's networks as files for other programs.

        onnx and torch.export write the encoder (samples to mu and logvar) and the decoder (latents to samples) as
        programs for batches of any size that run without this package, and export.json, which describes their inputs
        and outputs. Each is run at several batch sizes and compared with the model. safetensors writes a model's
        folder: the weights, and a description that sivae.from_pretrained builds the networks from. diffusers writes the
        folder of an autoencoder that diffusers.AutoencoderKL.from_pretrained opens.
        """,
        [
            "sivae export runs/digits-seed0",
            "sivae export runs/ffhq256-seed0 --to torch.export --noise inputs --out ffhq",
            "sivae export runs/digits-seed0 --to safetensors --out digits-model",
            "sivae export runs/autoencoder-f8-seed0 --to diffusers --out vae",
        ],
    )
    add_model(parser)
    parser.add_argument(
        "--to",
        choices=_FORMS,
        default="onnx",
        help="Form of the files. onnx needs pip install 'soft-intro-vae[onnx]'.",
    )
    parser.add_argument(
        "--noise",
        choices=("fixed", "drawn", "inputs"),
        help="Noise maps of a style-based model's decoder: fixed ones, so that an image depends on its latent alone; "
        "drawn in each call; or inputs of the program. (default: fixed)",
    )
    parser.add_argument(
        "--scaling-factor",
        type=number,
        metavar="X",
        help="Factor by which pipelines of diffusers multiply latents: 1 over their standard deviation, which sivae "
        "encode prints. (default: 1 / prior_std, or that of the folder that the run started from)",
    )
    parser.add_argument(
        "--raw-weights", action="store_true", help="Use the weights as trained, not their running average."
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"Folder of the files; an export of the same form there is replaced. (default: export-FORM, {IN_FOLDER})",
    )


def run(given: argparse.Namespace) -> None:
    """Export, and print what was compared."""
    import torch

    import sivae
    from sivae.models.exported_files import check_packages, export_model

    if given.to in (_WEIGHTS, _DIFFUSERS):
        refuse(given, ["noise"], f"goes with programs, and --to {given.to} writes weights alone; leave it out")
    if given.to != _DIFFUSERS:
        refuse(given, ["scaling_factor"], f"goes with --to {_DIFFUSERS}; leave it out, or give that too")
    if given.to == "onnx":
        check_packages()
    model = sivae.from_pretrained(given.model, averaged=not given.raw_weights)
    source = given.model.absolute()
    out = given.out or OpenedModel(model, torch.device("cpu"), source).beside(f"export-{given.to.replace('.', '-')}")
    about = {"source": source.name, "averaged": not given.raw_weights}
    if given.to == _WEIGHTS:
        from sivae.models.storage import save_model

        save_model(out, model, source=about)
        print(out)
        notice(f"next: sivae.from_pretrained({str(out)!r}) in Python, or sivae sample {shlex.quote(str(out))}")
        return
    if given.to == _DIFFUSERS:
        if not hasattr(model, "save_pretrained"):
            raise ConfigError(
                f"--to {_DIFFUSERS}: the model {model.name!r} is no autoencoder of it; choose another form"
            )
        cast("AutoencoderVAE", model).save_pretrained(out, scaling_factor=given.scaling_factor)
        print(out)
        notice(f"next: diffusers.AutoencoderKL.from_pretrained({str(out)!r}) in Python")
        return
    for program in export_model(out, model, given.to, noise=given.noise or "fixed", about=about, show=True):
        sizes = ", ".join(map(str, program.rows))
        found = (
            "draws noise; its shapes are right"
            if program.deviation is None
            else (f"differs from the model by {program.deviation:.1g} of its largest value at most")
        )
        print(f"{program.file} {found} (batches of {sizes})")
    print(out)
