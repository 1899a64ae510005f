"""The guard finds the first step whose gradients were not finite, and waits for the device on request only."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch
from torch import nn

from sivae.training.config import ObjectiveName, Phase
from sivae.training.errors import NonFiniteError
from sivae.training.guard import FiniteGuard
from sivae.training.presets import preset_config


def _phase(step: int) -> Phase:
    return "soft-intro"


def _guarded(start: int = 0) -> tuple[FiniteGuard, nn.Linear, nn.Linear]:
    encoder, decoder = nn.Linear(2, 3), nn.Linear(3, 2)
    optimizers = [torch.optim.Adam(network.parameters()) for network in (encoder, decoder)]
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        parameter.grad = torch.ones_like(parameter)
    return FiniteGuard(optimizers, _phase, start), encoder, decoder


def test_finite_gradients_pass() -> None:
    guard, encoder, _ = _guarded()
    for _ in range(3):
        guard.watch()
    guard.check(3, "")
    encoder.bias.grad = None  # a step that did not touch a parameter
    guard.watch()
    guard.check(4, "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_bad_element_is_found_even_when_later_steps_are_fine(part: str, value: float) -> None:
    guard, encoder, decoder = _guarded(start=100)
    for _ in range(10):
        guard.watch()
    guard.check(110, "")
    guard.remember({"rec": 0.5, "kl_real": 2.0, "kl_fake": 9e9, "phase": 0.0})
    guard.watch()
    gradient = {"encoder": encoder, "decoder": decoder}[part].bias.grad
    assert gradient is not None
    gradient[1] = value
    guard.watch()
    gradient[1] = 0.0
    guard.watch()
    with pytest.raises(NonFiniteError) as caught:
        guard.check(113, "The last good checkpoint is runs/x/checkpoints/110.")
    assert caught.value.step == 112
    message = str(caught.value)
    assert "in step 112 (soft-intro; between the checks at steps 110 and 113; at the earlier one rec 0.5, " in message
    assert "kl_fake 9e+09" in message
    for remedy in ("lower --learning-rate", "raise --beta-neg", "lower it"):
        assert remedy in message
    assert message.endswith("The last good checkpoint is runs/x/checkpoints/110.")


@pytest.mark.parametrize("objective", get_args(ObjectiveName))
def test_the_advice_is_what_the_objective_accepts(objective: ObjectiveName) -> None:
    config = preset_config("rings", objective=objective, steps=30)
    for step, phase in ((2, "warm-up"), (3, objective)):
        parameter = nn.Parameter(torch.zeros(1))
        guard = FiniteGuard([torch.optim.SGD([parameter], lr=0.1)], config.phase_at, step - 1)
        parameter.grad = torch.full((1,), torch.nan)
        guard.watch()
        with pytest.raises(NonFiniteError, match=rf"in step {step} \({phase}; ") as caught:
            guard.check(step, "")
        options = re.findall(r"--([a-z-]+)", str(caught.value))
        assert len(options) > 1
        config.replace(**{option.replace("-", "_"): 0.5 for option in options})  # refuses what has no effect
        assert ("beta-neg" in options) == (phase == "soft-intro")
        assert ("margin" in options) == (phase == "intro")


def test_watching_reads_nothing_from_the_device() -> None:
    parameter = nn.Parameter(torch.empty(4, device="meta"))  # whatever reads a value of it raises
    parameter.grad = torch.empty(4, device="meta")
    guard = FiniteGuard([torch.optim.SGD([parameter], lr=0.1)], _phase)
    guard.watch()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        guard.check(1, "")
