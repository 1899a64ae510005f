"""The recording of the authors' networks for point clouds; its weights follow from a formula."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_STEM = Path(__file__).resolve().parents[1] / "fixtures" / "official_points"


def recorded() -> dict[str, Tensor]:
    """The arrays of the recording."""
    with np.load(_STEM.with_suffix(".npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def recorded_state() -> dict[str, Tensor]:
    """The state dict of the recorded networks, under the authors' names."""
    facts = json.loads(_STEM.with_suffix(".json").read_text())
    return {
        name: _tensor(name, shape, index)
        for index, (name, shape) in enumerate(zip(facts["names"], facts["shapes"], strict=True))
    }


def _tensor(name: str, shape: list[int], index: int) -> Tensor:
    if not shape:
        return torch.tensor(0)  # the number of batches that a norm has seen
    u = np.random.RandomState(1000 + index).uniform(-1.0, 1.0, math.prod(shape)).reshape(shape)
    if name.endswith("running_var"):
        values = 1.0 + 0.3 * u
    elif name.endswith("running_mean"):
        values = 0.1 * u
    elif len(shape) > 1:
        values = math.sqrt(3.0 * shape[0] / u.size) * u
    elif ".conv." in name and name.endswith("weight"):
        values = 1.0 + 0.2 * u
    else:
        values = 0.05 * u
    return torch.from_numpy(values.astype(np.float32))
