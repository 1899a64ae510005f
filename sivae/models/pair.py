"""Use any encoder and decoder as a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Self

import torch
from torch import Tensor, nn

from sivae.models.base import VAEModel, mu_and_logvar
from sivae.models.norm import batch_norms


class PairVAE(VAEModel):
    """A model made of any two modules, for training steps. It has no name or hyperparameters, so it cannot be saved.

    Args:
        encoder: x [B, ...] -> mu and logvar, as a pair of [B, z_dim] each or side by side, [B, 2 z_dim].
        decoder: z [B, z_dim] -> x [B, ...].
        encode, decode: functions to call instead of the modules, for passes that do more than call the module.
    """

    name = "pair"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        encode: Callable[..., Any] | None = None,
        decode: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self._calls = (encode or encoder, decode or decoder)
        self.mixes_samples = bool(batch_norms(encoder) or batch_norms(decoder))

    def with_own_decoder(self) -> Self:
        """See :meth:`VAEModel.with_own_decoder`.

        Raises:
            ValueError: `decode` is a function, whose networks cannot be found, or the decoder cannot be copied.
        """
        decode = self._calls[1]
        while isinstance(decode, functools.partial):
            decode = decode.func
        if isinstance(decode, FunctionType):
            raise ValueError(
                "PairVAE: decode is a function, expected a module or a method of one, so that a copy of the decoder "
                "can be made; pass a module with a method decode"
            )
        return super().with_own_decoder()

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar, each [B, z_dim]; a condition is passed as the second argument."""
        heads = self._calls[0](x) if condition is None else self._calls[0](x, condition)
        return mu_and_logvar(heads)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute x [B, ...]; a condition is passed as the second argument."""
        x: Tensor = self._calls[1](z) if condition is None else self._calls[1](z, condition)
        return x


def as_model(
    model: Any, owner: str, encoder_optimizer: torch.optim.Optimizer, decoder_optimizer: torch.optim.Optimizer
) -> VAEModel:
    """Turn a model, a pair of modules or a module with two networks into a `VAEModel`.

    Args:
        model: a :class:`VAEModel`; a pair (encoder, decoder) of modules; a module with `encoder` and `decoder`, whose
            methods `encode` and `decode` are called if it has them; or any module with these methods. If it has
            parameters outside `encoder` and `decoder`, a network is the layers whose parameters its optimizer has.
        owner: name of the class with these arguments, for errors.
        encoder_optimizer, decoder_optimizer: the optimizers of the two networks.

    Raises:
        TypeError: `model` is none of these, or an optimizer is not one.
        ValueError: an optimizer has parameters of the other network, or none of its own.
    """
    weights = {
        side: _weights(optimizer, side, owner)
        for side, optimizer in (("encoder", encoder_optimizer), ("decoder", decoder_optimizer))
    }
    pair = _as_pair(getattr(model, "_orig_mod", model), owner, weights)  # torch.compile(model) holds the model
    own = {side: _ids(getattr(pair, side)) for side in weights}
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if weights[side] & own[other] - own[side]:
            problem = f"parameters of the {other}"
        elif not weights[side] & own[side]:
            problem = f"no parameters of the {side}"
        else:
            continue
        raise ValueError(
            f"{owner}: {side}_optimizer has {problem}, expected parameters of the {side} alone; make it from those"
        )
    return pair


def _as_pair(model: Any, owner: str, weights: Mapping[str, set[int]]) -> VAEModel:
    if isinstance(model, VAEModel):
        return model
    if isinstance(model, tuple | list) and len(model) == 2 and all(isinstance(one, nn.Module) for one in model):
        return PairVAE(*model)
    networks = [network for side in weights if isinstance(network := getattr(model, side, None), nn.Module)]
    encode, decode = getattr(model, "encode", None), getattr(model, "decode", None)
    if isinstance(model, nn.Module) and callable(encode) and callable(decode):
        covered = {parameter for network in networks for parameter in _ids(network)}
        if len(networks) < 2 or _ids(model) - covered:
            networks = [_layers(model, weights["encoder"], weights["decoder"])]
            networks.append(_layers(model, weights["decoder"], weights["encoder"]))
    if len(networks) == 2:
        pair = PairVAE(*networks, encode=encode, decode=decode)
        pair.mixes_samples |= isinstance(model, nn.Module) and bool(batch_norms(model))  # also outside of both
        return pair
    raise TypeError(
        f"{owner}: model is {type(model).__name__}, expected a VAEModel, a pair (encoder, decoder) of nn.Modules, or "
        "an nn.Module with the modules encoder and decoder or the methods encode and decode; pass (encoder, decoder)"
    )


def _layers(module: nn.Module, mine: set[int], others: set[int]) -> nn.ModuleList:
    """Collect the largest parts of a module with parameters in `mine` and none in `others`."""
    layers = nn.ModuleList()
    if _ids(module) & mine and not _ids(module) & others:
        layers.append(module)
    elif _ids(module) & mine:
        layers.append(nn.ParameterList(p for p in module.parameters(recurse=False) if id(p) in mine))
        for child in module.children():
            layers.extend(_layers(child, mine, others))
    return layers


def _ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


def _weights(optimizer: Any, side: str, owner: str) -> set[int]:
    """Return the ids of an optimizer's parameters."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise TypeError(
            f"{owner}: {side}_optimizer is {type(optimizer).__name__}, expected an optimizer of torch; make one from "
            f"the {side}'s parameters"
        )
    return {id(parameter) for group in groups for parameter in group["params"]}
