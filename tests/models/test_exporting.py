"""Exported programs have torch's own operators and the model's values, for batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sivae.models import MLPVAE, ConvVAE, VAEModel
from sivae.models.exporting import Method, export_program
from sivae.models.lpips import LPIPS
from sivae.models.perceptual import PerceptualDistance
from sivae.models.vgg import TAP_CHANNELS, VGG16Features
from tests.models.every_model import small_models

SIZES = (300, 7, 1)  # the convolutions of the doubled image have another form for small batches
# An export computes the same sums in another order: some hundred roundings of float32.
RELATIVE = 1e-5


def _inputs(model: VAEModel, method: str, rows: int) -> tuple[Tensor, ...]:
    shape = model.sample_shape if method in ("encode", "forward") else model.latent_shape
    inputs = (torch.rand(rows, *shape),)
    return (*inputs, torch.rand(rows, model.condition_dim)) if model.condition_dim else inputs


def _called(call: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Call with the seed that a model's noise is drawn from."""
    torch.manual_seed(9)
    result = call(*inputs)  # type: ignore[operator]
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _compare(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= RELATIVE * theirs.abs().max()


def _namespaces(program: torch.export.ExportedProgram) -> set[str]:
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return {target.namespace for target in targets if isinstance(target, torch._ops.OpOverload)}


SLOW = pytest.mark.slow  # noise has some thousand nodes


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("mlp", "forward"),
        ("conv", "encode"),
        ("conv", "decode"),
        ("translation", "forward"),
        ("autoencoder", "encode"),
        ("autoencoder", "decode"),
        ("style", "encode"),
        pytest.param("style", "decode", marks=SLOW),
        ("style", "render"),
        pytest.param("style", "forward", marks=SLOW),
    ],
)
def test_every_method_of_every_model_exports_for_any_batch(name: str, method: Method) -> None:
    model = small_models()[name].train()
    program = export_program(model, method)
    assert model.training  # as before
    assert _namespaces(program) <= {"aten"}
    exported = program.module()
    model.eval()
    with torch.no_grad():
        for rows in SIZES:
            inputs = _inputs(model, method, rows)
            _compare(_called(exported, inputs), _called(getattr(model, method), inputs))


def test_another_method_is_an_error() -> None:
    with pytest.raises(ValueError, match="export_program: method is 'sample', expected one of encode, decode"):
        export_program(MLPVAE(hidden=4, layers=1), "sample")  # type: ignore[arg-type]


class _Decoder(nn.Module):
    def __init__(self, model: VAEModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.decode(z)


@pytest.mark.parametrize("name", ["translation", pytest.param("style", marks=SLOW)])
def test_modules_around_a_model_export_by_the_compiler_too(name: str) -> None:
    model = small_models()[name].eval()
    z = torch.rand(3, model.z_dim)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(_Decoder(model), (z,), dynamic_shapes=shapes, strict=True)
    assert _namespaces(program) <= {"aten"}
    for rows in SIZES:
        inputs = (torch.rand(rows, model.z_dim),)
        _compare(_called(program.module(), inputs), _called(model.decode, inputs))


@pytest.mark.parametrize("kind", ["features", "perceptual", "lpips"])
def test_the_networks_of_perceptual_distances_export_for_any_batch(kind: str) -> None:
    torch.manual_seed(5)
    features = VGG16Features().eval()
    network: nn.Module = features
    if kind == "perceptual":
        network = PerceptualDistance(features)
    elif kind == "lpips":
        network = LPIPS(features, {tap: torch.rand(1, width, 1, 1) for tap, width in TAP_CHANNELS.items()})
    count = 1 if kind == "features" else 2
    batch = torch.export.Dim("batch")
    inputs = tuple(torch.rand(3, 3, 16, 16) for _ in range(count))
    with torch.no_grad():
        program = torch.export.export(network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
        assert _namespaces(program) <= {"aten"}
        for rows in (20, 1):
            inputs = tuple(torch.rand(rows, 3, 16, 16) for _ in range(count))
            _compare(_called(program.module(), inputs), _called(network, inputs))


def test_one_compiled_graph_decodes_batches_of_every_size() -> None:
    """From 16 images on: below, torch itself traces another convolution on CPUs."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = ConvVAE(32, 3, (4, 6, 6), 5).eval()  # doubles from 4x4: eager calls change at 32 and at 8 images
    compiled = torch.compile(model.decode, dynamic=True, fullgraph=True, backend=keep)
    with torch.no_grad():
        for rows in (16, 17, 31, 32, 33, 64, 130, 300):
            z = torch.randn(rows, 5)
            _compare((compiled(z),), (model.decode(z),))
    assert len(graphs) == 1
