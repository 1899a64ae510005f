"""Test the native network with ReLU in bfloat16 against float64, and its registration. Its use by models: test_mlp.

Expected values take the roundings to bfloat16 that the op documents, so that what is left are sums in float32, and
values next to a rounding's border, which it may move by one step.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sivae import ops
from sivae.ops import relu_network

U, STEP = 2.0**-24, 2.0**-7  # a rounding of float32; the distance between two numbers of bfloat16, at most
# No layer between hidden ones, one and some; rows that fill no block, one and several; the most values at the ends.
SHAPES = [(1, [2, 32, 4]), (32, [2, 64, 32, 2]), (77, [3, 96, 64, 128, 5]), (257, [32, 256, 256, 256, 32])]

pytestmark = [
    pytest.mark.skipif("native" not in ops.available_backends(), reason="the native backend is not built"),
    pytest.mark.skipif(
        "native" in ops.available_backends() and not relu_network._has_kernels,
        reason="this processor does not multiply bfloat16 matrices",
    ),
]


def operands(rows: int, widths: list[int]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x = torch.randn(rows, widths[0]).requires_grad_()
    weights = [(torch.randn(out, fan) / fan**0.5).requires_grad_() for fan, out in itertools.pairwise(widths)]
    return x, weights, [(0.1 * torch.randn(out)).requires_grad_() for out in widths[1:]]


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double()


def between_hidden(layer: int, weights: list[Tensor]) -> bool:
    return 0 < layer < len(weights) - 1


def as_used(layer: int, weights: list[Tensor]) -> Tensor:
    weight = weights[layer].detach()
    return rounded(weight) if between_hidden(layer, weights) else weight.double()


def hidden_values(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The op's result, and the input of each of its layers, float64."""
    y, kept = torch.ops.sivae_native.relu_network.default(x.detach(), weights, biases)
    sizes = [len(x) * len(weight) for weight in weights[:-1]]
    return y, [x.detach().double(), *(part.double().view(len(x), -1) for part in kept.split(sizes))]


@pytest.mark.parametrize(("rows", "widths"), SHAPES, ids=str)
def test_every_layer_within_bounds_of_float64(rows, widths):
    x, weights, biases = operands(rows, widths)
    y, inputs = hidden_values(x, weights, biases)
    assert torch.equal(y, relu_network.relu_network(x, weights, biases))
    for layer, (values, bias) in enumerate(zip(inputs, biases, strict=True)):
        weight = as_used(layer, weights)
        expected = values @ weight.t() + bias.detach().double()
        # Each of the sum's terms takes part in as many roundings as it has terms, at most.
        error = (widths[layer] + 1) * U * (values.abs() @ weight.abs().t() + bias.detach().double().abs())
        if layer < len(weights) - 1:
            expected = expected.clamp(min=0)
            error = error + STEP / 2 * (expected + error)
            got = inputs[layer + 1]
        else:
            got = y.double()
        assert ((got - expected).abs() <= error).all()


@pytest.mark.parametrize(("rows", "widths"), SHAPES, ids=str)
def test_gradients_within_bounds_of_float64(rows, widths):
    x, weights, biases = operands(rows, widths)
    grad_y = torch.randn(rows, widths[-1])
    got = torch.autograd.grad(relu_network.relu_network(x, weights, biases), [x, *weights, *biases], grad_y)
    _, inputs = hidden_values(x, weights, biases)
    grad, error = grad_y.double(), torch.zeros(rows, widths[-1], dtype=torch.float64)
    for layer in reversed(range(len(weights))):
        values, weight = inputs[layer], as_used(layer, weights)
        of_weight, of_bias = got[1 + layer].double(), got[1 + len(weights) + layer].double()
        size = error + rows * U * (grad.abs() + error)
        assert ((of_weight - grad.t() @ values).abs() <= size.t() @ values.abs()).all()
        assert ((of_bias - grad.sum(0)).abs() <= size.sum(0)).all()
        # An error of the sum, and then a rounding, which may go to the other side of a value that is wrong by it.
        error = (error + widths[layer + 1] * U * (grad.abs() + error)) @ weight.abs()
        grad = grad @ weight
        if layer > 0:
            passes = values > 0
            error = (error + STEP * (grad.abs() + error)) * passes
            grad = rounded(grad * passes)
    assert ((got[0].double() - grad).abs() <= error).all()


def test_what_is_not_finite_stays_in_its_row():
    x, weights, biases = operands(40, [2, 64, 64, 3])
    expected = relu_network.relu_network(x, weights, biases)
    with torch.no_grad():
        x[3, 0], x[35, 1] = float("nan"), float("inf")
    y = relu_network.relu_network(x, weights, biases)
    assert y[3].isnan().all() and not y[35].isfinite().any()
    others = [row for row in range(40) if row not in (3, 35)]
    assert torch.equal(y[others], expected[others])


def test_the_same_bits_with_any_number_of_threads(restore_threads):
    x, weights, biases = operands(300, [2, 256, 128, 256, 4])
    grad_y = torch.randn(300, 4)

    def results(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        y = relu_network.relu_network(x, weights, biases)
        return [y, *torch.autograd.grad(y, [x, *weights, *biases], grad_y)]

    alone = results(1)
    for threads in (2, 3, 4):
        assert all(torch.equal(one, other) for one, other in zip(results(threads), alone, strict=True))


def test_operands_in_any_layout():
    x, weights, biases = operands(40, [2, 64, 64, 4])
    grad_y = torch.randn(4, 40).t()
    turned = [weight.detach().t().contiguous().t().requires_grad_() for weight in weights]
    same = x.detach().t().contiguous().t().requires_grad_()
    results = [
        [y := relu_network.relu_network(*given), *torch.autograd.grad(y, [given[0], *given[1]], grad)]
        for given, grad in (((x, weights, biases), grad_y.contiguous()), ((same, turned, biases), grad_y))
    ]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("needed", [(True, False), (False, True), (True, True)], ids=str)
def test_only_the_gradients_asked_for(needed):
    x, weights, biases = operands(40, [2, 64, 64, 4])
    every = torch.autograd.grad(relu_network.relu_network(x, weights, biases).sum(), [x, *weights, *biases])
    x.requires_grad_(needed[0])
    for parameter in [*weights, *biases]:
        parameter.requires_grad_(needed[1])
    relu_network.relu_network(x, weights, biases).sum().backward()
    for index, (tensor, expected) in enumerate(zip([x, *weights, *biases], every, strict=True)):
        if needed[min(index, 1)]:
            assert torch.equal(tensor.grad, expected)
        else:
            assert tensor.grad is None


def test_second_derivatives_are_those_of_the_layers_in_float32():
    """The graph of the gradient is torch's own operators, so its derivatives agree but for the order of sums."""
    x, weights, biases = operands(40, [2, 64, 64, 3])

    def penalty(y: Tensor) -> tuple[Tensor, ...]:
        (of_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(of_x.square().sum(), weights)

    h = x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = torch.relu(h @ weight.t() + bias)
    expected = penalty(h @ weights[-1].t() + biases[-1])
    got = penalty(relu_network.relu_network(x, weights, biases))
    for one, other in zip(got, expected, strict=True):
        # y itself is rounded to bfloat16 on its way, in two hidden layers.
        assert (one - other).norm() <= 8 * STEP * other.norm()


def test_a_recorded_gradient_passes_where_the_output_is_nan():
    x, weights, biases = operands(5, [2, 32, 32, 3])
    with torch.no_grad():
        biases[0][0] = float("nan")
    (alone,), (recorded,) = (
        torch.autograd.grad(relu_network.relu_network(x, weights, biases).sum(), biases[:1], create_graph=create)
        for create in (False, True)
    )
    assert torch.equal(alone == 0, recorded == 0) and torch.equal(alone.isnan(), recorded.isnan())


class TestRegistration:
    def test_opcheck(self):
        op = torch.ops.sivae_native.relu_network.default
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        results = torch.library.opcheck(op, operands(5, [2, 32, 32, 4]), test_utils=checks)  # compilers see the layers
        assert set(results.values()) == {"SUCCESS"}

    @pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=2)), ids=str)
    def test_fake_kernels_of_the_gradients(self, needed):
        x, weights, biases = operands(5, [2, 32, 32, 4])
        y, hidden = torch.ops.sivae_native.relu_network.default(x.detach(), weights, biases)
        op = torch.ops.sivae_native.relu_network_backward.default
        given = [weight.detach() for weight in weights]
        arguments = y, x.detach(), hidden
        real = op(*arguments, given, *needed)
        with FakeTensorMode() as mode:
            fake = op(*map(mode.from_tensor, arguments), [mode.from_tensor(weight) for weight in given], *needed)
        for one, other in zip(real, fake, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())

    @pytest.mark.parametrize("change", ["x", "weight", "bias", "width", "ends", "layers", "dtype", "empty"])
    def test_direct_calls_never_read_outside_an_operand(self, change):
        x, weights, biases = operands(5, [2, 32, 32, 4])
        x = x.detach()
        wrong = {
            "x": (x[:, :1], weights, biases),
            "weight": (x, [weights[0], weights[1][:, :16], weights[2]], biases),
            "bias": (x, weights, [biases[0], biases[1][:16], biases[2]]),
            "width": operands(5, [2, 31, 32, 4]),
            "ends": operands(5, [33, 32, 32, 4]),
            "layers": (x, weights[:1], biases[:1]),
            "dtype": (x.double(), weights, biases),
            "empty": (x[:0], weights, biases),
        }[change]
        with pytest.raises((TypeError, ValueError), match="sivae: "):
            torch.ops.sivae_native.relu_network.default(*wrong)

    def test_several_gradients_at_once(self):
        """They are computed in float32. Alone, each has two roundings to bfloat16 of values and one of a weight."""
        x, weights, biases = operands(5, [2, 32, 32, 4])
        y = relu_network.relu_network(x, weights, biases)
        inputs, grads = [x, *weights, *biases], torch.randn(3, 5, 4)
        at_once = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, retain_graph=True)
        for k, grad in enumerate(grads):
            for one, other in zip(at_once, torch.autograd.grad(y, inputs, grad, retain_graph=True), strict=True):
                assert (one[k] - other).norm() <= 8 * STEP * other.norm()
