"""The command line of `python -m benchmarks.gpu`: run the stages of a plan and print a table of how each ended.

Imports neither torch nor any other package, so that it starts where nothing is built yet.

Exit codes: 0 done; 1 a stage failed or was too slow; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import plans
from benchmarks.gpu.plans import CHECK, SPEED, TRAIN, Plan
from benchmarks.gpu.stages import command_line, perform
from sivae.cli.parsing import Parser, positive
from sivae.errors import SivaeError

PROGRAM = "python -m benchmarks.gpu"


def main(words: Sequence[str]) -> int:
    """Parse the words and run the stages.

    Returns:
        The exit code.
    """
    try:
        options = _parser().parse(words)
        plan = _plan(options)
    except SivaeError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.exit_code
    if options.dry_run:
        for stage in plan.stages:
            print(f"{stage.name} (at most {stage.seconds:.0f} s): {command_line(stage)}")
        return 0
    return run(plan, options.out.resolve())


def _parser() -> Parser:
    parser = Parser(PROGRAM)
    parser.describe(
        """
        Build with CUDA and then run one of three plans, in less than ten minutes. A stage that fails does not stop the
        next ones. Each stage writes its output to DIR/STAGE.log.

          check    tests, memory errors and races (compute-sanitizer), throughput of the ops and of a 2D iteration
          speed    throughput of iterations on images, up to 1024x1024, and what their time goes into
          train    a training of some minutes in two processes: the second continues the run of the first
        """,
        [
            f"{PROGRAM} check out",
            f"{PROGRAM} speed out --only style report",
            f"{PROGRAM} train out --data cifar-10-python.tar.gz --minutes 20",
        ],
    )
    parser.add_argument("plan", nargs="?", choices=(CHECK, SPEED, TRAIN), metavar="PLAN", help="check, speed or train")
    parser.add_argument("out", nargs="?", type=Path, metavar="DIR", help="Folder of the logs and results.")
    parser.require("plan", f"name a plan: {CHECK}, {SPEED} or {TRAIN}")
    parser.require("out", "name a folder for logs and results")
    parser.add_argument("--dry-run", action="store_true", help="Print the stages and their commands; run nothing.")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="Run these stages only; --dry-run lists them.")
    parser.add_argument("--data", type=Path, metavar="PATH", help="train: CIFAR-10, as its archive or a folder.")
    parser.add_argument(
        "--minutes",
        type=positive,
        metavar="X",
        help=f"train: minutes of training. (default: {plans.TRAINING_MINUTES:g})",
    )
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    """The plan that the options choose.

    Raises:
        UsageError: an option does not belong to the plan, or a stage does not.
    """
    error, out = _parser().error, options.out.resolve()
    if options.plan == TRAIN:
        if options.data is None:
            error("train needs --data PATH with the images of CIFAR-10")
        plan = plans.train(out, str(options.data.resolve()), options.minutes or plans.TRAINING_MINUTES)
    else:
        for name in ("data", "minutes"):
            if getattr(options, name) is not None:
                error(f"--{name} is an option of train, not of {options.plan}")
        plan = plans.check(out) if options.plan == CHECK else plans.speed(out)
    names = [stage.name for stage in plan.stages]
    for name in options.only or ():
        if name not in names:
            error(f"there is no stage {name!r}; {options.plan} has {', '.join(names)}")
    if out.exists() and not out.is_dir():
        error(f"{out} is a file; name a folder")
    return plan.only(options.only) if options.only else plan


def run(plan: Plan, out: Path) -> int:
    """Run a plan's stages; print its pages and a table of outcomes.

    Returns:
        The exit code: 1 if a stage failed or was too slow.
    """
    outcomes = perform(plan.stages, out, plan.minutes)
    for page in sorted(out.glob(plan.pages)):
        print(_beginning(page.read_text()))
    width = max((len(outcome.stage) for outcome in outcomes), default=0)
    for outcome in outcomes:
        print(f"{outcome.stage:<{width}} {outcome.result:<9} {outcome.seconds:6.0f} s  {outcome.remark}")
    failed = [outcome.stage for outcome in outcomes if outcome.result not in ("passed", "left out")]
    print(f"failed: {', '.join(failed)}" if failed else f"all well; {out}")
    return 1 if failed else 0


def _beginning(page: str) -> str:
    """The first section of a page with sections, else all of it."""
    return page.split("\n## ")[1] if "\n## " in page else page
