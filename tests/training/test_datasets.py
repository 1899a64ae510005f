"""Runs on a map-style dataset, given to `sivae.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sivae
from sivae.errors import CheckpointError, ConfigError
from sivae.settings.presets import preset_config
from sivae.training import RunConfig
from sivae.training.tasks.base import open_task
from tests.training.runs import assert_same, train_until

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)


def _dataset() -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.arange(30) % 3)


def _config(**changes: Any) -> RunConfig:
    tiny = {"steps": 6, "batch_size": 8, "resolution": 8, "widths": (4, 8), "z_dim": 3, "threads": 1, "device": "cpu"}
    return preset_config("cifar10", **{**tiny, "log_every": 1, "checkpoint_every": 2, **changes})


def test_a_dataset_trains_as_a_file_of_the_same_images(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    sivae.train(_config(path=str(tmp_path / "images.npy")), tmp_path / "file", progress=False)
    summary = sivae.train(_config(), tmp_path / "dataset", data=_dataset(), progress=False)
    assert summary["steps"] == 6 and (tmp_path / "dataset" / "samples.png").exists()
    assert_same(tmp_path / "dataset", tmp_path / "file")


def test_a_run_says_which_images_its_metrics_are_of() -> None:
    both = {"train": _dataset(), "test": torch.utils.data.Subset(_dataset(), range(9))}
    assert open_task(_config(), CPU, data=both).measured_on == "9 test images"
    alone = open_task(_config(), CPU, data=_dataset())
    assert alone.measured_on == "30 training images, as the data has no test part"


def test_networks_that_do_not_fit_the_memory_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the networks have .* parameters, which take .*choose less z_dim or widths"):
        sivae.train(_config(z_dim=10**9), tmp_path / "run", data=_dataset(), progress=False)
    assert not (tmp_path / "run").exists()


def test_labels_of_a_dataset_are_the_conditions(tmp_path: Path) -> None:
    parts = {"train": _dataset(), "test": torch.utils.data.Subset(_dataset(), range(9))}
    sivae.train(_config(conditional=True), tmp_path / "run", data=parts, progress=False)
    model = sivae.from_pretrained(tmp_path / "run")
    assert model.condition_dim == 3


def test_a_stopped_run_resumes_exactly_with_the_same_dataset(tmp_path: Path) -> None:
    sivae.train(_config(), tmp_path / "whole", data=_dataset(), progress=False)
    train_until(3, _config(), tmp_path / "run", data=_dataset())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["path"] is None
    with pytest.raises(ConfigError, match="the preset cifar10 needs images; name them by --data PATH"):
        sivae.train(out=tmp_path / "run", resume=True, progress=False)
    with pytest.raises(CheckpointError, match="its images were 30 x 8 x 3"):
        sivae.train(out=tmp_path / "run", resume=True, data=list(PIXELS[:20]), progress=False)
    sivae.train(out=tmp_path / "run", resume=True, data=_dataset(), progress=False)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("digits", "data: the preset digits has images of its own; leave data out"),
        ("rings", "data: the preset rings draws its points from a density; leave data out"),
    ],
)
def test_presets_with_built_in_data_take_no_dataset(preset: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        sivae.train(preset_config(preset, steps=2), tmp_path / "run", data=_dataset(), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_wrong_item_is_an_error_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="item 0 of list holds a str"):
        sivae.train(_config(), tmp_path / "run", data=["a.png"], progress=False)
    assert not (tmp_path / "run").exists()


def test_a_dataset_and_a_path_are_not_given_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data: the configuration names images too, path = 'photos'; leave one out"):
        sivae.train(_config(path="photos"), tmp_path / "run", data=_dataset(), progress=False)


@pytest.mark.parametrize("keys", [["test"], ["train", "tets"], []])
def test_a_dict_names_train_and_maybe_test(keys: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='expected a dataset, or a dict of datasets under "train" and maybe "test"'):
        sivae.train(_config(), tmp_path / "run", data=dict.fromkeys(keys, _dataset()), progress=False)
