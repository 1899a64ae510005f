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


class NonFiniteError(SivaeError, RuntimeError):
    """Gradients were infinite or NaN. The message names the step, likely causes and remedies.

    Attributes:
        step: the first step with such a gradient.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class RunInterrupted(SivaeError):
    """The run stopped early at a signal, with a checkpoint written. The message says how to go on.

    Attributes:
        exit_code: 128 + the signal's number.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
