"""Training: one step, and the runs built of it. Names load on first use, so that the command line starts fast."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.training.config import ObjectiveConfig, RunConfig
    from sivae.training.draws import StepNoise
    from sivae.training.measuring import evaluate
    from sivae.training.presets import PRESETS, preset_config
    from sivae.training.run import train
    from sivae.training.step import IntroStep, SoftIntroStep, VAEStep
    from sivae.training.step_base import StepOptions

_HOMES = {
    "IntroStep": "step",
    "ObjectiveConfig": "config",
    "PRESETS": "presets",
    "RunConfig": "config",
    "SoftIntroStep": "step",
    "StepNoise": "draws",
    "StepOptions": "step_base",
    "VAEStep": "step",
    "evaluate": "measuring",
    "preset_config": "presets",
    "train": "run",
}

__all__ = [
    "PRESETS",
    "IntroStep",
    "ObjectiveConfig",
    "RunConfig",
    "SoftIntroStep",
    "StepNoise",
    "StepOptions",
    "VAEStep",
    "evaluate",
    "preset_config",
    "train",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
