"""The iteration on images with the published style-based networks, optimizer and settings, at a fixed resolution.

With noise, style mixing and the average style. The baseline makes fresh passes for the decoder's update, as the
authors' program does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmarks.baselines.style_networks import PlainStyleVAE
from benchmarks.iterations.base import objective_of, plain_loop
from benchmarks.iterations.images import ImageCase
from benchmarks.names import STYLE_STEP
from sivae.method.plain import PlainSoftIntroStep
from sivae.models.style import StyleVAE
from sivae.objectives import SoftIntroObjective


@dataclass(frozen=True)
class StyleCase(ImageCase):
    """A batch and the networks' sizes, by default the published ones up to 256x256."""

    op: ClassVar[str] = STYLE_STEP
    rate: ClassVar[float] = 0.002
    fresh_passes: ClassVar[bool] = True
    start_channels: int = 64
    max_channels: int = 512
    z_dim: int = 512
    mapping_layers: int = 8

    @property
    def name(self) -> str:
        return f"style model's iteration, {self.side}x{self.side}, batch {self.batch}"

    @property
    def objective(self) -> SoftIntroObjective:
        return objective_of("ffhq256")

    def plain_model(self) -> PlainStyleVAE:
        return PlainStyleVAE(**self._sizes)

    def our_model(self) -> StyleVAE:
        """With weights of the noise as in the middle of a training; they are 0 at first."""
        model = StyleVAE(**self._sizes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "noise_weight" in name:
                    parameter.normal_(std=0.1)
        return model

    def plain_step(self, model: PlainStyleVAE) -> PlainSoftIntroStep:
        optimizers = model.optimizers(self.rate)
        return plain_loop(
            model, optimizers, self.objective, self, decode_prior=model.decode_prior, fresh_passes=self.fresh_passes
        )

    @property
    def _sizes(self) -> dict[str, int]:
        return {
            "image_size": self.side,
            "channels": 3,
            "start_channels": self.start_channels,
            "max_channels": self.max_channels,
            "z_dim": self.z_dim,
            "mapping_layers": self.mapping_layers,
        }


CASES = {
    # An eighth as wide as the blocks of 32x32 and 64x64 in the published networks.
    "cpu": (StyleCase(16, 32, 32, 64, 64), StyleCase(8, 64, 32, 64, 64)),
    # With the batches that are published for one GPU (`sivae.settings.growth`), and a large one.
    "cuda": (
        StyleCase(16, 64, 256),
        StyleCase(8, 128, 128),
        StyleCase(4, 256),
        StyleCase(4, 512, 32),
        StyleCase(4, 1024, 16),
        StyleCase(32, 256),  # the longest comes last, in case the time is over before
    ),
}
