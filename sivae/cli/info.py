"""`sivae info`: show what this machine has for training."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sivae.cli.parsing import Parser


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        "Show versions, devices, threads, and the devices of each backend of the fused ops, or why it is missing.",
        ["sivae info", "sivae info --json"],
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(given: argparse.Namespace) -> None:
    """Print the facts of this machine."""
    from sivae.machine import machine

    facts = machine()
    print(json.dumps(facts, indent=2) if given.json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{name:<9}{version}" for name, version in facts["versions"].items()]
    lines += [f"package  {facts['distribution']}"]
    lines += [f"{'devices':<9}{', '.join(f'{name} ({words})' for name, words in facts['devices'].items())}"]
    for name, has in facts["multiplies_bfloat16"].items():
        lines.append(f"{'bfloat16':<9}{name}: {'' if has else 'not '}multiplied in hardware")
    lines += [f"{'threads':<9}{facts['threads']}", "ops backends"]
    for backend, devices in facts["ops"].items():
        for device, reason in devices.items():
            lines.append(f"  {backend:<11}{device:<6}{'available' if reason is None else f'missing: {reason}'}")
    if facts["native"] is not None:
        lines += ["native build", *(f"  {name:<14}{words}" for name, words in facts["native"].items())]
    return "\n".join(lines)
