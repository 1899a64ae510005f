"""`sivae info`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg


@dataclass
class Arguments:
    """Show versions, devices, threads, and where each backend of the fused ops runs or why it does not.

    examples:
      sivae info
      sivae info --json
    """

    json: Annotated[FlagCreatePairsOff[bool], arg(help="Print JSON.", help_behavior_hint="")] = False


def run(arguments: Arguments) -> None:
    """Print what this machine has to offer."""
    from sivae.machine import machine

    facts = machine()
    print(json.dumps(facts, indent=2) if arguments.json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{name:<9}{version}" for name, version in facts["versions"].items()]
    lines += [f"{'devices':<9}{', '.join(f'{name} ({words})' for name, words in facts['devices'].items())}"]
    lines += [f"{'threads':<9}{facts['threads']}", "ops backends"]
    for backend, devices in facts["ops"].items():
        for device, reason in devices.items():
            lines.append(f"  {backend:<11}{device:<6}{'available' if reason is None else f'missing: {reason}'}")
    if facts["native"] is not None:
        lines += ["native build", *(f"  {name:<14}{words}" for name, words in facts["native"].items())]
    return "\n".join(lines)
