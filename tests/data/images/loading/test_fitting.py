"""A shape is chosen for a set, and a resize is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from sivae.data.images import FittedImages, load_packed, open_images
from sivae.data.images.loading.dataset import read_dataset
from tests.data.images.samples import encoded, pixels, write_files


@pytest.mark.parametrize(
    ("sizes", "resolution", "line"),
    [
        ((8, 8), 8, None),
        ((8, 8), None, None),
        ((8, 8), 4, "set: images of 8×8 are resized to 4×4"),
        ((9, 12), 8, "set: images of 9×9 to 12×12 are resized to 8×8"),
        ((8, 32), 16, "set: images of 8×8 to 32×32 are ENLARGED to 16×16, which adds pixels but no detail"),
    ],
)
def test_what_is_resized_from_what_is_said(
    tmp_path: Path, sizes: tuple[int, ...], resolution: int | None, line: str | None
) -> None:
    content = {f"{index}.png": encoded(pixels(index, size, size)) for index, size in enumerate(sizes)}
    images = open_images(write_files(tmp_path / "set", content))
    said: list[str] = []
    load_packed(images, resolution=resolution, progress=False, notice=said.append)
    if resolution is not None:
        FittedImages(images, resolution=resolution, notice=said.append)
        assert said[:1] == said[1:]
    assert (said[0] if said else "").startswith(line or "") and bool(said) == (line is not None)


def test_a_dataset_of_python_says_it_too() -> None:
    said: list[str] = []
    read_dataset([pixels(0, 4, 4), pixels(1, 8, 8)], resolution=8, channels=3, progress=False, notice=said.append)
    assert said == [
        "list: images of 4×4 to 8×8 are ENLARGED to 8×8, which adds pixels but no detail; "
        "choose --resolution 4 or a preset of that size, if there is one"
    ]
