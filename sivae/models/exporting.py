"""Export a method of a model as a program of torch's own operators, for batches of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from sivae.models.base import VAEModel, evaluating
from sivae.models.style import StyleVAE

Method = Literal["encode", "decode", "render", "forward"]


def export_program(model: VAEModel, method: Method, *, noise_inputs: bool = False) -> torch.export.ExportedProgram:
    """Export a method in eval mode. The program needs torch alone, or becomes ONNX by `torch.onnx.export`.

    Args:
        model: on any device; a growing model is exported at its current stage.
        method: "encode", from samples to mu and logvar; "decode", from latents to samples, where a model with noise
            maps draws new ones in each call; "render", the same with fixed noise; "forward", from samples to their
            reconstructions. A conditional model's programs take conditions as the second argument.
        noise_inputs: of "decode" of a style-based model: the program takes the noise maps as its last arguments, each
            [B, 1, S, S], with the shapes of :meth:`StyleVAE.noise_shapes`.

    Returns:
        A program for batches of any size, with the model's values.

    Raises:
        ValueError: there is no such method, or it has no noise.
    """
    methods = get_args(Method)
    if method not in methods:
        raise ValueError(f"export_program: method is {method!r}, expected one of {', '.join(methods)}")
    if noise_inputs and (method != "decode" or not model.has_styles):
        raise ValueError(
            f"export_program: noise_inputs is for decode of a style-based model, got {method} of {model.name}"
        )
    calls: nn.Module = _Calls(model, method)
    if noise_inputs:
        calls = _DecodesWithNoise(cast(StyleVAE, model))
    elif method == "render" and model.has_styles:
        calls = _DecodesWithNoise(cast(StyleVAE, model), cast(StyleVAE, model).fixed_noise())
    inputs = tuple(example_inputs(model, method, 2, noise_inputs=noise_inputs).values())  # torch takes 1 for a constant
    batch = torch.export.Dim("batch")
    with evaluating(model):
        return torch.export.export(calls, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))


def example_inputs(model: VAEModel, method: Method, rows: int, *, noise_inputs: bool = False) -> dict[str, Tensor]:
    """Draw inputs of a program by their names, from torch's default generator: x or z, condition, noise0, noise1, …

    Args:
        rows: the batch size.
    """
    weight = next(model.parameters())
    if method in ("encode", "forward"):
        inputs = {"x": torch.rand(rows, *model.sample_shape)}
    else:
        inputs = {"z": torch.randn(rows, *model.latent_shape)}
    if model.condition_dim:
        inputs["condition"] = torch.eye(model.condition_dim)[torch.arange(rows) % model.condition_dim]
    if noise_inputs:
        shapes = cast(StyleVAE, model).noise_shapes()
        inputs |= {f"noise{number}": torch.randn(rows, *shape) for number, shape in enumerate(shapes)}
    return {name: value.to(weight) for name, value in inputs.items()}


class _Calls(nn.Module):
    """A module whose call is a method of a model: torch exports modules only."""

    def __init__(self, model: VAEModel, method: Method) -> None:
        super().__init__()
        self.model, self._method = model, method

    def forward(self, *inputs: Tensor) -> Any:
        return getattr(self.model, self._method)(*inputs)


class _DecodesWithNoise(nn.Module):
    """Decode with these noise maps, which the program then holds and need not draw; or with those of the inputs."""

    def __init__(self, model: StyleVAE, maps: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.model = model
        self._maps = len(maps)
        for number, noise in enumerate(maps):
            self.register_buffer(f"noise{number}", noise)

    def forward(self, *inputs: Tensor) -> Tensor:
        z, *given = inputs
        held = [self.get_buffer(f"noise{number}") for number in range(self._maps)]
        return self.model.decode(z, noise=held or given)
