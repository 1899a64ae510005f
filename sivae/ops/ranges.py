"""Show the ops and the phases of a training step as named ranges in a profiler, where SIVAE_NVTX=1 is set.

A range is an NVTX range, for Nsight Systems, and a `record_function` of torch, for `torch.profiler`. The variable is
read when this module is imported: without it an annotated function stays unchanged, and a phase is an empty context.
Functions that `torch.compile` traces have no ranges.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = "SIVAE_NVTX"
ENABLED = os.environ.get(VARIABLE, "") not in ("", "0")


def _nvtx() -> tuple[Callable[[str], object], Callable[[], object]]:
    """The functions that begin and end an NVTX range: of torch built with CUDA, of the package nvtx, or empty ones."""
    if torch.version.cuda is not None:
        return torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop
    try:
        package = importlib.import_module("nvtx")
    except ImportError:
        warnings.warn(
            f"{VARIABLE} is set, but torch has no CUDA and the package nvtx is not installed: only torch.profiler will "
            "show the ranges",
            stacklevel=2,
        )
        return lambda name: None, lambda: None
    return package.push_range, package.pop_range


class _Range(threading.local):
    """A context that can be entered repeatedly, inside itself and from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[torch.profiler.record_function] = []

    def __enter__(self) -> None:
        _push(self._name)
        recorded = torch.profiler.record_function(self._name)
        recorded.__enter__()
        self._open.append(recorded)

    def __exit__(self, *error: object) -> None:
        self._open.pop().__exit__(None, None, None)
        _pop()


if ENABLED:
    _push, _pop = _nvtx()


def phase(name: str) -> AbstractContextManager[object]:
    """A context for a part of a training step: create it once and enter it in each step."""
    return _Range(f"sivae: {name}") if ENABLED else contextlib.nullcontext()


def annotated(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap the function in a range of its name; return it unchanged where ranges are off."""
    if not ENABLED:
        return function
    name = f"sivae.ops.{function.__name__}"

    @functools.wraps(function)
    def in_range(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with _Range(name):
            return function(*args, **kwargs)

    return in_range
