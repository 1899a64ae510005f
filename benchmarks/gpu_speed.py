"""How fast models train on a GPU, in one command: `make gpu-speed OUT=DIR`, or `python -m benchmarks.gpu_speed DIR`.

Builds as `make gpu-check` does, times training iterations of the convolutional and of the style-based model at every
resolution against plain PyTorch, says what their time goes into, and times those at small resolutions under
torch.compile too, which takes long to compile. What is not begun when the time is over is left out, and its log says
so; `--only STAGE ...` makes up for it. Rows, profile and report are in DIR/results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.stages import MINUTES_LEFT, Stage, build_stages, perform_plan, show_reports

MINUTES = 9.0  # for all stages together
COMPILED_SIDES = ("32", "64")  # the smallest of both models
PROFILED_SIDES = ("32", "256")


def plan(out: Path) -> list[Stage]:
    """The stages, in order.

    Args:
        out: where their results go.
    """
    suite, results = [sys.executable, "-m", "benchmarks"], str(out / "results")
    where = ["--device", "cuda", "--out", results]

    def timed(*options: str) -> list[str]:
        return [*suite, *where, "--minutes", MINUTES_LEFT, *options]

    return [
        *build_stages(),
        Stage("style", timed("--no-compile", "--ops", "style_step"), 180),
        Stage("conv", timed("--no-compile", "--ops", "image_step"), 180),
        Stage("profile", [*suite, "profile", *where, "--sides", *PROFILED_SIDES], 80, reserved=60),
        Stage("compiled", timed("--ops", "image_step", "style_step", "--sides", *COMPILED_SIDES), 240, least=100),
        Stage("report", [*suite, "report", results], 30, reserved=30),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and print a table.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_speed", description=str(__doc__).split("\n\n")[0])
    return perform_plan(parser, lambda out, _: plan(out), lambda _: MINUTES, arguments, show_reports)


if __name__ == "__main__":
    sys.exit(main())
