"""Export a method of a model as a program of torch's own operators, for batches of any size."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sivae.models.base import VAEModel, evaluating

Method = Literal["encode", "decode", "render", "forward"]


def export_program(model: VAEModel, method: Method) -> torch.export.ExportedProgram:
    """Export a method in eval mode. The program needs torch alone, or becomes ONNX by `torch.onnx.export`.

    Args:
        model: on any device; a growing model is exported at its current stage.
        method: "encode", from samples to mu and logvar; "decode", from latents to samples, where a model with noise
            maps draws new ones in each call; "render", the same with fixed noise; "forward", from samples to their
            reconstructions. A conditional model's programs take conditions as the second argument.

    Returns:
        A program for batches of any size, with the model's values.

    Raises:
        ValueError: there is no such method.
    """
    methods = get_args(Method)
    if method not in methods:
        raise ValueError(f"export_program: method is {method!r}, expected one of {', '.join(methods)}")
    of_samples = method in ("encode", "forward")
    weight = next(model.parameters())
    rows = 2  # any number but 1, which torch takes for a constant
    inputs = [torch.zeros(rows, *(model.sample_shape if of_samples else model.latent_shape)).to(weight)]
    if model.condition_dim:
        inputs.append(torch.zeros(rows, model.condition_dim).to(weight))
    batch = torch.export.Dim("batch")
    with evaluating(model):
        return torch.export.export(
            _Calls(model, method), tuple(inputs), dynamic_shapes=(tuple({0: batch} for _ in inputs),)
        )


class _Calls(nn.Module):
    """A module whose call is a method of a model: torch exports modules only."""

    def __init__(self, model: VAEModel, method: Method) -> None:
        super().__init__()
        self.model, self._method = model, method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.model, self._method)(*inputs)
