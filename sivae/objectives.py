"""The objectives by name. `sivae.method.objectives` explains them."""

from __future__ import annotations

from sivae.method.objectives import (
    FAKES,
    ElboObjective,
    IntroObjective,
    Latents,
    LordObjective,
    Objective,
    SoftIntroObjective,
    VAEObjective,
)
from sivae.method.tc_vae import TCVAEObjective

__all__ = [
    "FAKES",
    "OBJECTIVES",
    "ElboObjective",
    "IntroObjective",
    "Latents",
    "LordObjective",
    "Objective",
    "SoftIntroObjective",
    "TCVAEObjective",
    "VAEObjective",
]

OBJECTIVES: dict[str, type[Objective]] = {
    kind.NAME: kind for kind in (SoftIntroObjective, IntroObjective, VAEObjective, TCVAEObjective, LordObjective)
}
