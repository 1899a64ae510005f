"""A fully connected network with ReLU, in one op."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import torch
from torch import Tensor

from sivae.ops import backends, reference
from sivae.ops.checks import check_floating, check_kind
from sivae.ops.ranges import annotated

_OP = "relu_mlp"
_NATIVE_DTYPES = (torch.float32, torch.float64)


@annotated
def relu_mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, backend: str | None = None) -> Tensor:
    """Linear layers with ReLU between them and none after the last.

    h_0 = x; h_i = relu(h_(i-1) weight_i^T + bias_i); y = h_(n-1) weight_n^T + bias_n.

    Args:
        x: [B, in_1], float64, float32, bfloat16 or float16.
        weights: of at least one layer, [out_i, in_i] with in_(i+1) = out_i, in x's dtype.
        biases: [out_i], in x's dtype.
        backend: "native" (on the CPU), "reference" or None, the faster that is there. Where None, half types, and
            whatever runs under autocast, which picks the dtype of a matrix product, run on the reference.

    Returns:
        y: [B, out_n] in x's dtype. Products are summed by the matrix library in x's dtype. For backward x, the weights
        and the hidden activations are kept.

    Error of a layer of n inputs against float64 (u is the rounding unit, 2^-24 in float32): at most
    (n + 2) u (sum of |x weight| + |bias|), beside what its inputs' error comes to. The gradient of a weight or a bias
    is a sum over the batch, with B in place of n. The same inputs give the same bits on the same number of threads.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the backend asked for is not available; or a second, a batched or a forward-mode derivative is
            asked of the native backend; or x or a weight is changed in place before its backward pass, which keeps all
            of them.
    """
    check_floating(_OP, "x", x)
    if x.dim() != 2:
        raise ValueError(f"{_OP}: x has shape {list(x.shape)}, expected [B, features]")
    for name, values in (("weights", weights), ("biases", biases)):
        if isinstance(values, Tensor) or not isinstance(values, Sized):
            raise TypeError(f"{_OP}: {name} is {type(values).__name__}, expected a list of torch.Tensor")
    if not weights or len(biases) != len(weights):
        raise ValueError(
            f"{_OP}: got {len(weights)} weights and {len(biases)} biases, expected one of each for every layer"
        )
    features = x.shape[1]
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        check_kind(_OP, f"weights[{index}]", weight, "x", x)
        if weight.dim() != 2 or weight.shape[1] != features:
            raise ValueError(f"{_OP}: weights[{index}] has shape {list(weight.shape)}, expected [features, {features}]")
        features = weight.shape[0]
        check_kind(_OP, f"biases[{index}]", bias, "x", x)
        if bias.shape != (features,):
            raise ValueError(f"{_OP}: biases[{index}] has shape {list(bias.shape)}, expected [{features}]")
    if (
        backend is None
        and x.device.type == "cpu"
        and (x.dtype not in _NATIVE_DTYPES or torch.is_autocast_enabled("cpu"))
    ):
        return reference.relu_mlp(x, weights, biases)
    ops = backends.select(_OP, backend, x.device)
    if backend == "native" and x.dtype not in _NATIVE_DTYPES:
        raise TypeError(f"{_OP}: x has dtype {x.dtype}, expected float64 or float32 on backend 'native'")
    y: Tensor = ops.relu_mlp(x, list(weights), list(biases))
    return y
