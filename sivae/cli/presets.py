"""`sivae presets`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from sivae.training.presets import PRESETS, Preset


@dataclass
class Arguments:
    """List what sivae train can learn: the settings of each preset, and whether they were published or are ours.

    examples:
      sivae presets
      sivae presets --json
    """

    json: Annotated[FlagCreatePairsOff[bool], arg(help="Print JSON.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Print the presets."""
    if arguments.json:
        print(json.dumps({name: _facts(preset) for name, preset in PRESETS.items()}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("preset", "learns", "beta rec, kl, neg", "source"):
        table.add_column(column, no_wrap=column != "learns")
    for name, preset in PRESETS.items():
        weights = f"{preset.beta_rec:g}, {preset.beta_kl:g}, {preset.beta_neg:g}"
        table.add_row(name, preset.summary, weights, preset.source)
    console = Console(highlight=False)
    console.print(table)
    for name, preset in PRESETS.items():
        if preset.note:
            console.print(f"{name}: {preset.note}", soft_wrap=True)


def _facts(preset: Preset) -> dict[str, Any]:
    return {
        "summary": preset.summary,
        "source": preset.source,
        "data": dict(preset.data),
        "model": dict(preset.model),
        "beta_rec": preset.beta_rec,
        "intro_beta_rec": preset.intro_beta_rec,
        "beta_kl": preset.beta_kl,
        "beta_neg": preset.beta_neg,
        "scale": preset.scale,
        "run": dict(preset.run),
        "growth": dict(preset.growth),
        "note": preset.note,
    }
