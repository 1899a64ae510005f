"""The parser of the verbs: values, errors of one line, and help that reads well."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sivae.cli.parsing import Parser, at_least, data_path, file, number, positive, seed, switch, whole
from sivae.errors import UsageError

HELP = """\
usage: sivae draw [options] SUBJECT [FRIEND ...] --out FILE.png

Draw a picture with a pen.

This is 100 % true.

positional arguments:
  SUBJECT             What to draw.
  FRIEND              Others in the picture.

options:
  -h, --help          Show this help and exit.
  --count N           How many. (default: 1,000)
  --colors X [X ...]  Of the pen. (default: 0.5 1e-08)
  --frame {on,off}    At 5 % of the width. (default: on)
  --pen {ink,chalk}   Kind of pen. (default: the cat's)
  --quick             Draw fast.

the file:
  --out FILE.png      The picture.

examples:
  sivae draw cat --count 1,000      # exactly   so
"""


@pytest.fixture
def parser() -> Parser:
    parser = Parser("sivae draw")
    parser.describe(
        """
        Draw a picture
        with a pen.

        This is 100 % true.
        """,
        ["sivae draw cat --count 1,000      # exactly   so"],
    )
    parser.add_argument("subject", nargs="?", metavar="SUBJECT", help="What to draw.")
    parser.require("subject", "name what to draw")
    parser.add_argument("friends", nargs="*", metavar="FRIEND", help="Others in the picture.")
    parser.add_argument("--count", type=whole, default=1000, metavar="N", help="How many.")
    parser.add_argument("--colors", nargs="+", type=number, default=[0.5, 1e-8], metavar="X", help="Of the pen.")
    parser.add_argument("--frame", type=switch, default=True, metavar="{on,off}", help="At 5 % of the width.")
    parser.add_argument("--pen", choices=("ink", "chalk"), help="Kind of pen. (default: the cat's)")
    parser.add_argument("--quick", action="store_true", help="Draw fast.")
    group = parser.add_argument_group("the file")
    group.add_argument("--out", type=file(".png"), metavar="FILE.png", help="The picture.")
    parser.require("out", "name the picture by --out")
    return parser


def test_options_stand_before_between_and_after_the_arguments(parser: Parser) -> None:
    words = "--count 1,234 cat --out a.PNG dog --frame off bird --colors -1 2e3 --quick"
    given = parser.parse(words.split())
    expected = {"subject": "cat", "friends": ["dog", "bird"], "count": 1234, "colors": [-1.0, 2000.0], "frame": False}
    assert vars(given) == {**expected, "pen": None, "quick": True, "out": Path("a.PNG")}


def test_what_is_not_given_has_its_default(parser: Parser) -> None:
    given = parser.parse(["cat", "--out", "a.png"])
    expected = {"subject": "cat", "friends": [], "count": 1000, "colors": [0.5, 1e-8], "frame": True}
    assert vars(given) == {**expected, "pen": None, "quick": False, "out": Path("a.png")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name what to draw; see sivae draw --help"),
        ("cat", "name the picture by --out; see sivae draw --help"),
        ("cat --cuont 3", "unknown: --cuont 3; did you mean --count? see sivae draw --help"),
        ("cat --cou=3", "unknown: --cou=3; did you mean --count? see sivae draw --help"),
        ("cat --output a.png", "unknown: --output a.png; did you mean --out? see sivae draw --help"),
        ("cat --zzz", "unknown: --zzz; see sivae draw --help"),
        ("cat --count 1.5", "--count: '1.5' is not a whole number; see sivae draw --help"),
        ("cat --count", "--count: expected one argument; see sivae draw --help"),
        ("cat --colors", "--colors: expected at least one argument; see sivae draw --help"),
        ("cat --colors 1 red", "--colors: 'red' is not a number; see sivae draw --help"),
        ("cat --frame yes", "--frame: 'yes' is neither on nor off; see sivae draw --help"),
        ("cat --out a.jpg", "--out: 'a.jpg' does not end in .png; see sivae draw --help"),
        ("cat --quick=1", "--quick: ignored explicit argument '1'; see sivae draw --help"),
    ],
)
def test_a_mistake_is_named_in_one_line(parser: Parser, words: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parser.parse(words.split())
    assert (str(raised.value), raised.value.exit_code) == (message, 2)


def test_a_choice_that_does_not_exist_is_answered_by_those_that_do(parser: Parser) -> None:
    with pytest.raises(UsageError, match=r"--pen: invalid choice: 'oil' .*ink.*chalk.*; see sivae draw --help"):
        parser.parse(["cat", "--pen", "oil"])


@pytest.mark.parametrize(
    ("parse", "word", "message"),
    [
        (at_least(2), "1", "1 is too small; expected at least 2"),
        (at_least(2), "two", "'two' is not a whole number"),
        (positive, "0", "'0' is not a number above 0"),
        (positive, "nan", "'nan' is not a number above 0"),
        (positive, "soon", "'soon' is not a number"),
        (seed, "-1", "-1 is not a seed; expected 0 to 2^63 - 1"),
        (seed, str(1 << 63), f"{1 << 63} is not a seed; expected 0 to 2^63 - 1"),
    ],
)
def test_a_value_out_of_range_is_refused(parse: object, word: str, message: str) -> None:
    assert callable(parse)
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        parse(word)
    assert str(raised.value) == message


def test_help_wraps_text_and_keeps_examples(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert parser.format_help() == HELP


def test_a_folder_is_not_taken_for_a_built_in_set_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("shapes", "shapes:chair", "./shapes", "./faces")
    assert [str(data_path(word)) for word in words] == ["shapes", "shapes:chair", str(tmp_path / "shapes"), "faces"]
