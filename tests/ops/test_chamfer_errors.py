"""Test that the Chamfer distance refuses wrong arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sivae import ops

X = torch.zeros(2, 5, 3)
FLOATING = "expected float64, float32, bfloat16 or float16"


def refusals() -> dict[str, tuple[type[Exception], str, Callable[[], object]]]:
    op = ops.chamfer_distance
    expected = "expected [B, N, D] with coordinates"
    return {
        "a type": (TypeError, "points is list, expected a torch.Tensor", lambda: op([1.0], X)),
        "a dtype": (TypeError, f"targets has dtype torch.int64, {FLOATING}", lambda: op(X, X.long())),
        "a layout": (
            TypeError,
            "points has layout torch.sparse_coo, expected torch.strided; call points.to_dense()",
            lambda: op(X.to_sparse(), X),
        ),
        "dimensions": (ValueError, f"points has shape [5, 3], {expected}", lambda: op(X[0], X)),
        "no coordinates": (ValueError, f"targets has shape [2, 5, 0], {expected}", lambda: op(X, X[:, :, :0])),
        "a batch": (
            ValueError,
            "targets has shape [1, 5, 3], expected [2, M, 3] as points, with any M",
            lambda: op(X, X[:1]),
        ),
        "coordinates": (
            ValueError,
            "targets has shape [2, 5, 2], expected [2, M, 3] as points, with any M",
            lambda: op(X, X[:, :, :2]),
        ),
        "a device": (ValueError, "targets is on meta, expected cpu as points", lambda: op(X, X.to("meta"))),
        "a reduction": (
            ValueError,
            "reduction is 'batchmean', expected 'none', 'mean' or 'sum'",
            lambda: op(X, X, reduction="batchmean"),
        ),
        "a backend": (
            ValueError,
            "backend is 'cuda', expected one of 'native', 'triton', 'reference' or None",
            lambda: op(X, X, backend="cuda"),
        ),
    }


@pytest.mark.parametrize("what", refusals())
def test_refuses(what):
    error, message, call = refusals()[what]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert str(caught.value) == f"chamfer_distance: {message}"
