"""The paper's experiments, each one command: train, evaluate, draw, and write a page.

Each experiment is a module, see :class:`sivae.reproduce.experiment.Experiment`, and has its row in `EXPERIMENTS`.
Modules are imported on first use, so that `sivae reproduce --list` starts fast.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, cast

from sivae.errors import ConfigError

if TYPE_CHECKING:
    from sivae.reproduce.experiment import Experiment

# Name -> module of this package.
EXPERIMENTS: dict[str, str] = {
    "density-2d": "density_2d",
    "stability": "stability",
    "balance": "balance",
    "entropy": "entropy",
    "images": "image_sheet",
    "image-methods": "image_methods",
    "ood": "ood",
    "translation": "translation",
}


def get_experiment(name: str) -> Experiment:
    """Import the experiment called `name`.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]}? There are" if close else "choose one of"
        raise ConfigError(f"there is no experiment {name!r}; {hint} {', '.join(EXPERIMENTS)}")
    return cast("Experiment", import_module(f"{__name__}.{EXPERIMENTS[name]}"))
