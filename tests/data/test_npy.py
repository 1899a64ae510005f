"""Arrays in `.npy` and `.npz` files: the same bytes, and damage that is named."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sivae.data.npy import Arrays, map_array, read_array, read_header


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3).astype(">i2"),
    np.zeros((0, 3)),
    np.float32(7).reshape(()),
]


@pytest.mark.parametrize("array", ARRAYS, ids=["rows", "columns", "big-endian", "empty", "scalar"])
def test_an_array_is_read_from_bytes_files_and_archives(array: np.ndarray, tmp_path: Path) -> None:
    content = npy(array)
    (tmp_path / "a.npy").write_bytes(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", content)
    (tmp_path / "a.npz").write_bytes(archive.getvalue())
    for found in (
        read_array(content),
        map_array(tmp_path / "a.npy"),
        Arrays(tmp_path / "a.npz")["x"],
        Arrays(Path("a.npz in set.zip"), archive.getvalue())["x"],
    ):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_no_damage_of_a_header_raises_another_error() -> None:
    stream = random.Random(0)
    content = npy(np.arange(6.0).reshape(2, 3))
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(stream.randint(1, 3)):
            damaged[stream.randrange(128)] = stream.choice(b"\0\xff(){}[]'\",:# 0123456789OFabc\n")
        try:
            found = read_header(bytes(damaged), len(damaged))
        except ValueError:
            continue
        assert found.dtype.itemsize * int(np.prod(found.shape)) <= len(damaged)


def test_damage_that_breaks_the_syntax_of_a_header_is_named() -> None:
    with pytest.raises(ValueError, match="its header is damaged"):
        read_array(npy(np.arange(3)).replace(b"}", b"("))
