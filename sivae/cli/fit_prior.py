"""`sivae fit-prior`: fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.bounds import PRIOR_COMPONENTS
from sivae.cli.generation import IN_FOLDER, add_class, open_model, refuse
from sivae.cli.parsing import Parser, add_crop, at_least, data_path, seed
from sivae.cli.printing import notice
from sivae.errors import ConfigError
from sivae.words import plural

if TYPE_CHECKING:
    from sivae.training.fitted_prior import FittedPrior

_FOLDER = "fitted-prior"


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior.

        Encodes training samples of the run, or --data, fits the mixture to draws from their posteriors, and writes a
        model's folder, which the other verbs take. The networks stay as they are. It helps where the latents do not
        fill N(0, 1), as in a VAE with a small beta_kl: samples of N(0, 1) are then unlike anything that was encoded.
        """,
        [
            "sivae fit-prior runs/digits-seed0",
            "sivae sample runs/digits-seed0/fitted-prior",
            "sivae fit-prior runs/cifar10-seed0 --components 100 --count 50000 --out cifar10-with-prior",
            "sivae fit-prior vae --data photos/",
        ],
    )
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_MODEL", help="Folder of a run, or with --data of any model of images."
    )
    parser.add_argument(
        "--components",
        type=at_least(1),
        default=10,
        metavar="K",
        help=f"Number of Gaussians, at most {PRIOR_COMPONENTS:,}.",
    )
    parser.add_argument(
        "--count",
        type=at_least(3),
        default=10_000,
        metavar="N",
        help="Largest number of training samples to encode; a tenth of them measures the fit. Each takes 12 bytes of "
        "memory for each latent value, and 24 for each Gaussian.",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="Seed of the draws and of the first means.")
    parser.add_argument(
        "--data", type=data_path, metavar="PATH", help="Encode images of a data set, instead of the run's."
    )
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        help="Part of the data set. (default: train, or all images if it has no parts)",
    )
    add_class(parser)
    add_crop(parser)
    parser.add_argument("--device", metavar="NAME", help="Device to encode on. (default: the run's)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"The model's folder; one that is there is replaced. "
        f"(default: {_FOLDER} {IN_FOLDER})",
    )  # fmt: skip


def run(given: argparse.Namespace) -> None:
    """Fit, print how well, and where the model is."""
    from sivae.models.storage import save_model

    fitted = {"seed": given.seed}
    if given.data is None:
        out, found = _to_run(given)
        source = {"run": given.model.absolute().name, "step": found.step}
    else:
        out, found = _to_data(given)
        source = {"model": given.model.absolute().name}
        fitted["data"] = str(given.data)
    save_model(out, found.model, source={**source, "fitted_prior": {"latents": found.fitted, **fitted}})
    print(
        f"log density of {plural(found.measured, 'other latent')}: {found.log_prob:.4g} nats under the mixture of "
        f"{plural(given.components, 'Gaussian')}, {found.log_prob_before:.4g} under the prior before"
    )
    print(out)
    if not found.log_prob > found.log_prob_before:
        notice("the mixture fits worse than the prior before; give fewer --components, or a larger --count")
    elif len(found.model.sample_shape) > 1:
        notice(f"next: sivae sample {shlex.quote(str(out))}")


def _to_run(given: argparse.Namespace) -> tuple[Path, FittedPrior]:
    """Fit to the training samples of a run, and return the folder to write too."""
    from sivae.models.diffusers_folder import is_folder
    from sivae.models.storage import DESCRIPTION, check_folder
    from sivae.training.fitted_prior import fit_prior

    if is_folder(given.model) or (given.model / DESCRIPTION).exists():
        raise ConfigError(f"{given.model} is a model without training samples; name images to encode by --data PATH")
    refuse(given, ["split", "class_", "crop"], "goes with --data PATH; leave it out, or give that too")
    check_folder(out := given.out or given.model / _FOLDER)
    found = fit_prior(
        given.model,
        components=given.components,
        count=given.count,
        seed=given.seed,
        device=given.device,
        show=True,
        notice=notice,
    )
    return out, found


def _to_data(given: argparse.Namespace) -> tuple[Path, FittedPrior]:
    """Fit to images of a data set, and return the folder to write too."""
    from sivae.data.images import open_images
    from sivae.data.images.base import spread
    from sivae.models.storage import check_folder
    from sivae.training.fitted_prior import fit_prior_to

    given.device, given.raw_weights = given.device or "auto", False
    opened = open_model(given)
    check_folder(out := given.out or opened.beside(_FOLDER))
    images = open_images(given.data, split=given.split, notice=notice)
    rows = spread(len(images), given.count)
    batches = opened.batches(images, rows, given.class_)
    found = fit_prior_to(opened.model, batches, len(rows), components=given.components, seed=given.seed, show=True)
    return out, found
