"""`sivae evaluate`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Text, Whole, one, several
from sivae.errors import ConfigError, RunFolderError

_RUN = arg(help="The run's folder, or a model folder.", help_behavior_hint="", metavar="RUN")
_FID = (
    "The weights of the Inception network that torch-fidelity names weights-inception-2015-12-05-6726825d.pth: adds "
    "FID and KID of images, by the standard protocol. Needs pip install 'sivae[fid]'."
)
_LPIPS = (
    "Two files: VGG-16's weights (vgg16-397923af.pth) and those of the package lpips (weights/v0.1/vgg.pth): adds "
    "LPIPS of translations."
)


@dataclass
class Arguments:
    """Compute the metrics of a run's last whole checkpoint, or of an imported model. Writes nothing.

    With the run's own seed, which is the default, these are the figures of the training's end. Points: gnelbo, KL and
    JSD. Images: MSE, PSNR and SSIM of reconstructions, rec and kl; FID and KID where --fid-weights names the network.
    Translations: how near they are to the true images, and what class and content tell of each other.

    examples:
      sivae evaluate runs/8gaussians-seed0
      sivae evaluate runs/8gaussians-seed0 --seed 1 --json
      sivae evaluate runs/cifar10-seed0 --fid-weights weights-inception-2015-12-05-6726825d.pth
      sivae evaluate imported --data cifar-10-python.tar.gz
    """

    run: Annotated[Positional[Path | None], one(Path, "RUN"), _RUN] = None
    seed: Annotated[Whole, arg(help="Of the metrics' samples.", help_behavior_hint="(default: the run's)")] = None
    device: Annotated[Text, arg(help="Where to compute.", help_behavior_hint="(default: the run's)")] = None
    data: Annotated[
        Path | None, one(Path, "PATH"), arg(help="The images to measure on.", help_behavior_hint="(default: the run's)")
    ] = None
    fid_weights: Annotated[Path | None, one(Path, "FILE"), arg(help=_FID, help_behavior_hint="")] = None
    fid_count: Annotated[
        Whole, arg(help="Images at most that FID and KID compare.", help_behavior_hint="(default: 50000)")
    ] = None
    lpips_weights: Annotated[
        tuple[Any, ...] | None, several(Path, "VGG LINEAR"), arg(help=_LPIPS, help_behavior_hint="")
    ] = None
    json: Annotated[FlagCreatePairsOff[bool], arg(help="Print JSON.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Evaluate, and print a table or JSON."""
    if arguments.run is None:
        raise RunFolderError("name the run's folder, as sivae train printed it; runs/8gaussians-seed0, for instance")
    from sivae.training.measuring import evaluate

    result = evaluate(
        arguments.run,
        seed=arguments.seed,
        device=arguments.device,
        data=arguments.data,
        fid_weights=arguments.fid_weights,
        fid_count=arguments.fid_count or 50_000,
        lpips_weights=_pair(arguments.lpips_weights),
        notice=lambda text: print(f"sivae: {text}", file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from sivae.cli.tables import metrics_table

    metrics = {key: value for key, value in result.items() if key not in ("step", "seed")}
    step = f", step {result['step']:,}" if "step" in result else ""
    title = f"{arguments.run.name}{step}, seed {result['seed']}"
    Console(highlight=False).print(metrics_table(title, metrics))


def _pair(files: tuple[Path, ...] | None) -> tuple[Path, Path] | None:
    if files is None:
        return None
    if len(files) != 2:
        raise ConfigError(f"--lpips-weights: got {len(files)} files, expected two: VGG-16's weights and LPIPS' own")
    return files[0], files[1]
