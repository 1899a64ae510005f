"""The step of a VAE and of similar objectives: one joint update of encoder, decoder and learned prior."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from sivae.method.base import FORWARD, UPDATE, BaseStep, Metrics
from sivae.method.noise import NO_NOISE, StepNoise
from sivae.method.objectives import Latents


class VAEStep(BaseStep[Any]):
    """One joint update of encoder, decoder and learned prior, also used in the warm-up of other objectives.

    The objective needs a method `loss_of(rec, kl, latents)`, which computes the loss.
    """

    def __call__(self, batch: Tensor, noise: StepNoise = NO_NOISE, condition: Tensor | None = None) -> Metrics:
        """Update on a batch [B, ...], with arguments as in :meth:`BaseStep.__call__`.

        Returns:
            Detached scalars on the batch's device, batch means: loss, rec, kl_real, and the objective's own values.
        """
        self._zero_gradients()
        metrics = []
        parts = self._parts(batch, noise, condition)
        for part in parts:
            with FORWARD:
                mu, logvar = self._encode_real(part, part.condition)
                z, kl = self._draw(
                    mu, logvar, part.draws.of_real(mu), self._prior(mu.device), partial(part.draws.of_kl, 1, "real")
                )
                recon = self._decode(self.model.latents_to_decode(z), part, "reconstruction", part.condition)
                rec = self._rec(recon, part.x)
                weighted_kl, kl_metrics = self._real_kl(kl, mu, logvar, self.objective.class_kl_share)
                latents = Latents(z, mu, logvar, self.options.data_size)
                loss, more = self.objective.loss_of(rec, weighted_kl, latents)
            with UPDATE:
                (loss / len(parts)).backward()
            metrics.append({"loss": loss.detach(), "rec": rec.detach().mean(), **kl_metrics, **more})
        with UPDATE:
            self.apply(self.encoder_optimizer)
            self.apply(self.decoder_optimizer)
            if self.prior_optimizer is not None:
                self.apply(self.prior_optimizer)
        return self._finished(metrics)
