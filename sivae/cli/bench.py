"""`sivae bench`: the throughput suite, whose code and options lie in `benchmarks/` beside the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sivae
from sivae.errors import ConfigError


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The suite's own options, those of `python -m benchmarks`.

    Raises:
        ConfigError: the suite is not there, or the words cannot be understood.
    """
    options: argparse.Namespace = _suite().parse(words, "sivae bench")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, or report."""
    _suite().perform(options)


def _suite() -> Any:
    checkout = Path(sivae.__file__).resolve().parents[1]
    if not (checkout / "benchmarks" / "command.py").is_file():
        raise ConfigError(
            "the suite is no part of the installed package; run it from a checkout: git clone the repository, then "
            "make venv and .venv/bin/sivae bench in it, or python -m benchmarks with any Python that has torch"
        )
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module("benchmarks.command")
