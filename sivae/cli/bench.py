"""`sivae bench`: run the benchmarks, whose code and options are in `benchmarks/` beside the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import sivae
from sivae.errors import ConfigError


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the options of `python -m benchmarks`.

    Raises:
        ConfigError: the folder of the benchmarks does not exist.
        UsageError: the words cannot be understood.
    """
    options: argparse.Namespace = _benchmarks("options").parse(words, "sivae bench")
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, profile or report."""
    _benchmarks("command").perform(options)


def _benchmarks(module: str) -> ModuleType:
    checkout = Path(sivae.__file__).resolve().parents[1]
    if not (checkout / "benchmarks" / "options.py").is_file():
        raise ConfigError(
            "the benchmarks are not part of the installed package; run it from a checkout: git clone the repository, "
            "then make venv and .venv/bin/sivae bench in it, or python -m benchmarks with any Python that has torch"
        )
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return importlib.import_module(f"benchmarks.{module}")
