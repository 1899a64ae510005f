"""Errors whose message a person can act on. The command line prints them as one line, without a traceback."""

from __future__ import annotations


class SivaeError(Exception):
    """Base of the errors below.

    Attributes:
        exit_code: what a program that ends for this reason returns.
    """

    exit_code = 1


class ConfigError(SivaeError, ValueError):
    """A setting that cannot be; the message names the key, what came, and what to do."""

    exit_code = 2


class RunFolderError(SivaeError, ValueError):
    """A run's folder that is taken, missing or not a run's; the message says what to do."""

    exit_code = 2


class CheckpointError(SivaeError, RuntimeError):
    """A checkpoint that cannot be used; the message names the file and what to do."""


class DivergenceError(SivaeError, RuntimeError):
    """Updates were infinite, NaN or exploding, again after going back once. The message holds cause and remedy.

    Attributes:
        step: the first iteration whose update could not be applied.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class RunInterrupted(SivaeError):
    """The run stopped early because a signal asked it to, with a checkpoint written. The message says how to go on."""

    exit_code = 0
