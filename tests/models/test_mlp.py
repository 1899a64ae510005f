"""The fully connected model: its layers, and the names of its parameters in a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sivae.models import MLPVAE
from sivae.models.mlp import ReluNetwork, relu_network
from sivae.ops import relu_network as op
from sivae.ops import use_backend


def test_linear_layers_with_relu_between_them():
    model = MLPVAE(data_dim=3, z_dim=2, hidden=8, layers=2)
    for network, sizes in ((model.encoder, [3, 8, 8, 4]), (model.decoder, [2, 8, 8, 3])):
        assert [type(module) for module in network] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
        linear = [module for module in network if isinstance(module, nn.Linear)]
        assert [layer.in_features for layer in linear] == sizes[:-1]
        assert [layer.out_features for layer in linear] == sizes[1:]
        assert all(layer.bias is not None for layer in linear)


def test_names_in_the_state_dict():
    assert list(MLPVAE(hidden=4, layers=1).state_dict()) == [
        f"{network}.{layer}.{kind}"
        for network in ("encoder", "decoder")
        for layer in (0, 2)
        for kind in ("weight", "bias")
    ]


class TestAsOneOp:
    """Under bfloat16 autocast the layers run as one op, where nobody can see a difference but in the digits."""

    @pytest.fixture
    def calls(self, monkeypatch) -> list[int]:
        made: list[int] = []
        as_one_op = op.relu_network
        monkeypatch.setattr(op, "relu_network", lambda *given: made.append(1) or as_one_op(*given))
        return made

    @pytest.fixture
    def network(self) -> ReluNetwork:
        if not op._has_kernels:
            pytest.skip("the native backend is not built, or this processor does not multiply bfloat16 matrices")
        return relu_network([2, 64, 32, 4])

    @staticmethod
    def called(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    def test_what_the_layers_compute(self, network, calls):
        x = torch.randn(20, 2)
        y = self.called(network, x)
        assert calls and y.dtype is torch.float32
        expected = network(x)
        assert len(calls) == 1
        # A rounding of weights and one of values in each of two layers, of 2^-8 each.
        assert (y - expected).norm() <= 4 * 2.0**-8 * expected.norm()

    @pytest.mark.parametrize("why", ["hook", "layer", "no bias", "width", "float64", "backend", "slice", "own forward"])
    def test_layers_one_by_one(self, network, calls, why):
        x, seen = torch.randn(20, 2), []
        if why == "hook":
            network[1].register_forward_hook(lambda *_: seen.append(1))
        elif why == "layer":
            network[1] = nn.Tanh()
        elif why == "no bias":
            network[2] = nn.Linear(64, 32, bias=False)
        elif why == "width":
            network = relu_network([2, 60, 4])
        elif why == "float64":
            network, x = network.double(), x.double()
        elif why == "own forward":
            inner = network[0].forward
            network[0].forward = lambda x: seen.append(1) or inner(x)
        elif why == "slice":
            network = network[:4]
        with use_backend("reference" if why == "backend" else "native"):
            self.called(network, x)
        assert not calls
        assert bool(seen) is (why in ("hook", "own forward"))

    def test_other_precisions(self, network, calls):
        x = torch.randn(20, 2)
        network(x)
        with torch.autocast("cpu", torch.float16):
            network(x)
        assert not calls

    def test_scripts_and_symbolic_traces_see_the_layers(self, network):
        x = torch.randn(3, 2)
        for other in (torch.jit.script(network), torch.fx.symbolic_trace(network)):
            assert torch.equal(other(x), network(x))

    def test_an_input_of_another_width_is_an_error_of_the_layer(self, network):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            self.called(network, torch.randn(3, 5))

    def test_transforms_see_the_layers(self, network, calls):
        x = torch.randn(3, 2)
        with torch.autocast("cpu", torch.bfloat16):
            torch.func.jacrev(network)(x)
            torch.func.jvp(network, (x,), (x,))
        assert not calls
