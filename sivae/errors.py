"""The errors whose message tells a person what to do. The command line prints them as one line, without a traceback.

A message names the thing, what came, what was expected, and the remedy.
"""

from __future__ import annotations


def reason_of(error: BaseException) -> str:
    """The words of another library's error in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class SivaeError(Exception):
    """Base of the errors below.

    Attributes:
        exit_code: what the command line returns.
    """

    exit_code = 1


class ConfigError(SivaeError, ValueError):
    """A setting that is wrong."""

    exit_code = 2


class UsageError(SivaeError, ValueError):
    """A command line that cannot be understood."""

    exit_code = 2


class RunFolderError(SivaeError, ValueError):
    """A folder of a run that is taken, is missing, or is no run's."""

    exit_code = 2


class FolderInUseError(RunFolderError):
    """A folder in which another process works."""


class CheckpointError(SivaeError, RuntimeError):
    """A checkpoint that cannot be used."""


class DivergenceError(SivaeError, RuntimeError):
    """Updates were infinite, NaN or exploding, again after going back once.

    Attributes:
        step: the first iteration whose update could not be applied.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class RunInterrupted(SivaeError):
    """A signal stopped the run early, with a checkpoint written. The message says how to go on."""

    exit_code = 0


class TrainingFailed(SivaeError, RuntimeError):
    """A training of an experiment failed, and not by divergence, which is a result."""


class ExchangeError(SivaeError, RuntimeError):
    """The processes that train together cannot reach each other."""


class DataError(SivaeError, ValueError):
    """Data that cannot be used."""


class DamagedImageError(DataError):
    """One image that cannot be used, where the others may be; `skip_damaged` leaves such images out."""


class NoSuchSplitError(DataError):
    """A part (train, test) that a data set does not have."""


class ModelFileError(SivaeError, ValueError):
    """A file of a model that cannot be used."""


class NoModelError(ModelFileError):
    """A path where no trained model is."""

    exit_code = 2


class FeaturesError(SivaeError, ValueError):
    """The network that metrics of samples need is missing, or its stored features do not fit."""


class ThresholdError(SivaeError, ValueError):
    """A file that holds no threshold, or one of other scores."""
