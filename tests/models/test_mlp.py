"""The fully connected networks: one op where that is the same, plain modules where it would not be."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from sivae import ops
from sivae.models import MLPVAE
from sivae.models.mlp import ReluMLP
from tests.ops.test_gradients import CallRecorder

NATIVE = "native" in ops.available_backends()


def made(network: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
    """The network's output, and whether the native op made it."""
    with CallRecorder() as recorder:
        y = network(x)
    return y, any(name.startswith("relu_mlp") for name, _ in recorder.calls)


def modules_alone(network: nn.Sequential, x: Tensor) -> Tensor:
    for module in network:
        x = module(x)
    return x


@pytest.fixture
def network() -> ReluMLP:
    torch.manual_seed(2)
    return ReluMLP.of_sizes([3, 16, 16, 2]).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def assert_agrees(ours: Tensor, theirs: Tensor) -> None:
    """Sums of up to 16 products in another order, three layers deep, and back, then over 7 samples: some 100 roundings.

    Each is 1.1e-16 of numbers about 1, and where terms cancel, of the terms.
    """
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


def test_one_op_gives_what_the_modules_give(network, x):
    other = copy.deepcopy(network)
    y, native = made(network, x)
    assert native == NATIVE
    expected = modules_alone(other, x)
    assert_agrees(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert_agrees(ours.grad, theirs.grad)


def test_without_gradients(network, x):
    with torch.no_grad():
        y, native = made(network, x)
    assert native == NATIVE
    assert_agrees(y, modules_alone(network, x))


def test_names_in_the_state_dict():
    assert list(MLPVAE(hidden=4, layers=1).state_dict()) == [
        f"{network}.{layer}.{kind}"
        for network in ("encoder", "decoder")
        for layer in (0, 2)
        for kind in ("weight", "bias")
    ]


class TestPlainModules:
    @pytest.mark.parametrize("index", [0, 1, 4])
    @pytest.mark.parametrize(
        "register",
        ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_full_backward_pre_hook"],
    )  # fmt: skip
    def test_a_hook_of_a_layer_is_called(self, x, index, register):
        network, called = ReluMLP.of_sizes([3, 16, 16, 2]).double(), []
        if "backward" in register:
            network[1].inplace = network[3].inplace = False  # torch's full backward hooks refuse what is written over
        handle = getattr(network[index], register)(lambda *_: called.append(index))
        y, native = made(network, x)
        y.sum().backward()
        assert called == [index]
        assert not native
        handle.remove()
        again, native = made(network, x)
        assert native == NATIVE
        assert_agrees(again, y)

    def test_a_hook_of_all_modules_is_called(self, network, x):
        called: list[type[nn.Module]] = []
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module)))
        try:
            _, native = made(network, x)
        finally:
            handle.remove()
        assert not native
        assert called.count(nn.Linear) == 3

    def test_a_hook_of_the_network_itself_leaves_it_one_op(self, network, x):
        called: list[int] = []
        network.register_forward_hook(lambda *_: called.append(1))
        assert made(network, x)[1] == NATIVE
        assert called == [1]

    def test_other_layers_in_place_of_ours(self, network, x):
        network[1] = nn.Tanh()
        y, native = made(network, x)
        assert not native
        assert_agrees(y, modules_alone(network, x))

    def test_a_layer_without_bias(self, network, x):
        network[2] = nn.Linear(16, 16, bias=False).double()
        y, native = made(network, x)
        assert not native
        assert_agrees(y, modules_alone(network, x))

    @pytest.mark.parametrize("part", [slice(None, -1), slice(2, 4), slice(0, 0)], ids=str)
    def test_a_part_of_the_network(self, network, x, part):
        x = x if part.start != 2 else torch.ones(7, 16, dtype=x.dtype)
        cut = network[part]
        y, native = made(cut, x)
        assert not native
        assert_agrees(y, modules_alone(cut, x))

    @pytest.mark.parametrize("index", [0, 1])
    def test_a_forward_of_a_layer_of_its_own(self, network, x, index):
        layer = network[index]
        plain = layer.forward
        layer.forward = lambda value: 2.0 * plain(value)
        y, native = made(network, x)
        assert not native
        assert_agrees(y, modules_alone(network, x))

    def test_a_kind_of_weight_of_its_own(self, network, x):
        seen: list[object] = []

        class Seen(Tensor):
            @classmethod
            def __torch_function__(cls, function, types, arguments=(), options=None):
                seen.append(function)
                return super().__torch_function__(function, types, arguments, options or {})

        network[0].weight = nn.Parameter(network[0].weight.detach().as_subclass(Seen))
        seen.clear()
        _, native = made(network, x)
        assert not native
        assert nn.functional.linear in seen

    @pytest.mark.parametrize("wrap", ["parametrization", "weight_norm", "spectral_norm"])
    def test_a_parametrised_weight(self, network, x, wrap):
        class Doubled(nn.Module):
            def forward(self, weight: Tensor) -> Tensor:
                return 2.0 * weight

        if wrap == "parametrization":
            parametrize.register_parametrization(network[2], "weight", Doubled())
        else:
            getattr(nn.utils.parametrizations, wrap)(network[2])
        network.eval()  # spectral_norm's estimate then stays as it is
        y, native = made(network, x)
        assert not native
        assert_agrees(y, modules_alone(network, x))

    def test_autocast(self, network, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, native = made(network.float(), x.float())
        assert not native
        assert y.dtype == torch.bfloat16

    def test_other_devices(self, network, x):
        y, native = made(network.to("meta"), x.to("meta"))
        assert not native
        assert y.shape == (7, 2)

    @pytest.mark.parametrize("shape", [(3,), (2, 5, 3)], ids=str)
    def test_batches_of_other_dimensions(self, network, shape):
        x = torch.randn(shape, dtype=torch.float64)
        assert_agrees(network(x), modules_alone(network, x))

    def test_transforms_of_functions(self, network, x):
        """A Jacobian by torch.func, which autograd functions in C++ have no rule for."""
        jacobians = torch.func.vmap(torch.func.jacrev(network))(x)
        for sample, jacobian in zip(x, jacobians, strict=True):
            assert_agrees(jacobian, torch.autograd.functional.jacobian(network, sample[None])[0, :, 0])

    @pytest.mark.parametrize("frozen", [False, True])
    def test_forward_mode_derivatives(self, network, x, frozen):
        network.requires_grad_(not frozen)
        tangent = torch.ones_like(x)
        with forward_ad.dual_level():
            ours = forward_ad.unpack_dual(network(forward_ad.make_dual(x, tangent))).tangent
            theirs = forward_ad.unpack_dual(modules_alone(network, forward_ad.make_dual(x, tangent))).tangent
        assert_agrees(ours, theirs)

    def test_export(self, network, x):
        exported = torch.export.export(network, (x,))
        assert "relu_mlp" not in str(exported.graph)
        assert_agrees(exported.module()(x), network(x))


def test_compiles_without_graph_breaks(network, x):
    """The op is in the graph where it runs uncompiled."""
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(str(graph.graph))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    assert_agrees(compiled(x), network(x))
    assert [("relu_mlp" in graph) for graph in graphs] == [NATIVE]
    torch._dynamo.reset()
