"""Use any encoder and decoder as a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sivae.models.base import VAEModel
from sivae.models.norm import batch_norms


class PairVAE(VAEModel):
    """A model made of any two modules, for training steps. It has no name or hyperparameters, so it cannot be saved.

    Args:
        encoder: x [B, ...] -> mu and logvar, as a tuple of [B, z_dim] each or side by side, [B, 2 z_dim].
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

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar, each [B, z_dim]; a condition is passed as the second argument."""
        heads = self._calls[0](x) if condition is None else self._calls[0](x, condition)
        mu, logvar = heads.chunk(2, dim=1) if isinstance(heads, Tensor) else heads
        return mu, logvar

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute x [B, ...]; a condition is passed as the second argument."""
        x: Tensor = self._calls[1](z) if condition is None else self._calls[1](z, condition)
        return x


def as_model(model: Any, owner: str) -> VAEModel:
    """Turn a model, a pair of modules or a module with an encoder and a decoder into a `VAEModel`.

    Args:
        model: a :class:`VAEModel`; a pair (encoder, decoder) of modules; or a module with `encoder` and `decoder`,
            whose methods `encode` and `decode` are called if it has them.
        owner: name of the class or function with this argument, for the error message.

    Raises:
        TypeError: `model` is none of these.
    """
    if isinstance(model, VAEModel):
        return model
    if isinstance(model, tuple | list) and len(model) == 2 and all(isinstance(one, nn.Module) for one in model):
        return PairVAE(*model)
    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    if isinstance(encoder, nn.Module) and isinstance(decoder, nn.Module):
        encode, decode = getattr(model, "encode", None), getattr(model, "decode", None)
        return PairVAE(encoder, decoder, encode=encode, decode=decode)
    raise TypeError(
        f"{owner}: model is {type(model).__name__}, expected a VAEModel, a pair (encoder, decoder) of nn.Modules, or "
        "an nn.Module with the modules encoder and decoder"
    )
