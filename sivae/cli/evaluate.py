"""`sivae evaluate`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Text, Whole, one
from sivae.training.errors import RunFolderError

_RUN = arg(help="The run's folder.", help_behavior_hint="", metavar="RUN")


@dataclass
class Arguments:
    """Compute a run's metrics again from its last whole checkpoint. Writes nothing.

    With the run's own seed, which is the default, these are the figures of the training's end.

    examples:
      sivae evaluate runs/8gaussians-seed0
      sivae evaluate runs/8gaussians-seed0 --seed 1 --json
    """

    run: Annotated[Positional[Path | None], one(Path, "RUN"), _RUN] = None
    seed: Annotated[Whole, arg(help="Of the metrics' samples.", help_behavior_hint="(default: the run's)")] = None
    device: Annotated[Text, arg(help="Where to compute.", help_behavior_hint="(default: the run's)")] = None
    json: Annotated[FlagCreatePairsOff[bool], arg(help="Print JSON.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Evaluate, and print a table or JSON."""
    if arguments.run is None:
        raise RunFolderError("name the run's folder, as sivae train printed it; runs/8gaussians-seed0, for instance")
    from sivae.training.run import evaluate

    result = evaluate(
        arguments.run,
        seed=arguments.seed,
        device=arguments.device,
        notice=lambda text: print(f"sivae: {text}", file=sys.stderr),
    )
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from sivae.cli.tables import metrics_table

    metrics = {key: value for key, value in result.items() if key not in ("step", "seed")}
    title = f"{arguments.run.name}, step {result['step']:,}, seed {result['seed']}"
    Console(highlight=False).print(metrics_table(title, metrics))
