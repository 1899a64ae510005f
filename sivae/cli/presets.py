"""`sivae presets`: list what `sivae train` can train."""

from __future__ import annotations

import argparse
import json

from sivae.cli.parsing import Parser
from sivae.settings.presets import PRESETS


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        "List the presets of sivae train: what each learns, its settings, and whether they are published or ours.",
        ["sivae presets", "sivae presets --json"],
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def _shown(weight: float | str) -> str:
    return weight if isinstance(weight, str) else f"{weight:g}"


def run(given: argparse.Namespace) -> None:
    """Print the presets."""
    if given.json:
        print(json.dumps({name: preset.facts() for name, preset in PRESETS.items()}, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("preset", "learns", "beta rec, kl, neg", "source"):
        table.add_column(column, no_wrap=column != "learns")
    for name, preset in PRESETS.items():
        weights = (_shown(preset.config.value(key)) for key in ("beta_rec", "beta_kl", "beta_neg"))
        table.add_row(name, preset.summary, ", ".join(weights), preset.source)
    console = Console(highlight=False)
    console.print(table)
    for name, preset in PRESETS.items():
        if preset.note:
            console.print(f"{name}: {preset.note}", soft_wrap=True)
