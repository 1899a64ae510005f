"""The three methods that the experiments compare, in the order in which pages and figures have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METHODS: dict[str, str] = {"vae": "VAE", "intro": "IntroVAE", "soft-intro": "Soft-IntroVAE"}  # objective -> its name

# IntroVAE's weights in the plane, which nobody published. With Soft-IntroVAE's, beta_rec 0.2, its posterior collapses:
# its objective has no scale of a half, and the hinge nothing that pays for the reconstruction of a fake.
INTRO_2D: Mapping[str, Any] = {"beta_rec": 1.0}
