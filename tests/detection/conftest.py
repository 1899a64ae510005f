"""Fixtures: a small model of images, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sivae.models import ConvVAE
from tests.detection.samples import pixels


@pytest.fixture(scope="module")
def model() -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE(image_size=8, channels=3, widths=(8,), z_dim=4).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with four image files of several sizes and colours, one of them in a subfolder, and a text file."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for index, (name, image) in enumerate(zip(("b.png", "a.png", "inner/c.png"), pixels(3, 16), strict=True)):
        Image.fromarray(image[: 16 - 4 * index]).save(folder / name)
    Image.fromarray(pixels(1, 8, 1)[0, :, :, 0]).save(folder / "grey.png")
    (folder / "notes.txt").write_text("no image")
    return folder
