"""A diagnosis names the cause of a divergence and the setting to change, with the direction."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from sivae.objectives import OBJECTIVES, SoftIntroObjective, VAEObjective
from sivae.settings.presets import preset_config
from sivae.training.diagnosis import Saturation, WeakPush, diagnose

_HEALTHY = {"rec": 100.0, "kl_real": 50.0, "kl_fake": 60.0, "exp_elbo_fake": 1e-2}


def _records(phase: str = "soft-intro", **values: Any) -> list[dict[str, Any]]:
    return [{"step": step, "phase": phase, **_HEALTHY, **values} for step in range(25, 500, 25)]


@pytest.mark.parametrize(
    ("before", "losses", "finding", "remedy"),
    [
        ({}, {"rec": math.nan}, "the records before it show no cause", "lower --learning-rate"),
        ({}, {"rec": math.inf}, "rec exploded", "lower --learning-rate"),
        ({}, {"rec": 1_000.0}, "rec exploded", "lower --learning-rate"),
        ({"exp_elbo_fake": 0.0}, {"rec": 100.0}, "the exp-ELBO of fakes is saturated at 0", "lower --beta-neg"),
        ({"kl_fake": 5_000.0}, {"rec": 100.0}, "the KL of fakes runs away", "raise --beta-neg"),
        ({"exp_elbo_fake": 0.0}, {"rec": 100.0}, "the exp-ELBO of fakes is saturated at 0", "give --beta-neg a number"),
        ({"kl_fake": 5_000.0}, {"rec": 100.0}, "the KL of fakes runs away", "lower --neg-push"),
        ({"kl_real": 5_000.0}, {"rec": 100.0}, "the KL of real samples is far above kl_fake", "raise --beta-kl"),
        ({}, {"rec": 100.0}, "the records before it show no cause", "lower --learning-rate"),
    ],
)
def test_each_cause_has_its_remedy(
    before: dict[str, float], losses: dict[str, float], finding: str, remedy: str
) -> None:
    objective = SoftIntroObjective(**({"beta_neg": "auto"} if "--neg" in remedy or "number" in remedy else {}))
    words = diagnose(_records(**before), losses, "soft-intro", objective)
    findings = re.findall(r"Finding: (.*?)(?=Finding:|$)", words)
    assert len(findings) == 1
    assert finding in findings[0]
    assert remedy in findings[0]


@pytest.mark.parametrize(
    ("rec", "last", "explodes"), [(-900.0, -850.0, False), (-900.0, math.inf, True), (-2.0, 1.0, False)]
)
@pytest.mark.parametrize("make", [VAEObjective, SoftIntroObjective])
def test_an_error_in_nats_has_no_multiples(make: Any, rec: float, last: float, explodes: bool) -> None:
    """-log p is usually below 0, so that every value is more than three times it."""
    records = _records(rec=rec, **({"kl_fake": None, "exp_elbo_fake": None} if make is VAEObjective else {}))
    words = diagnose(records, {"rec": last}, "soft-intro", make(kind="gaussian"))
    assert ("rec exploded" if explodes else "the records before it show no cause") in words
    assert words.count("Finding: ") == 1


def test_several_causes_are_all_named() -> None:
    words = diagnose(
        _records(exp_elbo_fake=0.0), {"rec": math.inf, "loss_encoder": math.nan}, "soft-intro", SoftIntroObjective()
    )
    assert words.startswith("Not finite: rec, loss_encoder. ")
    assert words.count("Finding: ") == 2


@pytest.mark.parametrize("losses", [{}, {"rec": math.nan}])
def test_a_run_without_records_gets_general_advice(losses: dict[str, float]) -> None:
    assert "lower --learning-rate" in diagnose([], losses, "vae", VAEObjective())
    assert "lower --learning-rate" in diagnose(
        _records(rec=None, kl_real=None), losses, "soft-intro", SoftIntroObjective()
    )
    assert "lower --learning-rate" in diagnose(_records(phase="warm-up"), losses, "soft-intro", SoftIntroObjective())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_advice_names_settings_of_the_objective(objective: str) -> None:
    preset = "translation-cars3d" if objective == "lord" else "cifar10"
    config = preset_config(preset, objective=objective, path="images")
    for before in ({"kl_fake": 5_000.0}, {"kl_real": 5_000.0}, {"exp_elbo_fake": 0.0}, {"kl_fake": None}):
        words = diagnose(_records(objective, **before), {"rec": math.nan}, objective, config.objective)
        options = set(re.findall(r"--([a-z-]+)", words)) - {"precision"}
        assert options
        config.replace(**{option.replace("-", "_"): 0.5 for option in options})  # refuses what has no effect


def test_a_saturated_run_is_noticed_once() -> None:
    saturation, config = Saturation(), preset_config("rings")
    records = [{**_HEALTHY, "exp_elbo_fake": value} for value in [0.0] * 9 + [1e-2] + [0.0] * 30]
    begins = [saturation.begins(config, record) for record in records]
    assert begins.index(True) == 19 and sum(begins) == 1  # nine in a row may be an accident, ten are not
    words = saturation.words(config, records[-1])
    assert "saturated at 0" in words and "lower --beta-neg" in words
    vae = Saturation()
    assert not any(vae.begins(config, {"rec": 1.0, "kl_real": 1.0}) for _ in range(30))


def test_a_push_that_no_weight_reaches_is_noticed() -> None:
    config = preset_config("rings", beta_neg="auto", beta_kl=0.2, neg_push=0.6)
    # The push of beta_neg b is b / beta_kl e^(-x) with an exponent x >= 1, so below e * 0.6 * 0.2 it is less than 0.6.
    reached, short = (WeakPush() for _ in range(2))
    assert not any(reached.begins(config, {"beta_neg": 0.327}) for _ in range(30))
    assert [short.begins(config, {"beta_neg": 0.3}) for _ in range(12)].index(True) == 9
    assert "the one that pushes most, 0.3, with a push of 0.55" in short.words(config, {"beta_neg": 0.3})
    for other in (preset_config("rings"), preset_config("rings", objective="vae")):
        assert not any(WeakPush().begins(other, {"beta_neg": 0.1, "rec": 1.0}) for _ in range(30))
