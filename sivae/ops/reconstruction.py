"""The reconstruction error of each sample."""

from __future__ import annotations

from torch import Tensor

from sivae.ops import backends
from sivae.ops.checks import check_pair, kind_index, reduction_index
from sivae.ops.ranges import annotated


@annotated
def reconstruction_error(
    recon: Tensor, target: Tensor, *, kind: str = "mse", reduction: str = "none", backend: str | None = None
) -> Tensor:
    """Error between a reconstruction and its target, summed over all elements of each sample.

    Kinds, per element, with r = recon and t = target:
        "mse": (r - t)^2, without a factor 1/2 (Soft-IntroVAE's convention);
        "l1": |r - t|, with derivative 0 where they are equal;
        "bce": -(t ln r + (1 - t) ln(1 - r)), with logarithms of at least -100 as in torch; r outside [0, 1] gives NaN;
        "bce_with_logits": bce of sigmoid(r), computed as max(r, 0) - r t + ln(1 + exp(-|r|)).

    Args:
        recon, target: [B, ...] of one shape, float64, float32, bfloat16 or float16, also mixed: the narrower one is
            widened. Views and channels-last images are read in place.
        reduction: "none" gives [B]; "mean" and "sum" go over B (the mean of an empty batch is NaN).
        backend: "native", "triton", "reference" or None (the fastest available).

    Returns:
        rec: [B] or a scalar, float32 (float64 where a tensor is float64).

    Relative error against float64 (float32, n elements a sample): (16 + min(n, 1024) / 4) * 6e-8.

    Raises:
        TypeError, ValueError: wrong type, dtype, shape or device, naming the argument.
        RuntimeError: the requested backend is not available, or a compiled backend is differentiated twice.
    """
    recon, target = check_pair("reconstruction_error", "recon", recon, "target", target)
    kind_position = kind_index("reconstruction_error", kind)
    reduction_position = reduction_index("reconstruction_error", reduction)
    ops = backends.select("reconstruction_error", backend, recon.device)
    return ops.reconstruction_error(recon, target, kind_position, reduction_position)
