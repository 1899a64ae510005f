"""The options of a run, of a profile and of a report. Imports no torch, so that help appears at once."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.names import DEFAULT_DTYPES, DEFAULT_NAMES, DTYPES, NAMES, OF_IMAGES
from sivae.cli.generation import add_device
from sivae.cli.parsing import Parser, at_least, positive

RESULTS = Path(__file__).parent / "results"
RUN, PROFILE, REPORT = "run", "profile", "report"


def parse(words: Sequence[str], program: str) -> argparse.Namespace:
    """Parse the words after the program's name.

    Args:
        words: start with "profile" or "report" for these, else they are options of a run.
        program: how the user called it.

    Returns:
        The options, with `verb` (`RUN`, `PROFILE` or `REPORT`) and `command` (the whole line).

    Raises:
        UsageError: the words cannot be understood.
        SystemExit: help was asked for, and printed.
    """
    parsers = {REPORT: _report_parser, PROFILE: _profile_parser}
    verb = words[0] if words and words[0] in parsers else RUN
    parser = parsers.get(verb, _run_parser)(program)
    options = parser.parse(words if verb == RUN else words[1:])
    options.verb, options.command = verb, " ".join([program, *words])
    return options


def _run_parser(program: str) -> Parser:
    parser = Parser(program)
    parser.describe(
        """
        Time the fused ops and the training step against plain PyTorch and torch.compile, in the same process and
        rounds. Appends rows to OUT/DEVICE/DATE-COMMIT.jsonl and prints tables of medians with their spread.
        """,
        [
            f"{program} --quick",
            f"{program} --ops reconstruction_error loss --dtype bfloat16",
            f"{program} --ops image_step             training iterations on images",
            f"{program} --ops style_step             the same with the style model",
            f"{program} --device cuda --out results",
            f"{program} profile                      what takes the time of an iteration",
            f"{program} report results               plots and a page from the rows in a folder",
        ],
    )
    parser.add_argument(
        "--ops",
        nargs="+",
        type=_op,
        metavar="OP",
        default=list(DEFAULT_NAMES),
        help=f"What to time: {', '.join(NAMES)}.",
    )
    parser.add_argument("--quick", action="store_true", help="Time fewer shapes, in float32 only, with few rounds.")
    _add_place(parser)
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        metavar="DTYPE",
        help=f"Data types of the ops' inputs: {', '.join(DTYPES)}. (default: {' '.join(DEFAULT_DTYPES)})",
    )
    parser.add_argument("--no-compile", action="store_true", help="Leave torch.compile out.")
    parser.add_argument("--rounds", type=at_least(1), metavar="N", help="Samples of each variant in each case.")
    parser.add_argument(
        "--minutes", type=positive, metavar="X", help="Start no new case after this time. (default: no limit)"
    )
    return parser


def _profile_parser(program: str) -> Parser:
    parser = Parser(f"{program} profile")
    parser.describe(
        """
        Profile a training iteration on images, with the plain loop and with the package's step: the ten kernels (on a
        CPU: torch ops) that take most of the time, and the time by kinds. Prints tables and writes them to
        OUT/DEVICE/DATE-COMMIT-profile.md.
        """,
        [f"{program} profile --ops image_step --sides 32"],
    )
    parser.add_argument(
        "--ops",
        nargs="+",
        choices=OF_IMAGES,
        metavar="OP",
        default=list(OF_IMAGES),
        help=f"Iterations to profile: {', '.join(OF_IMAGES)}. (default: all)",
    )
    _add_place(parser)
    return parser


def _report_parser(program: str) -> Parser:
    parser = Parser(f"{program} report")
    parser.describe(
        "Draw plots and write a page of tables (report.md) from the newest rows, beside them.",
        [f"{program} report benchmarks/results"],
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="A folder of results, or the folder of one device in it."
    )
    parser.require("folder", "name the folder of results")
    return parser


def _add_place(parser: Parser) -> None:
    """Add --out, --device, --threads and --sides."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=RESULTS,
        help="Folder of the results. (default: benchmarks/results of the checkout)",
    )
    add_device(parser)
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads. (default: torch's choice)")
    parser.add_argument(
        "--sides",
        nargs="+",
        type=at_least(1),
        metavar="N",
        help="Time iterations on images at these resolutions only. (default: all for this device)",
    )


def _op(word: str) -> str:
    if word not in NAMES:
        close = difflib.get_close_matches(word, NAMES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise argparse.ArgumentTypeError(f"{word!r} is not measured; {hint}there are {', '.join(NAMES)}")
    return word
