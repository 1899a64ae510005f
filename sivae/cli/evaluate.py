"""`sivae evaluate`: compute the metrics of a trained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sivae.cli.parsing import Parser, add_crop, at_least, seed
from sivae.cli.printing import notice, print_metrics


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Compute the metrics of a run's last complete checkpoint, or of an imported model. Writes no files.

        With the run's own seed (the default), the metrics equal those at the end of its training. Points: gnelbo, KL
        and JSD. Images: MSE, PSNR and SSIM of reconstructions, rec and kl; FID and KID with --fid-weights.
        Translations: their distance to the true images, and how much the class code reveals of the content and the
        content code of the class.
        """,
        [
            "sivae evaluate runs/8gaussians-seed0",
            "sivae evaluate runs/8gaussians-seed0 --seed 1 --json",
            "sivae evaluate runs/cifar10-seed0 --fid-weights weights-inception-2015-12-05-6726825d.pth",
            "sivae evaluate imported --data cifar-10-python.tar.gz",
        ],
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="Folder of a run, or of a model.")
    parser.require("run", "name the run's folder, as sivae train printed it; runs/8gaussians-seed0, for example")
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the metrics' samples. (default: the run's)")
    parser.add_argument("--device", metavar="NAME", help="Device to compute on. (default: the run's)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="Images to measure on. (default: the run's)")
    add_crop(parser, "as in the run's training; images of a model folder have to be square")
    parser.add_argument(
        "--fid-weights",
        type=Path,
        metavar="FILE",
        help="Weights of torch-fidelity's Inception network (weights-inception-2015-12-05-6726825d.pth). Adds FID and "
        "KID of images, by the standard protocol. Needs pip install 'sivae[fid]'.",
    )
    parser.add_argument(
        "--fid-count",
        type=at_least(1),
        default=50_000,
        metavar="N",
        help="Largest number of images that FID and KID compare.",
    )
    parser.add_argument(
        "--lpips-weights",
        nargs=2,
        type=Path,
        metavar=("VGG", "LINEAR"),
        help="Weights of VGG-16 (vgg16-397923af.pth) and of the package lpips (weights/v0.1/vgg.pth). Adds LPIPS of "
        "translations.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(given: argparse.Namespace) -> None:
    """Evaluate, and print a table or JSON."""
    from sivae.data.images.crop import crop_text
    from sivae.training.run_metrics import evaluate

    result = evaluate(
        given.run,
        seed=given.seed,
        device=given.device,
        data=given.data,
        crop=crop_text(given.crop),
        fid_weights=given.fid_weights,
        fid_count=given.fid_count,
        lpips_weights=given.lpips_weights,
        notice=notice,
    )
    if given.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    metrics = {key: value for key, value in result.items() if key not in ("step", "seed")}
    step = f", step {result['step']:,}" if "step" in result else ""
    print_metrics(f"{given.run.name}{step}, seed {result['seed']}", metrics)
