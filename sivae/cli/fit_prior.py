"""`sivae fit-prior`: fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from sivae.bounds import PRIOR_COMPONENTS
from sivae.cli.parsing import Parser, at_least, seed
from sivae.cli.printing import notice
from sivae.words import plural

_FOLDER = "fitted-prior"


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior.

        Encodes training samples of the run, fits the mixture to draws from their posteriors, and writes a model's
        folder, which the other verbs take. The networks stay as they are. It helps where the latents do not fill
        N(0, 1), as in a VAE with a small beta_kl: samples of N(0, 1) are then unlike anything that was encoded.
        """,
        [
            "sivae fit-prior runs/digits-seed0",
            "sivae sample runs/digits-seed0/fitted-prior",
            "sivae fit-prior runs/cifar10-seed0 --components 100 --count 50000 --out cifar10-with-prior",
        ],
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="Folder of a run.")
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
        "memory for each latent value.",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="Seed of the draws and of the first means.")
    parser.add_argument("--device", metavar="NAME", help="Device to encode on. (default: the run's)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"The model's folder; one that is there is replaced. "
        f"(default: {_FOLDER} in the run's folder)",
    )  # fmt: skip


def run(given: argparse.Namespace) -> None:
    """Fit, print how well, and where the model is."""
    from sivae.models.storage import check_folder, save_model
    from sivae.training.fitted_prior import fit_prior

    out = given.out or given.run / _FOLDER
    check_folder(out)
    found = fit_prior(
        given.run,
        components=given.components,
        count=given.count,
        seed=given.seed,
        device=given.device,
        show=True,
        notice=notice,
    )
    source = {
        "run": given.run.absolute().name,
        "step": found.step,
        "fitted_prior": {"latents": found.fitted, "seed": given.seed},
    }
    save_model(out, found.model, source=source)
    print(
        f"log density of {plural(found.measured, 'other latent')}: {found.log_prob:.4g} nats under the mixture of "
        f"{plural(given.components, 'Gaussian')}, {found.log_prob_before:.4g} under the prior before"
    )
    print(out)
    if not found.log_prob > found.log_prob_before:
        notice("the mixture fits worse than the prior before; give fewer --components, or a larger --count")
    elif len(found.model.sample_shape) > 1:
        notice(f"next: sivae sample {shlex.quote(str(out))}")
