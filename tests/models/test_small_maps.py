"""A convolution of small maps has torch's values, and gradients within a rounding of bfloat16 of float64's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae.models import small_maps
from sivae.models.doubling import DoublingConv2d
from sivae.models.small_maps import MapConv2d


def _maps(*shape: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def _layer(kind: type[nn.Conv2d] = MapConv2d, side: int = 3) -> nn.Conv2d:
    layer = kind(6, 10, side, padding=side // 2, bias=False).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1)).bfloat16())
    return layer


def _takes_the_product(layer: nn.Conv2d, x: Tensor) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    return y.grad_fn is not None and "_Convolution" in y.grad_fn.name()


def _doubled(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, padding=1)


@pytest.mark.parametrize(
    ("kind", "side", "shape", "exact"),
    [
        (MapConv2d, 3, (3, 6, 4, 5), lambda x, weight: F.conv2d(x, weight, padding=1)),
        (MapConv2d, 5, (2, 6, 1, 7), lambda x, weight: F.conv2d(x, weight, padding=2)),
        (MapConv2d, 1, (2, 6, 3, 2), F.conv2d),
        (DoublingConv2d, 3, (40, 6, 4, 4), _doubled),
    ],
    ids=["3x3", "5x5", "1x1", "doubling"],
)
def test_gradients_are_those_of_float64(
    kind: type[nn.Conv2d], side: int, shape: tuple[int, ...], exact: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """A result is a sum of products in float32, rounded to bfloat16; of the doubling, the weights too are sums."""
    layer, x = _layer(kind, side), _maps(*shape).requires_grad_()
    assert _takes_the_product(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    x64, weight64 = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    expected = exact(x64, weight64)
    grad = _maps(*y.shape)
    results = [y, *torch.autograd.grad(y, (x, layer.weight), grad)]
    wanted = [expected, *torch.autograd.grad(expected, (x64, weight64), grad.double())]
    # Up to four roundings to bfloat16 of parts of a sum, which are as large as the largest of the results.
    for result, value in zip(results, wanted, strict=True):
        assert (result.double() - value).abs().max() <= 4 * 2.0**-9 * value.abs().max()
    assert results[2].dtype == torch.float32  # of the weight


def test_values_and_the_gradient_by_the_maps_are_torchs() -> None:
    """Bit for bit: a pass with frozen weights gives the same maps."""
    layer, x = _layer(), _maps(2, 6, 4, 4).requires_grad_()
    grad, results = _maps(2, 10, 4, 4), []
    for frozen in (False, True):
        layer.weight.requires_grad_(not frozen)
        assert _takes_the_product(layer, x) != frozen
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        results.append((y, *torch.autograd.grad(y, x, grad)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_second_derivatives_are_torchs() -> None:
    """Within four roundings to bfloat16 of the largest."""
    x, weight = _maps(2, 6, 4, 4).requires_grad_(), _layer().weight.detach().bfloat16().requires_grad_()
    results = []
    for y in (small_maps.convolved(x, weight, padding=1), F.conv2d(x, weight, padding=1)):
        (first,) = torch.autograd.grad(y.float().square().sum(), weight, create_graph=True)
        results.append(torch.autograd.grad(first.float().square().sum(), x)[0].double())
    assert (results[0] - results[1]).abs().max() <= 4 * 2.0**-8 * results[1].abs().max()


class TestWhereTorchComputesAll:
    def test_large_maps(self) -> None:
        assert not _takes_the_product(_layer(), _maps(5, 6, 15, 15))

    def test_contiguous_maps(self) -> None:
        assert not _takes_the_product(_layer(), _maps(2, 6, 4, 4).contiguous())

    def test_float32(self) -> None:
        y = _layer()(_maps(2, 6, 4, 4).float())
        assert y.grad_fn is not None and "_Convolution" not in y.grad_fn.name()

    def test_a_bias(self) -> None:
        assert not _takes_the_product(MapConv2d(6, 10, 3, padding=1), _maps(2, 6, 4, 4))

    def test_no_gradients(self) -> None:
        with torch.no_grad():
            assert not _takes_the_product(_layer(), _maps(2, 6, 4, 4))

    def test_transforms_of_torch_func(self) -> None:
        layer, x = _layer(), _maps(2, 6, 4, 4)

        def loss(weight: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                y: Tensor = torch.func.functional_call(layer, {"weight": weight}, (x,))
            return y.float().square().sum()

        transformed = torch.func.grad(loss)(layer.weight.detach())
        (usual,) = torch.autograd.grad(loss(layer.weight), layer.weight)
        # Two sums in float32, each rounded to bfloat16.
        assert (transformed - usual).abs().max() <= 2 * 2.0**-8 * usual.abs().max()

    def test_vmap_over_maps(self) -> None:
        """Two sums in float32, each rounded to bfloat16."""
        layer, x = _layer().bfloat16(), _maps(6, 6, 4, 4).bfloat16()
        each = layer(x)
        at_once = torch.vmap(layer)(x.unflatten(0, (3, 2))).flatten(0, 1)
        assert (at_once - each).abs().max() <= 2 * 2.0**-8 * each.abs().max()
