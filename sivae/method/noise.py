"""The noise of a training step: every draw has an offset of its own, of one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sivae import ops
from sivae.method.objectives import SHORT, Fake


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """Every noise draw of one step, each [B, z_dim]; what is None is drawn from the step's generator.

    "rec" and "fake" name the fakes that are reconstructions and decoded prior samples; "encoder" and "decoder" the
    update that re-encodes them. The decoder's two are used only where its gamma_r term is computed, `prior_decoder` and
    `eps_real_decoder` only where its passes are fresh.
    """

    prior: Tensor | None = None
    eps_real: Tensor | None = None
    eps_rec_encoder: Tensor | None = None
    eps_fake_encoder: Tensor | None = None
    eps_rec_decoder: Tensor | None = None
    eps_fake_decoder: Tensor | None = None
    prior_decoder: Tensor | None = None
    eps_real_decoder: Tensor | None = None


# The draws of a step, told apart. Those of the decoder's own noise come last, a range for each pass of each part.
_PRIOR_OFFSET, _REAL_OFFSET, _ENCODER_OFFSET, _DECODER_OFFSET, _FRESH_PRIOR_OFFSET, _FRESH_REAL_OFFSET = range(6)
_PASSES_OFFSET = 32
Pass = Literal["reconstruction", "prior", "encoder's fakes", "decoder's fakes", "fresh reconstruction", "fresh prior"]
PASSES: tuple[Pass, ...] = get_args(Pass)
NO_NOISE = StepNoise()


@dataclass(frozen=True)
class Draws:
    """The noise of one part of a batch.

    Attributes:
        given: noise for the whole batch, or None where it is to be drawn.
        rows: this part's rows of the batch.
        first: the number of this part's first row among those of all processes.
        total: the number of rows of all processes.
        part: this part's number among those of all processes.
        fresh: whether these are the other draws that an update of the decoder with passes of its own has.
    """

    given: StepNoise
    seed: Tensor
    rows: slice
    first: int
    total: int
    part: int
    fresh: bool = False

    def prior(self, like: Tensor) -> Tensor:
        """Latents to decode, of the shape of z, [B, z_dim]."""
        given, offset = (
            (self.given.prior_decoder, _FRESH_PRIOR_OFFSET) if self.fresh else (self.given.prior, _PRIOR_OFFSET)
        )
        return self._normal(offset, 1, like) if given is None else given[self.rows]

    def of_real(self, like: Tensor) -> Tensor | ops.PhiloxNoise:
        if self.fresh:
            return self._eps(("eps_real_decoder",), _FRESH_REAL_OFFSET, like)
        return self._eps(("eps_real",), _REAL_OFFSET, like)

    def of_pass(self, name: Pass, offsets: int) -> ops.PhiloxNoise:
        """Where the decoder's noise of a pass begins, which may use as many offsets."""
        number = self.part * len(PASSES) + PASSES.index(name)
        return ops.PhiloxNoise(self.seed, _PASSES_OFFSET + number * offsets)

    def of_fakes(
        self, kinds: Sequence[Fake], update: Literal["encoder", "decoder"], like: Tensor
    ) -> Tensor | ops.PhiloxNoise:
        """eps of the re-encoded fakes of one update, one kind below the other, [F B, z_dim]."""
        offset = _ENCODER_OFFSET if update == "encoder" else _DECODER_OFFSET
        return self._eps(tuple(f"eps_{SHORT[kind]}_{update}" for kind in kinds), offset, like)

    def _eps(self, names: tuple[str, ...], offset: int, like: Tensor) -> Tensor | ops.PhiloxNoise:
        given = [eps for eps in (getattr(self.given, name) for name in names) if eps is not None]
        if given and len(given) != len(names):
            raise ValueError(f"StepNoise: of {', '.join(names)} some are given and some not, expected all or none")
        if given:
            return torch.cat([eps[self.rows] for eps in given])
        if self.total * len(names) == like.shape[0]:
            return ops.PhiloxNoise(self.seed, offset)  # made inside the op that uses it
        return self._normal(offset, len(names), like)

    def _normal(self, offset: int, kinds: int, like: Tensor) -> Tensor:
        every = ops.philox_normal(
            self.seed, (kinds, self.total, *like.shape[1:]), offset=offset, dtype=like.dtype
        )  # [F, all rows, z_dim]
        return every[:, self.first : self.first + like.shape[0] // kinds].reshape(like.shape)
