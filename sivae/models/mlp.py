"""The model `mlp`: fully connected networks for points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sivae.bounds import MODEL_LAYERS
from sivae.models.base import VAEModel, checked_counts
from sivae.models.norm import has_hooks
from sivae.models.priors import PriorName
from sivae.ops import relu_network as op


class ReluNetwork(nn.Sequential):
    """Linear layers with ReLU between them; :func:`relu_network` makes one.

    Under bfloat16 autocast, on a CPU that multiplies it in hardware, all layers run as one op where that computes the
    same; the result is float32 then.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            layers = self._plain_layers() if op.serves(x) else []
            if layers and x.shape[1] == layers[0].in_features:
                return op.relu_network(x, [layer.weight for layer in layers], [layer.bias for layer in layers])
        for module in self:
            x = module(x)
        return x

    def _plain_layers(self) -> list[nn.Linear]:
        """The linear layers; none where a call of the modules does more than the op: one was replaced or has a hook."""
        layers: list[nn.Linear] = []
        for index, module in enumerate(self):
            replaced = type(module) is not (nn.ReLU if index % 2 else nn.Linear) or "forward" in vars(module)
            if replaced or has_hooks(module):
                return []
            if isinstance(module, nn.Linear):
                layers.append(module)
        parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        floats = all(type(one) is nn.Parameter and one.dtype is torch.float32 for one in parameters)
        ends_linear = len(self) % 2 == 1
        widths = [layer.out_features for layer in layers]
        return layers if floats and ends_linear and op.serves_widths([layers[0].in_features, *widths]) else []


def relu_network(sizes: Sequence[int]) -> ReluNetwork:
    """Make linear layers with ReLU between them; `sizes` are the features of input, hidden layers and output."""
    # In place: a linear layer does not need its output for backward, and allocating memory costs more than ReLU.
    modules: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        modules += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
    return ReluNetwork(*modules[:-1])


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
