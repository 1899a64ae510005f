"""The callbacks that send a run's records to the programs that people watch runs with, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib import import_module

from sivae.errors import ConfigError
from sivae.training.callbacks import Callback

# Each module is imported when its logger is asked for.
LOGGERS = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "MLflow"}


def make_loggers(names: Sequence[str]) -> list[Callback]:
    """Make loggers by their names in :data:`LOGGERS`.

    Raises:
        ConfigError: there is no such logger, or its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"log = {name!r}: expected some of {', '.join(LOGGERS)}")
        if not _is_installed(name):
            raise ConfigError(
                f"log = {name!r}: the package {name} is not installed; pip install {_source(name)} adds it, or leave "
                f"{name} out"
            )
    return [getattr(import_module(f"{__name__}.{name}"), LOGGERS[name])() for name in names]


def default_loggers(notice: Callable[[str], None]) -> list[Callback]:
    """Make TensorBoard's logger; without its package none, and `notice` is called with a message."""
    if not _is_installed("tensorboard"):
        notice("no TensorBoard events: the package is missing; pip install tensorboard adds them")
        return []
    return make_loggers(["tensorboard"])


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None  # else a folder, as W&B makes one of its name


def _source(name: str) -> str:
    return name if name == "tensorboard" else f"'soft-intro-vae[{name}]'"
