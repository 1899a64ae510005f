"""The noise of a training step. All draws of a step share one seed, and each has its own offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sivae import ops
from sivae.method.objectives import SHORT, Fake
from sivae.models.priors import KL_PAIRS


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """The noise draws of one step, each of the shape of z; a draw that is None comes from the step's generator.

    In the names, "rec" and "fake" are the fakes that are reconstructions and decoded prior samples; "encoder" and
    "decoder" are the updates that re-encode them. `eps_rec_decoder` and `eps_fake_decoder` are used only if the gamma_r
    term is computed; `prior_decoder` and `eps_real_decoder` only with `fresh_passes`. The noise of samples of a learned
    prior is [B, noise_dim], see :meth:`VAEModel.from_prior`.
    """

    prior: Tensor | None = None
    eps_real: Tensor | None = None
    eps_rec_encoder: Tensor | None = None
    eps_fake_encoder: Tensor | None = None
    eps_rec_decoder: Tensor | None = None
    eps_fake_decoder: Tensor | None = None
    prior_decoder: Tensor | None = None
    eps_real_decoder: Tensor | None = None


# Offsets of the draws of a step. The decoder's own noise comes last, with a range for each pass of each part.
_PRIOR_OFFSET, _REAL_OFFSET, _ENCODER_OFFSET, _DECODER_OFFSET, _FRESH_PRIOR_OFFSET, _FRESH_REAL_OFFSET = range(6)
_AUGMENTATION_OFFSETS = {"real": 6, "encoder": 7, "decoder": 8}
_FRESH_AUGMENTATION_OFFSET = 9
_KL_OFFSETS = {"real": 10, "encoder": 11, "decoder": 12}
_PASSES_OFFSET = 32
Pass = Literal["reconstruction", "prior", "encoder's fakes", "decoder's fakes", "fresh reconstruction", "fresh prior"]
PASSES: tuple[Pass, ...] = get_args(Pass)
NO_NOISE = StepNoise()


@dataclass(frozen=True)
class Draws:
    """The noise of one part of a batch.

    Attributes:
        given: noise for the whole batch; a draw that is None is drawn from `seed`.
        seed: seed of the step.
        rows: this part's rows of the batch.
        first: number of this part's first row among the rows of all processes.
        total: number of rows of all processes.
        part: number of this part among the parts of all processes.
        fresh: whether these are the second draws of a step, for `fresh_passes` in the decoder's update.
    """

    given: StepNoise
    seed: Tensor
    rows: slice
    first: int
    total: int
    part: int
    fresh: bool = False

    def prior(self, like: Tensor) -> Tensor:
        """Draw the noise of prior samples, of the shape of `like`: that of z, or [B, noise_dim] of a learned prior."""
        given, offset = (
            (self.given.prior_decoder, _FRESH_PRIOR_OFFSET) if self.fresh else (self.given.prior, _PRIOR_OFFSET)
        )
        return self._normal(offset, 1, like) if given is None else given[self.rows]

    def of_real(self, like: Tensor) -> Tensor | ops.PhiloxNoise:
        """Draw eps of the real samples' posteriors, of the shape of z."""
        if self.fresh:
            return self._eps(("eps_real_decoder",), _FRESH_REAL_OFFSET, like)
        return self._eps(("eps_real",), _REAL_OFFSET, like)

    def of_kl(self, kinds: int, of: Literal["real", "encoder", "decoder"], like: Tensor) -> Tensor:
        """Draw noise for the kl to a learned prior: of real samples, or of the fakes that an update re-encodes.

        Args:
            kinds: the kinds of the samples.
            of: whose kl it is.
            like: mu, [kinds B, *latent_shape].

        Returns:
            [kinds B, P, z_dim], see :meth:`sivae.models.priors.Components.kl`.
        """
        return self._normal(_KL_OFFSETS[of], kinds, like.new_empty(len(like), KL_PAIRS, like[0].numel()))

    def of_pass(self, name: Pass, offsets: int) -> ops.PhiloxNoise:
        """Reserve a range of `offsets` offsets for the decoder's own noise in a pass."""
        number = self.part * len(PASSES) + PASSES.index(name)
        return ops.PhiloxNoise(self.seed, _PASSES_OFFSET + number * offsets)

    def of_fakes(
        self, kinds: Sequence[Fake], update: Literal["encoder", "decoder"], like: Tensor
    ) -> Tensor | ops.PhiloxNoise:
        """Draw eps of the re-encoded fakes of one update, [F B, z_dim]: the B rows of the first kind come first."""
        offset = _ENCODER_OFFSET if update == "encoder" else _DECODER_OFFSET
        return self._eps(tuple(f"eps_{SHORT[kind]}_{update}" for kind in kinds), offset, like)

    def of_augmentation(self, of: Literal["real", "encoder", "decoder"], kinds: int, rows: int, numbers: int) -> Tensor:
        """Draw from U(0, 1) for the augmentation of images, [F B, numbers].

        Args:
            of: "real", or the update that encodes fakes.
            kinds: F, the number of kinds of images; the B rows of the first kind come first.
            rows: F B.
            numbers: for each image.
        """
        offset = _FRESH_AUGMENTATION_OFFSET if self.fresh and of == "real" else _AUGMENTATION_OFFSETS[of]
        like = torch.empty(rows, numbers, device=self.seed.device)
        return torch.special.ndtr(self._normal(offset, kinds, like))

    def _eps(self, names: tuple[str, ...], offset: int, like: Tensor) -> Tensor | ops.PhiloxNoise:
        given = [eps for eps in (getattr(self.given, name) for name in names) if eps is not None]
        if given and len(given) != len(names):
            raise ValueError(f"StepNoise: only some of {', '.join(names)} are given, expected all or none")
        if given:
            return torch.cat([eps[self.rows] for eps in given])
        if self.total * len(names) == like.shape[0]:
            return ops.PhiloxNoise(self.seed, offset)  # drawn inside the op that uses it
        return self._normal(offset, len(names), like)

    def _normal(self, offset: int, kinds: int, like: Tensor) -> Tensor:
        every = ops.philox_normal(
            self.seed, (kinds, self.total, *like.shape[1:]), offset=offset, dtype=like.dtype
        )  # [F, all rows, ...]
        return every[:, self.first : self.first + like.shape[0] // kinds].reshape(like.shape)
