"""The iteration on images with the published convolutional networks, batch norm and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.baselines.conv_networks import PlainConvVAE
from benchmarks.iterations.base import objective_of, plain_loop
from benchmarks.iterations.images import ImageCase
from benchmarks.names import IMAGE_STEP
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import ConvVAE
from sivae.objectives import SoftIntroObjective


@dataclass(frozen=True)
class ConvCase(ImageCase):
    """A batch, the networks' sizes, and the preset whose objective it has."""

    op: ClassVar[str] = IMAGE_STEP
    rate: ClassVar[float] = 2e-4
    widths: tuple[int, ...]
    z_dim: int
    preset: str = "celebahq1024-conv"

    @property
    def name(self) -> str:
        return f"Soft-IntroVAE iteration, {self.side}x{self.side}, batch {self.batch}"

    @property
    def objective(self) -> SoftIntroObjective:
        return objective_of(self.preset)

    def plain_model(self) -> PlainConvVAE:
        return PlainConvVAE(self.side, 3, self.widths, self.z_dim)

    def our_model(self) -> ConvVAE:
        return ConvVAE(self.side, 3, self.widths, self.z_dim)

    def plain_step(self, model: PlainConvVAE) -> PlainSoftIntroStep:
        return plain_loop(model, model.optimizers(self.rate), self.objective, self)


_TO_256 = (64, 128, 256, 512, 512, 512)
_CIFAR10 = ConvCase(32, 32, (64, 128, 256), 128, "cifar10")
CASES = {
    "cpu": (_CIFAR10,),
    "cuda": (
        _CIFAR10,
        ConvCase(128, 32, (64, 128, 256), 128, "cifar10"),
        ConvCase(16, 128, (64, 128, 256, 512, 512), 256),
        ConvCase(8, 512, (32, *_TO_256), 256),
        ConvCase(4, 1024, (16, 32, *_TO_256), 512),
        ConvCase(32, 256, _TO_256, 256),  # the longest comes last, in case the time is over before
    ),
}
