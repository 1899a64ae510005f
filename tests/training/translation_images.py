"""Tiny images with classes and contents, and the settings of a run on them that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig

CLASSES, TEST_CLASSES, CONTENTS = 20, 2, 4  # the test classes are the share that reading such an array holds out
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
    """Write an image for every class in every content: the content is a pattern, the class its brightness."""
    patterns = np.random.default_rng(0).integers(0, 256, (CONTENTS, 1, 16, 16, 1))
    pixels = [patterns * (label + 1) // CLASSES for label in range(CLASSES)]
    labels, contents = np.divmod(np.arange(CLASSES * CONTENTS), CONTENTS)
    np.savez(
        path, images=np.concatenate(pixels).reshape(-1, 16, 16, 1).astype(np.uint8), labels=labels, contents=contents
    )
    return path


def translation_config(images: Path, **changes: Any) -> RunConfig:
    """Make the settings of a short run on such images."""
    return preset_config("translation-cars3d", path=str(images), **{**TINY_TRANSLATION, **changes})
