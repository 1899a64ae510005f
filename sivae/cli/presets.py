"""`sivae presets`: list what `sivae train` can train."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sivae.cli.parsing import Parser
from sivae.training.presets import PRESETS, Preset


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        "List the presets of sivae train: what each learns, its settings, and whether they are published or ours.",
        ["sivae presets", "sivae presets --json"],
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(given: argparse.Namespace) -> None:
    """Print the presets."""
    if given.json:
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
