"""The experiment ood at toy size: what it trains, and that its page follows from what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sivae.detection.detector import Scores
from sivae.detection.sets import NamedImages
from sivae.errors import ConfigError
from sivae.evaluation.ood import SCORES
from sivae.reproduce import get_experiment
from sivae.reproduce import ood as experiment
from sivae.reproduce.experiment import Settings, Trained
from sivae.reproduce.markdown import for_json
from sivae.training import train

_TINY = {"widths": (4, 8), "z_dim": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("ood")
    settings = Settings(steps=2, device="cpu", changes=_TINY)
    trained = {}
    for one in experiment.trainings(settings):
        summary = train(one.config, folder / one.name, progress=False)
        config = one.config
        trained[one.name] = Trained(one.name, config, folder / one.name, summary, None, False)
    return trained


def test_both_methods_are_trained_alike() -> None:
    assert get_experiment("ood") is experiment
    listed = experiment.trainings(Settings(seeds=2))
    assert [one.name for one in listed] == ["vae-seed0", "soft-intro-seed0", "vae-seed1", "soft-intro-seed1"]
    first, second = (one.config for one in listed[:2])
    assert first.steps == second.steps == 400 and first.preset == "digits"
    assert (first.objective.beta_rec, first.objective.beta_kl) == (second.objective.beta_rec, second.objective.beta_kl)
    full = experiment.trainings(Settings(size="full", data="cifar.tar"))[0].config
    assert (full.preset, full.data.path, full.epochs) == ("cifar10", "cifar.tar", 250.0)
    with pytest.raises(ConfigError, match="--run has no effect on ood"):
        experiment.trainings(Settings(run="runs/x"))


def test_the_report_shows_every_set(runs: dict[str, Trained], tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.zeros((5, 9, 9, 3), np.uint8))
    report = experiment.report(Settings(against=str(tmp_path / "dark.npy")), runs, tmp_path)
    sets = report.numbers["sets"]
    assert list(sets) == ["dark.npy", "photographs", "noise"]
    assert report.figures == ["scores-dark-npy.png", "scores-photographs.png", "scores-noise.png"]
    text = "\n".join(words for _, words in report.sections)
    for figure in report.figures:
        assert (tmp_path / figure).stat().st_size > 1000 and f"({figure})" in text
    for found in sets.values():
        for method in ("vae", "soft-intro"):
            value = found[method]["likelihood"][0]["auroc"]
            assert f"{value['value']:.3f} ({value['low']:.3f}–{value['high']:.3f})" in text
            if found is sets["dark.npy"]:  # the untrained decoder's images are about black, so it is the likely set
                assert value["high"] < 0.5
    assert "300 of digits, 5 of dark.npy, 300 of photographs and 300 of noise" in report.about
    json.dumps(for_json(report.numbers), allow_nan=False)


def test_seeds_are_summed_up_and_a_diverged_training_is_left_out(
    runs: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(run: Trained, images: NamedImages, samples: int, count: int) -> Scores:
        shift = {"digits": 0.0, "photographs": 0.5, "noise": 9.0}[images.name] + 0.1 * run.config.seed
        values = np.random.default_rng(0).normal(shift, 1.0, 40)
        return {score: values if score != "kl" else -values for score in SCORES}

    monkeypatch.setattr(experiment, "_scores", scored)

    def words(trained: list[Trained]) -> str:
        report = experiment.report(Settings(), {one.name: one for one in trained}, tmp_path)
        return "\n".join(text for _, text in report.sections)

    again = [replace(run, name=f"{name[:-1]}1", config=run.config.replace(seed=1)) for name, run in runs.items()]
    text = words([*runs.values(), *again])
    assert "| noise, VAE | 1.00 ± 0.00 |" in text and "mean ± standard deviation over 2 seeds" in text
    assert "**" not in text  # both methods have equal scores

    vae, soft = runs.values()
    text = words([vae, replace(soft, summary=None, divergence="too steep")])
    assert "| noise, Soft-IntroVAE | – | – | – | – | – |" in text and "**" not in text


@pytest.mark.parametrize(("low", "mark"), [(0.7, "**0.800 (0.700–0.900)**"), (0.5, "0.800 (0.500–0.900)")])
def test_the_better_method_is_marked_where_the_intervals_are_apart(low: float, mark: str) -> None:
    def found(value: float, low: float, high: float) -> dict[str, list[dict[str, dict[str, float]]]]:
        interval = {"value": value, "low": low, "high": high}
        return {score: [dict.fromkeys(("auroc", "aupr", "fpr95"), interval)] for score in SCORES}

    rows = experiment._rows("noise", {"vae": found(0.8, low, 0.9), "soft-intro": found(0.5, 0.4, 0.6)})
    assert [row[:2] for row in rows] == [["noise, VAE", mark], ["noise, Soft-IntroVAE", "0.500 (0.400–0.600)"]]
