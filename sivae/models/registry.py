"""The architectures by name."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from sivae.models.autoencoder import AutoencoderVAE
from sivae.models.base import VAEModel
from sivae.models.conv import ConvVAE
from sivae.models.mlp import MLPVAE
from sivae.models.pointnet import PointVAE
from sivae.models.style import StyleVAE
from sivae.models.translation import TranslationVAE

MODELS: dict[str, type[VAEModel]] = {
    model.name: model for model in (MLPVAE, ConvVAE, StyleVAE, TranslationVAE, PointVAE, AutoencoderVAE)
}


def build_model(name: str, **hyperparameters: Any) -> VAEModel:
    """Build a new model of an architecture in :data:`MODELS`.

    Raises:
        ValueError: the architecture or a hyperparameter is unknown, or a value is out of range.
    """
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    known = list(inspect.signature(MODELS[name]).parameters)
    for key in hyperparameters:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ValueError(f"the model {name!r} has no hyperparameter {key!r}; {hint}")
    return MODELS[name](**hyperparameters)
