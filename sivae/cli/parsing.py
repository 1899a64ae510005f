"""The parser of every verb: argparse, with errors of one line, hints for misspelt options, and readable help.

It imports neither torch nor rich, so that `--help` appears at once.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sivae.data.clouds.builtin import is_named
from sivae.data.images.crop import CROP_VALUES, CROP_WORDS, Crop, parse_crop
from sivae.errors import DataError, UsageError

_WIDEST = 120  # columns; longer lines are hard to read

# What other programs call options that have another name here.
OTHER_NAMES = {
    "--lr": "--learning-rate",
    "--bs": "--batch-size",
    "--batch": "--batch-size",
    "--gpu": "--device",
    "--dataset": "--data",
    "--data-dir": "--data",
    "--output": "--out",
    "--outdir": "--out",
    "--log-dir": "--out",
    "--num-workers": "--workers",
    "--image-size": "--resolution",
    "--latent-dim": "--z-dim",
    "--zdim": "--z-dim",
    "--ema": "--ema-half-life",
    "--amp": "--precision",
    "--bf16": "--precision",
    "--fp16": "--precision",
    "--num-epochs": "--epochs",
    "--iterations": "--steps",
    "--checkpoint": "--resume",
    "--hflip": "--flip",
}


class Parser(argparse.ArgumentParser):
    """The options of one verb.

    A verb adds them as with argparse: `add_argument`, and `add_argument_group` for a group with a title. Help texts
    are printed as they are, a percent sign included. A default that is neither None nor False is added to its help,
    unless the text has "(default: ...)" already.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(
            prog,
            formatter_class=_Formatter,
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")
        self._required: dict[str, str] = {}

    def describe(self, text: str, examples: Sequence[str]) -> None:
        """Set what help shows above the options, in paragraphs, and below them, one line for each example."""
        self.description = text
        self.epilog = "\n".join(["examples:", *(f"  {example}" for example in examples)])

    def require(self, name: str, message: str) -> None:
        """Refuse a command line without this argument (its name in the result) with a message that says what to do.

        An argument without dashes is added with `nargs="?"`.
        """
        self._required[name] = message

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of all arguments; options may stand before, between and after the others.

        Raises:
            UsageError: the words cannot be understood.
            SystemExit: help was asked for, and printed.
        """
        if {"-h", "--help"} & set(words):
            self.print_help()
            raise SystemExit(0)
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        if twice := next((option for option in options if options.count(option) > 1), None):
            self.error(f"{twice} is given twice")
        try:
            given, unknown = self.parse_known_intermixed_args(words)
        except argparse.ArgumentError as error:
            self.error(f"{error.argument_name}: {error.message}")
        if unknown and not any(word.startswith("-") for word in unknown):
            taken = " ".join(str(action.metavar) for action in self.actions() if not action.option_strings)
            known = {option for action in self.actions() for option in action.option_strings}
            data = "; data is named by --data PATH" if "--data" in known else ""
            self.error(f"one argument too many: {unknown[0]}; expected {taken or 'options only'}{data}")
        if unknown:
            self.error(f"unknown: {' '.join(unknown)}{self._hint(unknown)}")
        for name, message in self._required.items():
            if getattr(given, name) is None:
                self.error(message)
        return given

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError`, whose message ends with where the help is."""
        raise UsageError(f"{message}{'' if message.endswith('?') else ';'} see {self.prog} --help")

    def format_help(self) -> str:
        """The help, whose usage line shows only what has to be given and what has no dashes."""
        words = ["%(prog)s [options]"]
        for action in self.actions():
            word = " ".join([*action.option_strings[-1:], str(action.metavar)])
            if action.dest in self._required:
                words.append(word)
            elif not action.option_strings:
                words.append(f"[{word} ...]" if action.nargs == "*" else f"[{word}]")
        self.usage = " ".join(words)
        return super().format_help()

    def actions(self) -> list[argparse.Action]:
        """All arguments, in the order of the help."""
        return list(self._actions)

    def _hint(self, unknown: Sequence[str]) -> str:
        import difflib

        options = [option for action in self.actions() for option in action.option_strings]
        for word in unknown:
            other = OTHER_NAMES.get(word.split("=")[0])
            if other in options:
                return f"; did you mean {other}?"
            close = difflib.get_close_matches(word.split("=")[0], options, n=1, cutoff=0.75)
            if word.startswith("--") and close:
                return f"; did you mean {close[0]}?"
        return ""


class _Formatter(argparse.HelpFormatter):
    """Wraps text to the terminal's width, keeps indented lines as they are, and adds defaults."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, _WIDEST) - 2
        super().__init__(prog, max_help_position=max(24, width // 4), width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        def filled(paragraph: str) -> str:
            lines = paragraph.splitlines()
            if any(line.startswith(" ") for line in lines):
                return "\n".join(textwrap.indent(line, indent) for line in lines)
            return textwrap.fill(" ".join(lines), width, initial_indent=indent, subsequent_indent=indent)

        return "\n\n".join(filled(paragraph) for paragraph in textwrap.dedent(text).strip().split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        shown = default is not None and default is not False and default is not argparse.SUPPRESS
        if shown and "(default" not in text:
            text = f"{text} (default: {_shown(default)})"
        return text.replace("%", "%%")


def _shown(default: object) -> str:
    """A default, as it would be written on the command line."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int):
        return f"{default:,}"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, list | tuple):
        return " ".join(map(_shown, default))
    return str(default)


def whole(word: str) -> int:
    """A whole number, with or without thousands separators."""
    try:
        return int(word.replace(",", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None


def at_least(least: int) -> Callable[[str], int]:
    """The type of a whole number with a lower limit."""

    def limited(word: str) -> int:
        value = whole(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; expected at least {least}")
        return value

    return limited


def seed(word: str) -> int:
    """A seed of random numbers: 0 to 2^63 - 1."""
    value = whole(word)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{value} is not a seed; expected 0 to 2^63 - 1")
    return value


def number(word: str) -> float:
    """A number."""
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number") from None


def positive(word: str) -> float:
    """A number above 0."""
    value = number(word)
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return value


def switch(word: str) -> bool:
    """on or off."""
    if word not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither on nor off")
    return word == "on"


def add_crop(parser: Parser, default: str = "as in the run's training, else center") -> None:
    """Add --crop, with words for its default; None stands for the default in the result."""

    def crop(word: str) -> Crop:
        try:
            return parse_crop(word)
        except DataError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--crop",
        type=crop,
        metavar=CROP_VALUES,
        help=f"Part to cut out of each image first: {CROP_WORDS}. (default: {default})",
    )


def data_path(word: str) -> Path:
    """The type of a path of data, or of the name of a built-in set. `./shapes` is a folder, not the set `shapes`."""
    path = Path(word)  # without the ./
    return path.absolute() if is_named(str(path)) and not is_named(word) else path


def file(ending: str) -> Callable[[str], Path]:
    """The type of the name of a file to write, which has this ending."""

    def with_ending(word: str) -> Path:
        if Path(word).suffix.lower() != ending:
            raise argparse.ArgumentTypeError(f"{word!r} does not end in {ending}")
        return Path(word)

    return with_ending
