"""Test that the styled instance norm refuses wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sivae import ops
from tests.ops.samples import low_level

X = torch.zeros(2, 3, 4, 5)
FLOATING = "expected float64, float32, bfloat16 or float16"


def refusals() -> dict[str, tuple[type[Exception], str, Callable[[], object]]]:
    op = ops.styled_instance_norm
    noise, per_channel, per_plane = torch.zeros(2, 1, 4, 5), torch.zeros(3), torch.zeros(2, 3)
    both = "expected both or neither"
    return {
        "x's type": (TypeError, "x is list, expected a torch.Tensor", lambda: op([1.0])),
        "x's dtype": (TypeError, f"x has dtype torch.int64, {FLOATING}", lambda: op(X.long())),
        "x's dimensions": (
            ValueError, "x has shape [3], expected [B, C, H, W] with pixels", lambda: op(per_channel)
        ),
        "no pixels": (
            ValueError, "x has shape [2, 3, 0, 5], expected [B, C, H, W] with pixels", lambda: op(X[:, :, :0])
        ),
        "noise alone": (ValueError, f"noise is given without noise_weight, {both}", lambda: op(X, noise=noise)),
        "weight alone": (
            ValueError, f"noise_weight is given without noise, {both}", lambda: op(X, noise_weight=per_channel)
        ),
        "shift alone": (ValueError, f"shift is given without scale, {both}", lambda: op(X, shift=per_plane)),
        "noise's shape": (
            ValueError,
            "noise has shape [2, 3, 4, 5], expected [2, 1, 4, 5] or [1, 1, 4, 5]",
            lambda: op(X, noise=X, noise_weight=per_channel),
        ),
        "noise's gradient": (
            ValueError,
            "noise requires a gradient, which this op does not compute; detach it",
            lambda: op(X, noise=noise.clone().requires_grad_(), noise_weight=per_channel),
        ),
        "bias's shape": (ValueError, "bias has shape [2, 3], expected [3]", lambda: op(X, bias=per_plane)),
        "bias's type": (TypeError, "bias is float, expected a torch.Tensor or None", lambda: op(X, bias=1.0)),
        "bias's dtype": (
            TypeError,
            f"bias has dtype torch.int64, {FLOATING}",
            lambda: op(X.bfloat16(), bias=per_channel.long()),
        ),
        "bias's layout": (
            TypeError,
            "bias has layout torch.sparse_coo, expected torch.strided; call bias.to_dense()",
            lambda: op(X, bias=per_channel.to_sparse()),
        ),
        "scale's shape": (
            ValueError, "scale has shape [3], expected [2, 3]", lambda: op(X, scale=per_channel, shift=per_plane)
        ),
        "bias's device": (
            ValueError, "bias is on meta, expected cpu as x", lambda: op(X, bias=per_channel.to("meta"))
        ),
        "eps": (ValueError, "eps is 0.0, expected a finite number above 0", lambda: op(X, eps=0.0)),
        "slope": (
            ValueError, "negative_slope is inf, expected a finite number", lambda: op(X, negative_slope=math.inf)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", refusals())
def test_refuses(what):
    error, message, call = refusals()[what]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert str(caught.value) == f"styled_instance_norm: {message}"


def test_low_level_op_refuses_what_does_not_fit(compiled_backend):
    """Direct calls through torch.ops never read outside an operand."""
    op = low_level("styled_instance_norm", compiled_backend)
    for operands in (
        (torch.zeros(1, 1, 2, 2), torch.zeros(3), None, None, None),
        (None, None, torch.zeros(2), None, None),
        (None, None, None, torch.zeros(2, 2), torch.zeros(2, 3)),
        (None, torch.zeros(3), None, None, None),
    ):
        with pytest.raises(ValueError, match="sivae: "):
            op(X, *operands, 0.2, 1e-8)
