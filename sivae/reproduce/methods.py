"""The three methods that the experiments compare, in the order in which pages and figures have them."""

from __future__ import annotations

METHODS: dict[str, str] = {"vae": "VAE", "intro": "IntroVAE", "soft-intro": "Soft-IntroVAE"}  # objective -> its name
