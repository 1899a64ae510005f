"""Train models: runs, their checkpoints and their records.

Names load on first use, so that the command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.method.base import StepOptions
    from sivae.method.noise import StepNoise
    from sivae.method.soft_intro import IntroStep, SoftIntroStep
    from sivae.method.vae import VAEStep
    from sivae.settings.presets import PRESETS, preset_config
    from sivae.settings.run import RunConfig
    from sivae.training.callbacks import Callback, RunInfo
    from sivae.training.dry_run import dry_run
    from sivae.training.fitted_prior import fit_prior
    from sivae.training.loggers import make_loggers
    from sivae.training.run import train
    from sivae.training.run_metrics import evaluate

_HOMES = {
    "Callback": "training.callbacks",
    "IntroStep": "method.soft_intro",
    "PRESETS": "settings.presets",
    "RunConfig": "settings.run",
    "RunInfo": "training.callbacks",
    "SoftIntroStep": "method.soft_intro",
    "StepNoise": "method.noise",
    "StepOptions": "method.base",
    "VAEStep": "method.vae",
    "dry_run": "training.dry_run",
    "evaluate": "training.run_metrics",
    "fit_prior": "training.fitted_prior",
    "make_loggers": "training.loggers",
    "preset_config": "settings.presets",
    "train": "training.run",
}

__all__ = [
    "PRESETS",
    "Callback",
    "IntroStep",
    "RunConfig",
    "RunInfo",
    "SoftIntroStep",
    "StepNoise",
    "StepOptions",
    "VAEStep",
    "dry_run",
    "evaluate",
    "fit_prior",
    "make_loggers",
    "preset_config",
    "train",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sivae.{home}"), name)
