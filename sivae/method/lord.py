"""The step of LORD's two stages (Gabbay & Hoshen, ICLR 2020), which needs the class of every image."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from sivae import ops
from sivae.method.base import FORWARD, UPDATE, BaseStep, Metrics
from sivae.method.noise import NO_NOISE, StepNoise
from sivae.method.objectives import LordObjective


class CodedModel(Protocol):
    """A model with codes of images and classes, as :class:`sivae.models.TranslationVAE` has."""

    def codes_of(self, images: Tensor, classes: Tensor) -> Tensor: ...

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class LordStep(BaseStep[LordObjective]):
    """One joint update of a model with codes (:class:`CodedModel`), in one of LORD's stages.

    Args:
        stage: "codes" trains the codes of images and classes, and the decoder; "encoders" trains encoders that predict
            the codes, and the decoder.
        others, options: as for :class:`BaseStep`.
    """

    def __init__(self, *others: Any, stage: Literal["codes", "encoders"], **options: Any) -> None:
        super().__init__(*others, **options)
        self.stage = stage

    def __call__(self, batch: Tensor, noise: StepNoise = NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update on `batch` [B, ...].

        Args:
            batch: training images.
            noise: `eps_real` [B, z_dim]; its content part is the noise of the first stage. None: drawn.
            condition: int64 [B, 2]: the number of each image, and the number of its class.

        Returns:
            Detached scalars: loss, rec, and content_norm, the codes' mean squared length, or code_error.
        """
        assert condition is not None
        model, objective = cast(CodedModel, self.model), self.objective
        self._zero_gradients()
        scale = objective.scale_for(math.prod(batch.shape[1:]))
        parts = self._parts(batch, noise, condition)
        metrics = []
        for part in parts:
            assert part.condition is not None
            codes = model.codes_of(part.condition[:, 0], part.condition[:, 1])
            content, of_class = model.split(codes)
            with FORWARD:
                if self.stage == "codes":
                    spread = torch.full_like(codes, 2.0 * math.log(objective.content_noise or 1.0))
                    noisy = ops.reparameterize(codes, spread, noise=part.draws.of_real(codes))
                    z = torch.cat([model.split(noisy)[0] if objective.content_noise else content, of_class], dim=1)
                    term = content.square().sum(1).mean()
                    weighted, name = objective.content_decay * term, "content_norm"
                else:
                    z, _ = self._encode_real(part, None)
                    predicted = zip(model.split(z), model.split(codes.detach()), strict=True)
                    term = torch.stack([F.mse_loss(mine, code) for mine, code in predicted]).sum()
                    weighted, name = objective.code_weight * term, "code_error"
                rec = self._rec(self._decode(z, part, "reconstruction", None), part.x)
                loss = scale * rec.mean() + weighted
            with UPDATE:
                (loss / len(parts)).backward()
            metrics.append({"loss": loss.detach(), "rec": rec.detach().mean(), name: term.detach()})
        with UPDATE:
            self.apply(self.encoder_optimizer)
            self.apply(self.decoder_optimizer)
        return self._finished(metrics)
