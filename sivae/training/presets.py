"""The recommended settings of each density: the one place that holds them."""

from __future__ import annotations

import difflib
from typing import Any, cast

from sivae.training.config import ObjectiveConfig, ObjectiveName, RunConfig
from sivae.training.errors import ConfigError

DEFAULT_OBJECTIVE: ObjectiveName = "soft-intro"

# beta_rec, beta_kl, beta_neg. Published with Soft-IntroVAE, except for 25gaussians: nobody published any,
# so it takes those of the rings, another density of extent 2 made of narrow, equally likely pieces.
_WEIGHTS = {
    "8gaussians": (0.2, 0.3, 0.9),
    "2spirals": (0.2, 0.5, 1.0),
    "checkerboard": (0.2, 0.1, 0.2),
    "rings": (0.2, 0.2, 1.0),
    "25gaussians": (0.2, 0.2, 1.0),
}

PRESETS: tuple[str, ...] = tuple(_WEIGHTS)


def preset_config(preset: str, *, objective: str = DEFAULT_OBJECTIVE, **changes: Any) -> RunConfig:
    """The recommended configuration for a density, with changes.

    What the preset does not say is the objective's default, see :meth:`ObjectiveConfig.resolved`.

    Args:
        preset: one of :data:`PRESETS`.
        objective: "soft-intro", "intro" or "vae".
        changes: any keys of :class:`RunConfig` or, given flat, of :class:`ObjectiveConfig`.

    Raises:
        ConfigError: the preset, the objective or a key is unknown, a value is wrong, or a key has no effect
            with the objective.
    """
    if preset not in _WEIGHTS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {close[0]}? There are" if close else "choose one of"
        raise ConfigError(f"there is no preset {preset!r}; {hint} {', '.join(PRESETS)}")
    beta_rec, beta_kl, beta_neg = _WEIGHTS[preset]
    weights: dict[str, dict[str, Any]] = {
        "soft-intro": {"beta_neg": beta_neg, "scale": 0.5},
        "intro": {},
        "vae": {},
    }
    if objective not in weights:
        raise ConfigError(f"objective = {objective!r}: expected one of {', '.join(weights)}")
    name = cast(ObjectiveName, objective)
    chosen = ObjectiveConfig(name=name, beta_rec=beta_rec, beta_kl=beta_kl, **weights[name])
    return RunConfig(preset=preset, density=preset, objective=chosen).replace(**changes)
