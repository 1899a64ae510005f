"""Call other code while a run trains: the class that such code derives from, and the calls, which never stop a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sivae.errors import ConfigError, reason_of
from sivae.settings.run import RunConfig


@dataclass(frozen=True)
class RunInfo:
    """The run that a callback watches.

    Attributes:
        folder: its folder.
        config: all of its settings; `config.total_steps` is its number of iterations.
        start: number of iterations that were trained before; 0 for a new run.
    """

    folder: Path
    config: RunConfig
    start: int


class Callback:
    """Watches a run. Every method does nothing: override those that are wanted.

    The methods are called between two iterations, in the thread that called :func:`sivae.train`, and under `torchrun`
    in the first process only. The run's clock stands still meanwhile. Iterations are counted from 1. A run that is
    finished already calls nothing.

    A method that raises an exception is reported in one line on stderr, and no method of that object is called again
    but :meth:`on_end`, which may have something to close. The run goes on, with the same results to the bit.
    KeyboardInterrupt and SystemExit are not caught.

    Iterations can come twice. A resumed run goes on from its last checkpoint, and a run that diverged goes back to one;
    both compute and report the iterations after it again. `run` is then another object, whose `start` is the step of
    that checkpoint, so whatever was noted of later steps is void.
    """

    def on_record(self, run: RunInfo, record: dict[str, Any]) -> None:
        """See the losses: every `log_every` iterations, and after the last one.

        Args:
            run: the run.
            record: a copy of the line in `metrics.jsonl`: `step` (int), the losses as floats, or None where one is not
                finite, `phase` (text), `seconds` of training so far, `learning_rate`; of a growing run also
                `resolution` (pixels), `blend` (0 to 1) and `images` (seen so far).
        """

    def on_picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        """See a picture: every `sample_every` iterations, and those of the run's end with the last step.

        Args:
            run: the run.
            step: number of completed iterations.
            name: what it shows, the same at each step: "samples", "samples-reconstructions", "curves" ...
            path: its PNG file, which is written and stays.
        """

    def on_checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        """See a checkpoint, that of step 0 included which a run with `init_from` writes.

        Args:
            run: the run.
            step: number of completed iterations.
            path: its folder, which is on the disk; a later checkpoint replaces it by the settings of the run.
        """

    def on_end(self, run: RunInfo, summary: dict[str, Any] | None) -> None:
        """See the end of the training in this process: the last call.

        Args:
            run: the run.
            summary: a copy of the content of `summary.json`; None if the run stopped early, by a signal or an error.
        """


class Callbacks:
    """Calls the callbacks of a run, and leaves out those that have failed.

    Args:
        callbacks: called in this order.

    Attributes:
        notice: prints a message.

    Raises:
        ConfigError: one of them is no :class:`Callback`.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for one in callbacks:
            if not isinstance(one, Callback):
                raise ConfigError(
                    f"callbacks: {one!r} is no callback; give objects of classes that derive from "
                    "sivae.training.Callback"
                )
        self._callbacks = list(callbacks)
        self._failed: list[Callback] = []
        self.notice: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)

    def record(self, run: RunInfo, record: Mapping[str, Any]) -> None:
        """Call :meth:`Callback.on_record`."""
        self._call("on_record", lambda one: one.on_record(run, dict(record)))

    def picture(self, run: RunInfo, step: int, name: str, path: Path) -> None:
        """Call :meth:`Callback.on_picture`."""
        self._call("on_picture", lambda one: one.on_picture(run, step, name, path))

    def checkpoint(self, run: RunInfo, step: int, path: Path) -> None:
        """Call :meth:`Callback.on_checkpoint`."""
        self._call("on_checkpoint", lambda one: one.on_checkpoint(run, step, path))

    def end(self, run: RunInfo, summary: Mapping[str, Any] | None) -> None:
        """Call :meth:`Callback.on_end`."""

        def call(one: Callback) -> None:
            one.on_end(run, None if summary is None else dict(summary))

        self._call("on_end", call)
        for one in self._failed:
            with contextlib.suppress(Exception):  # its first failure was reported
                call(one)

    def _call(self, method: str, call: Callable[[Callback], None]) -> None:
        for one in list(self._callbacks):
            try:
                call(one)
            except Exception as error:  # of code that is not ours, so of any type
                self._callbacks.remove(one)
                if method != "on_end":
                    self._failed.append(one)
                kind, words = type(error).__name__, reason_of(error)
                came = kind if words == kind else f"{kind}: {words}"
                self.notice(
                    f"warning: the callback {type(one).__name__} failed in {method} ({came}) and is left out; "
                    "the run goes on"
                )
