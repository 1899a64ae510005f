"""`sivae evaluate`: compute the metrics of a trained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.cli.parsing import Parser, add_crop, at_least, data_path, file, seed, switch
from sivae.cli.printing import notice, print_metrics
from sivae.errors import UsageError

if TYPE_CHECKING:
    from sivae.evaluation.against import Against


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Compute the metrics of a run's last complete checkpoint, or of an imported model. Writes only what
        --save-features names.

        With the run's own seed (the default), the metrics equal those at the end of its training. Points: gnelbo, KL
        and JSD. Images: MSE, PSNR and SSIM of reconstructions, rec and kl; FID and KID with --fid-weights.
        Point clouds: Chamfer distance of reconstructions, kl, and for samples the JSD over voxels, minimum matching
        distance, coverage and 1-nearest-neighbour accuracy.
        Translations: their distance to the true images, and how much the class code reveals of the content and the
        content code of the class.

        --against measures how close samples come to real images, with a network that
        pip install 'soft-intro-vae[metrics]' brings. RUN may then also be a folder of images: its images are compared
        instead of samples.
        """,
        [
            "sivae evaluate runs/8gaussians-seed0",
            "sivae evaluate runs/8gaussians-seed0 --seed 1 --json",
            "sivae evaluate runs/cifar10-seed0 --fid-weights weights-inception-2015-12-05-6726825d.pth",
            "sivae evaluate imported --data cifar-10-python.tar.gz",
            "sivae evaluate runs/cifar10-seed0 --against cifar-10-python.tar.gz --save-features cifar10.safetensors",
            "sivae evaluate samples/ --against photos/",
        ],
    )
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="Folder of a run, or of a model. With --against also images."
    )
    parser.require("run", "name the run's folder, as sivae train printed it; runs/8gaussians-seed0, for example")
    parser.add_argument("--seed", type=seed, metavar="N", help="Seed of the metrics' samples. (default: the run's)")
    parser.add_argument("--device", metavar="NAME", help="Device to compute on. (default: the run's)")
    parser.add_argument("--data", type=data_path, metavar="PATH", help="Data to measure on. (default: the run's)")
    add_crop(parser, "as in the run's training; of a model, --data must be square, and --against is cut in the middle")
    parser.add_argument(
        "--skip-damaged",
        type=switch,
        nargs="?",
        const=True,
        metavar="{on,off}",
        help="Leave out image files that cannot be decoded, also of --against. (default: as in the run's training, "
        "else off)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="Real images that samples should look like: any that sivae train --data reads, or a file of "
        "--save-features. Adds KID, precision and recall, and FID from 5,000 images on, all by EfficientNet-Lite0: "
        "their values are not those of Inception.",
    )
    parser.add_argument(
        "--against-count",
        type=at_least(4),
        default=5_000,
        metavar="N",
        help="Largest number of images of each side that --against compares.",
    )
    parser.add_argument(
        "--save-features",
        type=file(".safetensors"),
        metavar="FILE",
        help="File to write the features of the --against images to (.safetensors). Later, --against FILE is the same.",
    )
    parser.add_argument(
        "--fid-weights",
        type=Path,
        metavar="FILE",
        help="Weights of torch-fidelity's Inception network (weights-inception-2015-12-05-6726825d.pth). Adds FID and "
        "KID of images, by the standard protocol. Needs pip install 'soft-intro-vae[fid]'.",
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
    from sivae.evaluation.against import Against
    from sivae.training.run_metrics import evaluate, is_model

    against = None
    if given.against is not None:
        against = Against(
            path=given.against,
            count=given.against_count,
            crop=given.crop or "center",
            skip_damaged=bool(given.skip_damaged),
            save_to=given.save_features,
            notice=notice,
            show=True,
        )
    elif given.save_features is not None:
        raise UsageError("--save-features keeps the features of other images; name them by --against PATH")
    if against is not None and given.run.exists() and not is_model(given.run):
        result = _of_images(given, against)
    else:
        result = evaluate(
            given.run,
            seed=given.seed,
            device=given.device,
            data=given.data,
            crop=crop_text(given.crop),
            skip_damaged=given.skip_damaged,
            fid_weights=given.fid_weights,
            fid_count=given.fid_count,
            lpips_weights=given.lpips_weights,
            against=against,
            notice=notice,
        )
    if given.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    metrics = {key: value for key, value in result.items() if key not in ("step", "seed", "measured_on")}
    step = f", step {result['step']:,}" if "step" in result else ""
    on = f", on {result['measured_on']}" if "measured_on" in result else ""
    print_metrics(f"{given.run.name}{step}, seed {result['seed']}{on}", metrics)


def _of_images(given: argparse.Namespace, against: Against) -> dict[str, Any]:
    from sivae.evaluation.against import compare_images
    from sivae.machine import find_device
    from sivae.training.run_metrics import for_json

    for option in ("data", "fid_weights", "lpips_weights"):
        if getattr(given, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} measures a model, and {given.run} is neither a run nor a model; leave "
                "it out, or name a run's folder"
            )
    seed = given.seed or 0
    device = find_device(given.device or "auto")
    return {"seed": seed, **for_json(compare_images(given.run, against, seed=seed, device=device))}
