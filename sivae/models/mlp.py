"""The model `mlp`: fully connected networks for points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from sivae.bounds import MODEL_LAYERS
from sivae.models.base import VAEModel, checked_counts
from sivae.models.priors import PriorName


def relu_network(sizes: Sequence[int]) -> nn.Sequential:
    """Make linear layers with ReLU between them; `sizes` are the features of input, hidden layers and output."""
    # In place: a linear layer does not need its output for backward, and allocating memory costs more than ReLU.
    modules: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        modules += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])


class MLPVAE(VAEModel):
    """Encoder data_dim -> hidden x layers -> 2 z_dim and decoder z_dim -> hidden x layers -> data_dim, with ReLU.

    The defaults are the networks of the Soft-IntroVAE paper's 2D experiments.
    """

    name = "mlp"

    def __init__(
        self,
        data_dim: int = 2,
        z_dim: int = 2,
        hidden: int = 256,
        layers: int = 4,
        prior_std: float = 1.0,
        prior: PriorName = "standard",
        prior_components: int = 10,
    ) -> None:
        super().__init__()
        self.hyperparameters = {"data_dim": data_dim, "z_dim": z_dim, "hidden": hidden, "layers": layers}
        checked_counts("MLPVAE", 1, data_dim=data_dim, z_dim=z_dim, hidden=hidden)
        checked_counts("MLPVAE", 1, MODEL_LAYERS, layers=layers)
        self._set_prior_std(prior_std)
        self.z_dim = z_dim
        self.sample_shape = (data_dim,)
        self.encoder = relu_network([data_dim, *[hidden] * layers, 2 * z_dim])
        self.decoder = relu_network([z_dim, *[hidden] * layers, data_dim])
        self._set_prior(prior, prior_components)
