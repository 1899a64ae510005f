"""Set how an NVIDIA GPU multiplies float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32_products(*, rounded: bool) -> Iterator[None]:
    """Round the factors of float32 products and convolutions on an NVIDIA GPU to TF32, or keep them exact.

    By default torch rounds those of convolutions (cuDNN) and keeps those of products (cuBLAS).
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = rounded, rounded
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
