"""The experiments: what they would train, and that their pages say what the numbers say, and no more."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sivae.errors import ConfigError
from sivae.reproduce import EXPERIMENTS, balance, density_2d, entropy, get_experiment, image_sheet, stability
from sivae.reproduce.experiment import SIZES, Report, Settings, Trained
from sivae.reproduce.outcomes import Outcome
from sivae.settings.presets import preset_config
from sivae.training.run import train
from tests.reproduce import toys

_TOY = Settings(seeds=1, steps=4, device="cpu", changes=toys.TINY)


def _check(report: Report, folder: Path) -> str:
    """Every figure is there and shown; returns the whole text."""
    text = "\n".join([report.about, *(f"{title}\n{body}" for title, body in report.sections)])
    for name in report.figures:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
        assert f"]({name})" in text
    assert "nan" not in text.lower().replace("nanc", "")
    return text


def _diverged(run: Trained) -> Trained:
    return dataclasses.replace(run, summary=None, divergence="training diverged in step 3")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("size", SIZES)
def test_an_experiment_says_what_it_is_and_what_it_trains(name: str, size: Any) -> None:
    experiment = get_experiment(name)
    assert name == experiment.NAME
    assert experiment.SUMMARY and experiment.NEEDS and experiment.TIME[size]
    trainings = experiment.trainings(Settings(size=size))
    names = [one.name for one in trainings]
    assert len(set(names)) == len(names) > 0
    assert all("/" not in one and one == one.strip(".") for one in names)  # they are folders
    if size == "full" and experiment is not balance:  # it screens 160 settings at a fifth of the length
        published = preset_config(trainings[0].config.preset)
        assert trainings[0].config.steps == published.steps
        assert trainings[0].config.batch_size == published.batch_size


def test_settings_reach_every_training() -> None:
    for name in ("density-2d", "stability", "balance", "entropy"):
        trainings = get_experiment(name).trainings(_TOY)
        assert {(one.config.steps, one.config.model.hidden, one.config.seed) for one in trainings} == {(4, 8, 0)}
        with pytest.raises(ConfigError, match=f"--data has no effect on {name}; leave it out"):
            get_experiment(name).trainings(Settings(data="somewhere"))


def test_listing_needs_no_torch() -> None:
    script = (
        "import sys\nfrom sivae.cli.main import main\nmain(['reproduce', '--list'])\nassert 'torch' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for name in EXPERIMENTS:
        assert f"{name}  " in process.stdout


def test_density_2d_compares_four_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_2d, "DENSITIES", ("8gaussians", "rings"))
    runs = toys.train_here(density_2d.trainings(_TOY), tmp_path, monkeypatch)
    assert len(runs) == 8
    report = density_2d.report(_TOY, runs, tmp_path)
    text = _check(report, tmp_path)
    assert "VAE, IntroVAE and Soft-IntroVAE on 8gaussians and rings with 1 seed each: 4 iterations of batch 16" in text
    assert "Lower is better; one seed; bold" in text and "**" not in text
    for density in ("8gaussians", "rings"):
        for method in ("vae", "intro", "soft-intro", "auto"):
            value = report.numbers[density][method]["jsd"]
            assert value["values"] == [runs[f"{density}-{method}-seed0"].metric("jsd")]
        # Five thousand points leave noise in the histograms, more of it the more bins they fill.
        assert 0 < report.numbers[density]["data"]["jsd"][0] < 0.25
    captured = runs["8gaussians-vae-seed0"].metric("modes_captured")
    assert f" | {captured:.0f} |\n| 8gaussians, IntroVAE |" in text
    runs["rings-intro-seed0"] = _diverged(runs["rings-intro-seed0"])
    text = _check(density_2d.report(_TOY, runs, tmp_path), tmp_path)
    assert "| rings, IntroVAE | – | – | – | – | – | – |" in text


@pytest.mark.parametrize(
    ("soft", "best"),
    [
        ([0.1, 0.2], "soft-intro"),
        ([0.1, 1.5], None),
        ([5.0, 6.0], "intro"),
        ([math.nan, 0.1], None),
        ([math.nan, math.nan], "intro"),
    ],
    ids=["lower", "overlapping", "higher", "one not finite", "none finite"],
)
def test_density_2d_marks_a_method_that_is_lower_with_every_seed(soft: list[float], best: str | None) -> None:
    assert density_2d._lowest({"vae": [3.0, 3.1], "intro": [1.0, 2.0], "soft-intro": soft}) == best
    assert density_2d._lowest({"vae": [3.0], "intro": [1.0], "soft-intro": soft[:1]}) is None  # one seed is no order


def test_stability_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stability._WIDE, "quick", (0.5, 2.0))
    monkeypatch.setitem(stability._PUSHES, "quick", (0.5,))
    runs = toys.train_here(stability.trainings(_TOY), tmp_path, monkeypatch)
    assert sorted(runs) == [
        *("auto-neg_push0.3-seed0", "intro-margin10-seed0", "intro-margin2.5-seed0", "soft-intro-beta_neg0.45-seed0"),
        "soft-intro-beta_neg1.8-seed0",
    ]
    report = stability.report(_TOY, runs, tmp_path)
    text = _check(report, tmp_path)
    # After 4 iterations a network draws about one point, wherever it starts.
    assert "shrunken samples 1" in text
    found = report.numbers["intro"][0]
    assert found["steps"] == [1, 2, 3, 4]
    assert all(0 < value <= 0.694 for value in found["jsd"])  # at most ln 2
    assert found["rec"] > 0.9 and "posterior collapse" in found["failures"]
    shutil.rmtree(runs["intro-margin10-seed0"].folder / "checkpoints")  # it was given up before it had one
    runs["intro-margin10-seed0"] = _diverged(runs["intro-margin10-seed0"])
    text = _check(stability.report(_TOY, runs, tmp_path), tmp_path)
    assert "| IntroVAE, all | 2 of 2 |" in text and "diverged 1" in text
    assert "**IntroVAE failed in 2 of 2 runs and Soft-IntroVAE in 2 of 2" in text
    assert "and Soft-IntroVAE, automatic in 1 of 1" in text


def _outcomes(failed: int, of: int) -> list[Outcome]:
    return [
        Outcome(1.0, seed, [10], [0.5 if seed < failed else 0.1], ["diverged"] * (seed < failed), 0.1, 8, 1.0)
        for seed in range(of)
    ]


@pytest.mark.parametrize(
    ("intro", "soft", "finds"),
    [(10, 0, "a difference (p = 1.1e-5)"), (2, 0, "no difference (p = 0.47)"), (3, 3, "no difference (p = 1.0)")],
)
def test_stability_says_whether_the_counts_differ(intro: int, soft: int, finds: str) -> None:
    words = stability._verdict({"intro": _outcomes(intro, 10), "soft-intro": _outcomes(soft, 10)})
    assert words.startswith(f"**IntroVAE failed in {intro} of 10 runs and Soft-IntroVAE in {soft} of 10: ")
    assert f"Fisher's exact test finds {finds}.**" in words


def test_balance_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "DENSITIES", ("8gaussians", "rings"))
    monkeypatch.setitem(balance._FACTORS, "quick", {"fixed": (1.0, 2.0), "auto": (1.0,)})
    runs = toys.train_here(balance.trainings(_TOY), tmp_path, monkeypatch)
    assert len(runs) == 6
    report = balance.report(_TOY, runs, tmp_path)
    text = _check(report, tmp_path)
    assert "failed in 2 of 2 runs, the published one in 2 of 2.**" in text  # four iterations teach nothing
    assert f"| 8gaussians, fixed, 2 times | {2 * 0.9} | " in text
    automatic, fixed = (report.numbers["ends"][f"rings-{way}1-seed0"] for way in ("auto", "fixed"))
    assert fixed["beta_neg"] == 1.0
    for end in (automatic, fixed):
        assert 0 < end["push"] < end["beta_neg"] / 0.2  # beta_kl of the preset
    assert 0 < report.numbers["rings"]["auto"]["1"][0]["jsd"][0] <= 0.694  # at most ln 2


def test_balance_compares_with_the_best_fixed_weight() -> None:
    def group(*jsd: float) -> list[Outcome]:
        return [Outcome(1.0, seed, [10], [value], [], 0.1, 8, 1.0) for seed, value in enumerate(jsd)]

    fixed = {1.0: group(0.3, 0.5), 2.0: group(0.1, 0.2)}  # mean 0.15, standard deviation 0.0707
    words = balance._verdict({"rings": {"fixed": fixed, "auto": {1.0: group(0.2, 0.24)}}})
    assert "rings 0.220, no worse than 0.221 at 2 times the published weight" in words
    words = balance._verdict({"rings": {"fixed": fixed, "auto": {1.0: group(0.2, 0.26)}}})
    assert "rings 0.230, worse than 0.221" in words
    alone = {1.0: group(0.3), 2.0: group(0.1)}
    words = balance._verdict({"rings": {"fixed": alone, "auto": {1.0: group(0.2)}}})
    assert "with one seed, which does not show small differences: rings 0.200, against 0.100 at 2 times" in words


def test_entropy_measures_trained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(entropy.GAMMAS, "quick", (0.0, 2.0))
    monkeypatch.setattr(entropy, "_MEANS", 400)
    trainings = entropy.trainings(_TOY)
    for one in trainings:
        weights = one.config.objective
        assert (weights.semantics, weights.fakes, weights.gamma_r) == ("paper", ("prior",), 1.0)
        assert weights.beta_neg == weights.beta_kl
    runs = toys.train_here(trainings, tmp_path, monkeypatch)
    report = entropy.report(_TOY, runs, tmp_path)
    text = _check(report, tmp_path)
    assert "H(p_d) does not change by more than chance with γ" in text  # two runs cannot show more
    assert report.numbers["variance"] == pytest.approx(0.15)
    assert report.numbers["measured"]["0.0"][0]["cross_entropy"] > report.numbers["predicted"]["0.0"]["cross_entropy"]


@pytest.mark.parametrize(("sign", "moves"), [(1, "rises"), (-1, "falls")])
def test_entropy_says_how_the_trained_models_move(sign: int, moves: str) -> None:
    measured = {float(gamma): [{"entropy": sign * gamma + 0.01 * seed} for seed in range(2)] for gamma in range(4)}
    assert entropy._verdict("H(p_d)", "entropy", "falls", measured).startswith(
        f"H(p_d) {moves} with γ, where the theory says that it falls (rank correlation {sign * 0.98:.2f}, p = "
    )


def test_entropy_of_one_gaussian_is_that_of_one_gaussian() -> None:
    variance, count = 0.3, 4_000
    data = torch.zeros(count, 2, dtype=torch.float64)
    found = entropy._measure(torch.zeros(50, 2).double(), torch.zeros(count, 2).double(), data, variance)
    height = torch.tensor(2 * torch.pi * variance).log().item()
    # -log p is `height` plus half a chi-squared of two degrees, whose standard deviation is 1; five standard errors.
    assert found["entropy"] == pytest.approx(1 + height, abs=5 / count**0.5)
    assert found["cross_entropy"] == pytest.approx(height, abs=1e-6)  # at the mean itself; float32 constants above


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "run"
    train(preset_config("digits", steps=2, batch_size=8, widths=(4, 8), z_dim=4, device="cpu"), folder, progress=False)
    return folder


def test_images_shows_a_run(digits: Path, tmp_path: Path) -> None:
    settings = Settings(run=str(digits), device="cpu")
    assert image_sheet.trainings(settings) == []
    text = _check(image_sheet.report(settings, {}, tmp_path), tmp_path)
    assert "digits (soft-intro)".replace("digits", "`digits`") in text and "after 2 iterations" in text
    assert "test images above their reconstructions" in text
    assert "| psnr |" in text
    with pytest.raises(ConfigError, match="--data has no effect on a run on digits"):
        image_sheet.report(Settings(run=str(digits), data="elsewhere", device="cpu"), {}, tmp_path)


def test_images_trains_what_it_is_not_given() -> None:
    (training,) = image_sheet.trainings(Settings())
    assert (training.config.preset, training.config.steps) == ("digits", 400)
    (training,) = image_sheet.trainings(Settings(data="photos", size="full"))
    assert (training.config.preset, training.config.data.path, training.config.epochs) == ("cifar10", "photos", 250.0)
    with pytest.raises(ConfigError, match="--seeds has no effect on images"):
        image_sheet.trainings(Settings(seeds=3))
