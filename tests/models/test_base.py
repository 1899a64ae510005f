"""The base class of models, and its helper functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sivae.models.base import device_and_dtype, one_hot


def test_labels_become_conditions() -> None:
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(torch.zeros(0, dtype=torch.long), 3).shape == (0, 3)
    with pytest.raises(ValueError, match="labels run from 0 to 3, expected 0 to 2, as the model has 3 classes"):
        one_hot(torch.tensor([0, 3]), 3)


def test_device_and_dtype_are_those_of_the_parameters() -> None:
    assert device_and_dtype(nn.Linear(2, 2, dtype=torch.bfloat16)) == (torch.device("cpu"), torch.bfloat16)
    assert device_and_dtype(nn.Linear(2, 2, device="meta"), "cpu") == (torch.device("cpu"), torch.float32)
    assert device_and_dtype(nn.Identity()) == (torch.device("cpu"), torch.float32)
