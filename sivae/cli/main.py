"""The `sivae` command: finds the verb, parses its arguments, turns errors into one line and an exit code.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 and 143 stopped by SIGINT and SIGTERM.
torch is imported by the verb that needs it, so that help appears at once.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import sivae

VERBS = {
    "train": "train on a density, or go on with a run",
    "evaluate": "compute a run's metrics again, from its last checkpoint",
    "info": "show versions, devices and the backends of the fused ops",
}

_HELP = f"""\
usage: sivae [--version] [--help] VERB ...

Trains Soft-IntroVAEs, fast.

verbs:
{chr(10).join(f"  {verb:<10}{words}" for verb, words in VERBS.items())}

examples:
  sivae train 8gaussians                      30,000 iterations into runs/8gaussians-seed0
  sivae train rings --steps 3000 --seed 7     shorter; warm-up and rate steps scale with it
  sivae train --resume runs/rings-seed7       go on where a run stopped, exactly
  sivae evaluate runs/rings-seed7             its metrics, once more
  sivae info                                  what this machine has to offer

sivae VERB --help lists a verb's options. --debug, with any verb, shows where an error arose.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process where it fails.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode is no reason to fail
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if not given:
        _fail(f"name a verb: {', '.join(VERBS)}; see sivae --help", 2)
    verb = given[0]
    if verb in ("--help", "-h"):
        print(_HELP, end="")
        return
    if verb == "--version":
        print(f"sivae {sivae.__version__}")
        return
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)};"
        _fail(f"{verb!r} is not a verb; {hint} see sivae --help", 2)
    try:
        module = importlib.import_module(f"sivae.cli.{verb}")
        module.run(_parse(module.Arguments, verb, given[1:]))
    except Exception as error:
        from sivae.training.errors import SivaeError

        if debug:
            traceback.print_exc()
        if isinstance(error, SivaeError):
            _fail(str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError):
            _fail(f"{error}; install it, for instance by reinstalling sivae with its dependencies", 1)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}; check the path, its permissions and the space left", 1)
        if type(error).__name__ == "OutOfMemoryError":
            _fail("the device is out of memory; lower --batch-size, or choose another --device", 1)
        if debug:
            sys.exit(1)
        raise
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        _fail("stopped; a run that has a folder goes on with sivae train --resume DIR", 130)


def _parse(arguments_type: type, verb: str, arguments: list[str]) -> Any:
    import tyro

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(arguments_type, prog=f"sivae {verb}", args=arguments)
    except SystemExit as stop:
        if stop.code:
            _fail(f"{_one_line(printed.getvalue())}; see sivae {verb} --help", 2)
        raise


def _one_line(box: str) -> str:
    """What a box that tyro draws around an error says, and the option that it suggests."""
    paragraphs: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│ ")
        if text.startswith(("╭", "╰")) or (text and not text.strip("─-")):
            paragraphs.append([])
        elif text:
            paragraphs[-1].append(text)
    spoken = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    if "╭" not in box:  # drawn without a frame, the title is a paragraph of its own
        spoken = spoken[1:]
    if not spoken:
        return "the arguments cannot be understood"
    message = re.sub(r"^Error parsing (\S+): ", r"\1: ", spoken[0]).rstrip(".")
    message = message[0].lower() + message[1:]
    for text in spoken[1:]:
        suggestion = re.search(r"--[\w-]+", text)
        if text.startswith("Perhaps you meant") and suggestion:
            message += f"; did you mean {suggestion[0]}?"
    return message


def _fail(message: str, code: int) -> NoReturn:
    print(f"sivae: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
