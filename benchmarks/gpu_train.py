"""A real training on a GPU, in one command: `make gpu-train OUT=DIR DATA=PATH`.

Or `python -m benchmarks.gpu_train DIR --data PATH`. Builds as `make gpu-check` does, trains CIFAR-10's model with the
published settings in bfloat16 for some minutes, in two processes of which the second goes on with what the first began,
and writes DIR/training/report.md with the run beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.stages import Stage, build_stages, perform_plan

MINUTES = 6.0  # of training
_BESIDES = 3.5  # minutes for building, and for all that a process does beyond its half
_STARTING = 60  # seconds of these that one process may take: reading images, the pilot, metrics and pictures


def plan(out: Path, data: str, minutes: float = MINUTES) -> list[Stage]:
    """The stages, in order.

    Args:
        out: where their results go.
        data: CIFAR-10's images.
        minutes: for both processes together.
    """
    program = [sys.executable, "-m", "benchmarks.timed_training"]
    training, limit = str(out / "training"), 30 * minutes + _STARTING
    return [
        *build_stages(),
        Stage("first", [*program, "first", training, "--data", data, "--minutes", f"{minutes:g}"], limit),
        Stage("second", [*program, "second", training], limit, reserved=30 * minutes),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and print a table.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-10: a release, or a folder or archive")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of training; default: {MINUTES:g}")

    def planned(out: Path, options: argparse.Namespace) -> list[Stage]:
        return plan(out, str(Path(options.data).resolve()), options.minutes)

    return perform_plan(parser, planned, lambda options: options.minutes + _BESIDES, arguments, _show)


def _show(out: Path) -> None:
    for page in out.glob("training/report.md"):
        print(page.read_text())


if __name__ == "__main__":
    sys.exit(main())
