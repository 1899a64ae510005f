"""Sets of images that need no files. Two have names that stand where a path is expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from sivae.data.images.base import PackedImages, Split
from sivae.data.images.builtin.digits import open_digits
from sivae.data.images.builtin.mnist import open_mnist_5k

NAMED: Mapping[str, Callable[[Split | None], PackedImages]] = {"digits": open_digits, "mnist-5k": open_mnist_5k}


def is_named(path: str) -> bool:
    """Whether a path names a set of :data:`NAMED`. A file or folder of that name comes first."""
    return path in NAMED and not Path(path).exists()
