"""Batches for every stage of a growing model, from a released set of faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.data.images import FittedImages, ImageBatches, PackedImages, at_resolution, open_images, prepare
from tests.data.images.samples import encoded, pixels, write_files, write_zip

FACES = np.stack([*(pixels(seed, 16, 16) for seed in range(4)), np.zeros((16, 16, 3)), np.full((16, 16, 3), 255)])
FACES = FACES.astype(np.uint8)
RELEASE = {f"ffhq/images1024x1024/0{n}000/0{n}000.png": encoded(face) for n, face in enumerate(FACES)}

SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: write_files(path / "faces", RELEASE),
    "zip": lambda path: write_zip(path / "faces.zip", RELEASE),
}


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_batches_of_every_stage(source: str, prepared: bool, cache: str, tmp_path: Path) -> None:
    path = SOURCES[source](tmp_path)
    faces: PackedImages | FittedImages = FittedImages(open_images(path), resolution=16)
    if prepared:
        prepare(path, tmp_path / "packed", resolution=16, progress=False)
        packed = open_images(tmp_path / "packed")
        assert isinstance(packed, PackedImages)
        faces = packed
    for side in (4, 8, 16):
        stage = at_resolution(faces, side)
        options = {"batch_size": 6, "seed": 1, "value_range": (-1.0, 1.0), "cache": cache, "workers": 1}
        with ImageBatches(stage, **options, flip=True, progress=False) as batches:  # type: ignore[arg-type]
            x, labels = batches.batch(0)
        assert x.shape == (6, 3, side, side) and x.dtype == torch.float32 and labels is None
        square = 16 // side
        means = FACES.astype(np.float64).reshape(6, side, square, side, square, 3).mean(axis=(2, 4))
        faces_as_trained = torch.from_numpy(np.rint(means) / 255 * 2 - 1).permute(0, 3, 1, 2)
        either = torch.stack([faces_as_trained, faces_as_trained.flip(3)])  # [2, 6, 3, H, W]
        # v/255·2 − 1 in float32: three roundings of numbers up to 2, half of 2⁻²³ each.
        distance = (x.double()[:, None, None] - either).abs().amax(dim=(3, 4, 5))  # [batch, flip, face]
        assert (distance.amin(dim=1) <= 1.5 * 2.0**-23).sum(dim=0).tolist() == [1] * 6
        assert (x.min(), x.max()) == (-1, 1)
