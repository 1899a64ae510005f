"""Sets of images that need no files. Two have names that stand where a path is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sivae.data.clouds import builtin as clouds
from sivae.data.images.base import PackedImages, Split
from sivae.data.images.builtin.digits import open_digits
from sivae.data.images.builtin.mnist import open_mnist_5k
from sivae.errors import DataError

NAMED: Mapping[str, Callable[[Split | None], PackedImages]] = {"digits": open_digits, "mnist-5k": open_mnist_5k}


def check_is_of_images(path: str) -> None:
    """Refuse the name of the built-in point clouds, unless a file or folder has it.

    Raises:
        DataError: it is that.
    """
    if clouds.is_named(path) and not Path(path).exists():
        raise DataError(
            f"{path}: these are built-in point clouds, expected images; name a folder, an archive or a file of images, "
            f"or {' or '.join(NAMED)}; a model of point clouds is trained by sivae train points-shapes"
        )


def is_named(path: str) -> bool:
    """Whether a path names a set of :data:`NAMED`. A file or folder of that name comes first."""
    return path in NAMED and not Path(path).exists()
