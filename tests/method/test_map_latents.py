"""Training steps of models whose latents are maps [B, C, H, W]: those of the same values in rows, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sivae.method.base import BaseStep
from sivae.models import VAEModel
from sivae.objectives import IntroObjective, SoftIntroObjective, TCVAEObjective, VAEObjective
from sivae.training import IntroStep, SoftIntroStep, StepOptions, VAEStep
from tests.models.map_latents import MapVAE, RowVAE, map_and_row

WEIGHTS: dict[str, float] = {"beta_rec": 0.7, "beta_kl": 0.4}
OBJECTIVES: dict[str, tuple[type[BaseStep[Any]], Any]] = {
    "vae": (VAEStep, VAEObjective(**WEIGHTS)),
    "tc-vae": (VAEStep, TCVAEObjective(**WEIGHTS)),
    "intro": (IntroStep, IntroObjective(**WEIGHTS)),
    "soft-intro": (SoftIntroStep, SoftIntroObjective(**WEIGHTS, beta_neg=0.9, gamma_r=0.5)),
    "paper": (SoftIntroStep, SoftIntroObjective(**WEIGHTS, beta_neg=0.9, gamma_r=0.5, semantics="paper")),
}


def trained(model: VAEModel, kind: type[BaseStep[Any]], objective: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Train for two steps, and return the parameters and the last metrics."""
    networks = ["encoder", "decoder"] + ["prior"] * (model.prior is not None)
    optimizers = [torch.optim.SGD(getattr(model, name).parameters(), lr=0.05) for name in networks]
    step = kind(
        model,
        *optimizers[:2],
        objective,
        prior_optimizer=optimizers[2] if len(optimizers) > 2 else None,
        generator=torch.Generator().manual_seed(0),
        options=StepOptions(data_size=40, **options),
    )
    x = torch.rand(2, 6, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for batch in x:
        metrics = step(batch)
    return {**model.state_dict(), **metrics}


CASES = [
    (name, prior)
    for name in OBJECTIVES
    for prior in ("standard", "mixture", "vamp")
    if name != "tc-vae" or prior == "standard"  # it has the standard prior alone
]


@pytest.mark.parametrize(("name", "prior"), CASES)
def test_a_step_is_that_of_rows(name: str, prior: str) -> None:
    kind, objective = OBJECTIVES[name]
    maps, rows = (trained(model, kind, objective) for model in map_and_row(prior))
    assert maps.keys() == rows.keys()
    for key, value in rows.items():
        assert torch.equal(maps[key], value), key


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"fresh_passes": True}, {"rank": 1, "world_size": 2}])
def test_every_way_of_computing_a_step_is_that_of_rows(options: dict[str, Any]) -> None:
    kind, objective = OBJECTIVES["soft-intro"]
    maps, rows = (trained(model, kind, objective, **options) for model in map_and_row("mixture"))
    for key, value in rows.items():
        assert torch.equal(maps[key], value), key


@pytest.mark.parametrize("kind", [MapVAE, RowVAE])
def test_an_encoder_of_another_latent_is_an_error(kind: type[MapVAE]) -> None:
    model = kind()
    model.encoder = torch.nn.Conv2d(1, 6, 2, stride=2)
    expected = r"\[6, 2, 2, 2\]" if kind is MapVAE else r"\[6, 8\]"
    with pytest.raises(ValueError, match=rf"returned mu of shape .* expected {expected}; change its last layer"):
        trained(model.double(), *OBJECTIVES["vae"])
