"""Load images with a plain Dataset and a shuffling DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def _tensor(image: np.ndarray) -> Tensor:
    """uint8 [H, W, C] -> float32 [C, H, W] in 0 … 1, mirrored at random."""
    x = torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div(255)
    return x.flip(2) if torch.rand(()) < 0.5 else x


class ArrayDataset(Dataset[Tensor]):
    """Images in an array, uint8 [N, H, W, C]."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        return _tensor(self.array[index])


class FileDataset(Dataset[Tensor]):
    """The image files of a folder, each decoded when it is read."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as picture:
            return _tensor(np.asarray(picture.convert("RGB")))


def batches(dataset: Dataset[Tensor], *, batch_size: int, workers: int, device: torch.device) -> Iterator[Tensor]:
    """Shuffled batches on the device, epoch after epoch.

    Args:
        dataset: the images.
        batch_size: images in a batch; an epoch's last batch is left out if it is incomplete.
        workers: processes that read; 0: this process reads.
        device: of the batches.
    """
    cuda = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=cuda,
        persistent_workers=workers > 0,
    )
    while True:
        for batch in loader:
            yield batch.to(device, non_blocking=True)
