"""The experiment translation at toy size: what it trains, and that its page follows from what it measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sivae.errors import ConfigError
from sivae.reproduce import get_experiment
from sivae.reproduce import translation as experiment
from sivae.reproduce.experiment import Settings, Trained
from sivae.reproduce.markdown import for_json
from sivae.training import train
from sivae.training.tasks.images import ImageTask

_TINY = {"resolution": 8, "width": 4, "hidden": 8, "content_dim": 4, "class_dim": 4, "batch_size": 8}
_NAMES = ["soft-intro-none", "soft-intro-pairs", "vae-pairs", "lord"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("translation")
    trained = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageTask, "picture_run", lambda *_: [])
        for one in experiment.trainings(Settings(steps=4, device="cpu", changes=_TINY)):
            summary = train(one.config, folder / one.name, progress=False)
            trained[one.name] = Trained(one.name, one.config, folder / one.name, summary, None, False)
    return trained


def test_four_methods_are_trained_alike() -> None:
    assert get_experiment("translation") is experiment
    listed = experiment.trainings(Settings(seeds=2))
    assert [one.name for one in listed] == [f"{name}-seed{seed}" for seed in (0, 1) for name in _NAMES]
    assert {(one.config.preset, one.config.steps) for one in listed} == {("translation-shapes", 2_000)}
    assert [one.config.objective.name for one in listed[:4]] == ["soft-intro", "soft-intro", "vae", "lord"]
    assert len({one.config.batch_size for one in listed}) == 1
    full = experiment.trainings(Settings(size="full", data="cars3d.mat"))
    assert len(full) == 12
    assert {(one.config.preset, one.config.data.path) for one in full} == {("translation-cars3d", "cars3d.mat")}
    with pytest.raises(ConfigError, match="--run has no effect on translation"):
        experiment.trainings(Settings(run="runs/x"))


def test_files_of_networks_make_the_error_perceptual_and_add_lpips() -> None:
    listed = experiment.trainings(Settings(vgg="vgg16.pth", lpips="lpips.pth"))
    assert {one.config.objective.perceptual for one in listed} == {"vgg16.pth"}
    with pytest.raises(ConfigError, match="--lpips needs VGG-16's weights beside its own; name them by --vgg"):
        experiment.trainings(Settings(lpips="lpips.pth"))
    with pytest.raises(ConfigError, match="--vgg has no effect on entropy"):
        get_experiment("entropy").trainings(Settings(vgg="vgg16.pth"))
    one = {"transfer_mse": 0.1, "transfer_ssim": 0.5, "reconstruction_ssim": 0.8, "class_chance": 0.1}
    assert "transfer LPIPS" not in experiment._table({"lord": [one]}, 0.4)
    assert "| 0.250 |" in experiment._table({"lord": [{**one, "transfer_lpips": 0.25}]}, 0.4)


def test_the_page_shows_every_method(runs: dict[str, Trained], tmp_path: Path) -> None:
    report = experiment.report(Settings(), runs, tmp_path)
    methods = report.numbers["methods"]
    assert list(methods) == _NAMES and all(len(found) == 1 for found in methods.values())
    text = "\n".join([report.about, *(words for _, words in report.sections)])
    assert report.figures == [f"translation-{name}.png" for name in _NAMES]
    for name, file in zip(_NAMES, report.figures, strict=True):
        with Image.open(tmp_path / file) as picture:
            assert min(picture.size) > 600
        assert f"]({file})" in text
        (found,) = methods[name]
        assert f"| {experiment.METHODS[name].title} | {experiment.number(found['transfer_mse'])} |" in text
    assert f"unchanged class images ({experiment.number(report.numbers['class_image_ssim'])})" in text
    assert 0.2 < report.numbers["class_image_ssim"] < 0.8  # the shape is elsewhere, and all behind it is right
    assert "use 1,280 images" in text and "at most 300 pairs" in text
    assert "chance 0.0500" in text and "chance 0.0156" in text  # 20 classes in 64 contents
    json.dumps(for_json(report.numbers), allow_nan=False)

    lord = runs["lord-seed0"]
    runs = {**runs, lord.name: replace(lord, summary=None, divergence="too steep")}
    text = "\n".join(words for _, words in experiment.report(Settings(), runs, tmp_path).sections)
    assert "| LORD | – | – | – | – | – | – | – | – | 0 of 0 |" in text


def _found(transfer: float, leak: float, *, content: float = 0.9) -> dict[str, float]:
    return {
        "transfer_mse": 0.01,
        "transfer_ssim": transfer,
        "reconstruction_mse": 0.01,
        "reconstruction_ssim": 0.8,
        "class_from_content": leak,
        "class_from_content_draws": leak + 0.01,
        "class_from_class": 0.9,
        "class_chance": 0.05,
        "content_from_content": content,
        "content_from_class": 0.02,
        "content_chance": 0.02,
    }


@pytest.mark.parametrize(
    ("one", "untouched", "translates"),
    [
        (_found(0.76, 0.09), 0.5, True),
        (_found(0.71, 0.09), 0.5, False),
        (_found(0.76, 0.1), 0.5, False),
        (_found(0.76, 0.09, content=0.03), 0.5, False),
        (_found(0.76, 0.09), 0.8, False),
        (_found(math.nan, 0.09), 0.5, False),
    ],
    ids=["all met", "transfer loses", "class leaks", "content code is empty", "no better than untouched", "NaN"],
)
def test_a_model_translates_where_all_aims_are_met(one: dict[str, float], untouched: float, translates: bool) -> None:
    assert experiment._aims(one, untouched) == translates


def test_seeds_are_summed_up() -> None:
    found = {"lord": [_found(0.4, 0.05), _found(0.5, 0.05)], "vae-pairs": [_found(0.7, 0.2), _found(0.8, 0.1)]}
    table = experiment._table(found, 0.5)
    probes = "0.0500 ± 0.0000 | 0.0600 ± 0.0000 | 0.0200 ± 0.0000 | 0.900 ± 0.000 | 0.900 ± 0.000 | 0 of 2 |"
    assert f"| LORD | 0.0100 ± 0.0000 | 0.450 ± 0.071 | 0.562 ± 0.088 | {probes}" in table
    assert "| class from content (chance 0.0500) | class from content, of draws | content from class (chance" in table
    assert "mean ± standard deviation over 2 seeds" in table


def test_data_without_contents_leaves_the_probes_of_the_class() -> None:
    names = ("reconstruction_mse", "reconstruction_ssim", "class_from_content", "class_from_class", "class_chance")
    known = {name: value for name, value in _found(0.8, 0.05).items() if name in names}
    assert "| LORD | – | – | – | 0.0500 | – | – | 0.900 | – | 0 of 1 |" in experiment._table(
        {"lord": [known]}, math.nan
    )
