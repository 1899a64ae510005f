"""The fully connected pair for point data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

from sivae import ops
from sivae.models.base import VAEModel, checked_counts


class ReluMLP(nn.Sequential):
    """Linear layers with ReLU between them, computed by `ops.relu_mlp` on the CPU.

    It runs as the `nn.Sequential` that it is on other devices, under autocast, `torch.func`, forward-mode derivatives
    and export, and where a layer has a hook, a `forward` or a kind of weight of its own, or another module has taken
    its place.
    """

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> ReluMLP:
        """A new network; `sizes`: features of the input, after each hidden layer, and of the output."""
        # In place: a linear layer does not keep its output for backward, and fresh memory costs more than ReLU.
        modules: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            modules += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        return cls(*modules[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """[B, first size] -> [B, last size]."""
        modules = list(self)
        if not _takes_the_op(x) or not _are_plain(modules):
            y: Tensor = super().forward(x)
            return y
        layers = cast(list[nn.Linear], modules[::2])
        return ops.relu_mlp(x, [layer.weight for layer in layers], [layer.bias for layer in layers])


def _takes_the_op(x: Tensor) -> bool:
    """Whether nothing about the input or the mode asks for modules; other devices have no kernels for the op."""
    return not (
        x.device.type != "cpu"
        or x.dim() != 2
        or not _is_plain_tensor(x)
        or torch.is_autocast_enabled("cpu")
        or torch.compiler._is_exporting_flag  # the compiler of torch 2.11 takes is_exporting() for true
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch_module._has_any_global_hook()
    )


def _are_plain(modules: Sequence[nn.Module]) -> bool:
    """Whether linear layers and ReLUs take turns and nothing else happens in a pass through them."""
    for index, module in enumerate(modules):
        if type(module) is not (nn.ReLU if index % 2 else nn.Linear) or "forward" in module.__dict__:
            return False
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return False
        if isinstance(module, nn.Linear) and not (_is_plain_tensor(module.weight) and _is_plain_tensor(module.bias)):
            return False
    return len(modules) % 2 == 1


def _is_plain_tensor(value: Tensor | None) -> bool:
    return type(value) in (nn.Parameter, Tensor) and cast(Tensor, value).layout is torch.strided


class MLPVAE(VAEModel):
    """Encoder data_dim -> hidden x layers -> 2 z_dim and decoder z_dim -> hidden x layers -> data_dim, with ReLU.

    The defaults are the networks of the Soft-IntroVAE paper's 2D experiments.
    """

    name = "mlp"

    def __init__(self, data_dim: int = 2, z_dim: int = 2, hidden: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.hyperparameters = {"data_dim": data_dim, "z_dim": z_dim, "hidden": hidden, "layers": layers}
        checked_counts("MLPVAE", 1, **self.hyperparameters)
        self.z_dim = z_dim
        self.sample_shape = (data_dim,)
        self.encoder = ReluMLP.of_sizes([data_dim, *[hidden] * layers, 2 * z_dim])
        self.decoder = ReluMLP.of_sizes([z_dim, *[hidden] * layers, data_dim])
