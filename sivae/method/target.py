"""Keep the target decoder of the bootstrap method: a frozen copy of the decoder, which decodes re-encoded fakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sivae.models.base import VAEModel


class TargetDecoder:
    """A frozen copy of a model's decoder. It starts equal to the decoder, and changes only by :meth:`copy`.

    Args:
        model: the model that trains.

    Attributes:
        model: decodes by the copy; it has the encoder of the model that trains.

    Raises:
        ValueError: the decoder cannot be copied.
    """

    def __init__(self, model: VAEModel) -> None:
        self._source = model
        self.model = model.with_own_decoder()
        self.model.decoder.requires_grad_(False)

    @torch.no_grad()
    def copy(self) -> None:
        """Copy the decoder's current weights and buffers, in place: a captured CUDA graph uses fixed memory."""
        mine, theirs = self.model.decoder, self._source.decoder
        for own, current in [
            *zip(mine.parameters(), theirs.parameters(), strict=True),
            *zip(mine.buffers(), theirs.buffers(), strict=True),
        ]:
            own.copy_(current)

    def follow(self) -> None:
        """Take over what is neither weights nor buffers: the stage of a growing model, and train or eval mode."""
        self.model.follow(self._source)
        for own, current in zip(self.model.decoder.modules(), self._source.decoder.modules(), strict=True):
            own.training = current.training

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs."""
        return {name: tensor.cpu() for name, tensor in self.model.decoder.state_dict().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state`.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self.model.decoder.load_state_dict(state)
