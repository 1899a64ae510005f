"""What tests of runs on images share: tiny images of classes, stopping a run, and comparing what two leave."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints
from sivae.training.recorder import read_records
from sivae.training.tasks.images import ImageTask

Outcome = tuple[dict[str, Tensor], list[dict[str, Any]]]
CLASSES, TEST_CLASSES, CONTENTS = 20, 2, 4  # the share that reading such an array holds out
TINY_TRANSLATION: dict[str, Any] = {
    "steps": 8,
    "batch_size": 8,
    "resolution": 8,
    "channels": 1,
    "content_dim": 3,
    "class_dim": 4,
    "width": 2,
    "hidden": 8,
    "threads": 1,
    "seed": 3,
    "device": "cpu",
    "log_every": 1,
    "checkpoint_every": 3,
    "sample_every": 5,
}


def write_translation_images(path: Path) -> Path:
    """Every class in every content: the content's pattern, as bright as the class says."""
    patterns = np.random.default_rng(0).integers(0, 256, (CONTENTS, 1, 16, 16, 1))
    pixels = [patterns * (label + 1) // CLASSES for label in range(CLASSES)]
    labels, contents = np.divmod(np.arange(CLASSES * CONTENTS), CONTENTS)
    np.savez(
        path, images=np.concatenate(pixels).reshape(-1, 16, 16, 1).astype(np.uint8), labels=labels, contents=contents
    )
    return path


def translation_config(images: Path, **changes: Any) -> RunConfig:
    """Of a run of seconds on such images."""
    return preset_config("translation-cars3d", path=str(images), **{**TINY_TRANSLATION, **changes})


def stopping(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM comes as the batch of a step is taken."""
    original = ImageTask.batch

    def batch(self: ImageTask, at: int) -> tuple[Tensor, Tensor | None]:
        if at == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, at)

    monkeypatch.setattr(ImageTask, "batch", batch)


def outcome(folder: Path) -> Outcome:
    """Every tensor of the last checkpoint's models, and the records without times."""
    last = list_checkpoints(folder / "checkpoints")[-1]
    weights = {
        f"{name}/{key}": value
        for name in sorted(os.listdir(last))
        if name.endswith(".safetensors")
        for key, value in load_file(last / name).items()
    }
    return weights, [{key: value for key, value in one.items() if key != "seconds"} for one in read_records(folder)]


def assert_same(folder: Path, reference: Path) -> None:
    """Weights bit for bit, records, metrics and final losses."""
    (mine, my_records), (theirs, their_records) = outcome(folder), outcome(reference)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name
    assert my_records == their_records
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, reference)]
    for key in (*summaries[1]["metrics"], "final", "steps"):
        assert summaries[0][key] == summaries[1][key], key
