"""The suite's options: of a run, of a profile, of a report."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.cases import DEFAULT_DTYPES, DEFAULT_NAMES, DTYPES, NAMES, OF_IMAGES
from sivae.errors import ConfigError

RESULTS = Path(__file__).parent / "results"
REPORT, PROFILE = "report", "profile"  # what the first word may ask for instead of a run
RUN = "run"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parse(words: Sequence[str], program: str) -> argparse.Namespace:
    """The options, whose `verb` is `REPORT` or `PROFILE` where the first word is, else `RUN`.

    Args:
        words: without the program's name.
        program: how the user called it.

    Raises:
        ConfigError: the words cannot be understood; the message says what is known.
        SystemExit: help was asked for, and printed.
    """
    parsers = {REPORT: _report_parser, PROFILE: _profile_parser}
    verb = words[0] if words and words[0] in parsers else RUN
    parser = parsers.get(verb, _run_parser)(program)
    options = parser.parse_args(words if verb == RUN else words[1:], argparse.Namespace(verb=verb))
    options.command = " ".join([program, *words])
    return options


def _run_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Time the fused ops and the training step against plain PyTorch and torch.compile, in the same process\n"
            "and rounds. Appends rows to OUT/DEVICE/DATE-COMMIT.jsonl and prints tables of medians."
        ),
        epilog=(
            "examples:\n"
            f"  {program} --quick\n"
            f"  {program} --ops reconstruction_error loss --dtype bfloat16\n"
            f"  {program} --ops image_step             training iterations on images\n"
            f"  {program} --ops style_step             the same with the style model\n"
            f"  {program} --device cuda --out results\n"
            f"  {program} profile             what an iteration's time goes into\n"
            f"  {program} report results      plots and a page from the rows in a folder"
        ),
    )
    parser.add_argument(
        "--ops",
        nargs="+",
        type=_op,
        metavar="OP",
        default=list(DEFAULT_NAMES),
        help=f"of {', '.join(NAMES)}; default: all but reparameterize, gaussian_kl, image_step and style_step",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes, float32 only, few rounds")
    _add_place(parser)
    _add_sides(parser)
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=list(DTYPES),
        metavar="DTYPE",
        help=f"of {', '.join(DTYPES)}; default: {' '.join(DEFAULT_DTYPES)}",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=_at_least_1, metavar="N", help="samples of each variant in each case")
    parser.add_argument(
        "--minutes", type=_above_0, metavar="X", help="begin nothing new after so long; default: no limit"
    )
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", default=RESULTS, help="default: benchmarks/results")
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=_at_least_1, metavar="N", help="of the CPU; default: torch's choice")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sides",
        nargs="+",
        type=_at_least_1,
        metavar="N",
        help="of iterations on images only those at these resolutions; default: all that the device has cases for",
    )


def _profile_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{program} profile",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Say what the time of a training iteration on images goes into, for the plain loop and for ours: the ten\n"
            "kernels (on a CPU: torch ops) that take most of it, and the time by kinds. Prints tables and writes them\n"
            "to OUT/DEVICE/DATE-COMMIT-profile.md."
        ),
        epilog=f"examples:\n  {program} profile --ops image_step --sides 32",
    )
    parser.add_argument(
        "--ops", nargs="+", choices=OF_IMAGES, default=list(OF_IMAGES), help=f"of {', '.join(OF_IMAGES)}; default: all"
    )
    _add_place(parser)
    _add_sides(parser)
    return parser


def _report_parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{program} report",
        description="Draw plots and write a page of tables (report.md) from the newest rows, beside them.",
        epilog=f"examples: {program} report benchmarks/results",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder of results, or of one device")
    return parser


def _op(word: str) -> str:
    if word not in NAMES:
        close = difflib.get_close_matches(word, NAMES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise argparse.ArgumentTypeError(f"{word!r} is not measured; {hint}there are {', '.join(NAMES)}")
    return word


def _above_0(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return value


def _at_least_1(word: str) -> int:
    try:
        value = int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
