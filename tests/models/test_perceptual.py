"""The perceptual distance equals its formula, and the network computes only the gradients that are needed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sivae import ops
from sivae.errors import ModelFileError
from sivae.models.perceptual import PerceptualDistance
from tests.models.plain_vgg import plain_activations, write_vgg


@pytest.fixture(scope="module")
def distance(tmp_path_factory: pytest.TempPathFactory) -> PerceptualDistance:
    return PerceptualDistance.from_file(write_vgg(tmp_path_factory.mktemp("vgg") / "vgg16.pth"))


@pytest.fixture(scope="module")
def precise(distance: PerceptualDistance) -> PerceptualDistance:
    return copy.deepcopy(distance).double()


@pytest.fixture
def passes(distance: PerceptualDistance) -> Iterator[list[tuple[int, bool]]]:
    """Record the passes through the network: number of images, and whether they need a gradient."""
    seen: list[tuple[int, bool]] = []
    hook = distance.network.register_forward_hook(
        lambda _, inputs, maps: seen.append((len(inputs[0]), maps[0].requires_grad))
    )
    yield seen
    hook.remove()


def pair(height: int = 16, width: int = 18, channels: int = 3) -> tuple[Tensor, Tensor]:
    both = torch.rand(2, 2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return both[0], both[1]


def plain(recon: Tensor, target: Tensor) -> Tensor:
    recon, target = recon.double(), target.double()
    terms = [(recon - target).abs().flatten(1).mean(1)]
    one, other = plain_activations(recon), plain_activations(target)
    terms += [(one[tap] - other[tap]).abs().flatten(1).mean(1) for tap in one]
    return recon[0].numel() * torch.stack(terms).sum(0)


# Activations err by 5e-5 of their scale (test_vgg), their means over pairs by no more, and these are of that scale.
RELATIVE = 1e-4


def test_the_distance_equals_its_formula(distance: PerceptualDistance) -> None:
    recon, target = pair()
    rec = distance(recon, target)
    assert rec.dtype == torch.float32
    torch.testing.assert_close(rec.double(), plain(recon, target), rtol=RELATIVE, atol=0)


def test_equal_images_have_the_distance_0(distance: PerceptualDistance) -> None:
    recon, _ = pair()
    assert torch.equal(distance(recon, recon.clone()), torch.zeros(2))


# In float64, all that differs is the rounding to float32 of the mean and the deviation, 6e-8. It turns the sign of as
# many differences of activations, and lets as many others through ReLU and pooling: of a sum of so many independent
# parts the norm moves by the square root, 2.4e-4, once for each of the taps' two images.
TURNED = 1e-3


def test_gradients_are_those_of_the_formula(precise: PerceptualDistance) -> None:
    came, expected = ([images.double().requires_grad_() for images in pair()] for _ in range(2))
    rec = precise(*came)
    assert rec.dtype == torch.float64
    rec.sum().backward()
    plain(*expected).sum().backward()
    for one, other in zip(came, expected, strict=True):
        assert one.grad is not None and other.grad is not None
        assert float((one.grad - other.grad).norm() / other.grad.norm()) < TURNED
    assert all(parameter.grad is None for parameter in precise.parameters())


def test_gradients_of_one_and_of_both_are_the_same(precise: PerceptualDistance) -> None:
    both = [images.double().requires_grad_() for images in pair()]
    expected = torch.autograd.grad(precise(*both).sum(), both)
    recon, target = both[0], both[1].detach()
    (came,) = torch.autograd.grad(precise(recon, target).sum(), recon)
    assert float((came - expected[0]).norm() / expected[0].norm()) < TURNED


def test_both_batches_run_together_if_both_or_neither_need_a_gradient(
    distance: PerceptualDistance, passes: list[tuple[int, bool]]
) -> None:
    recon, target = pair()
    distance(recon, target)
    assert passes.pop() == (4, False)
    recon.requires_grad_()
    with torch.no_grad():
        distance(recon, target)
    assert passes.pop() == (4, False)
    target.requires_grad_()
    distance(recon, target)
    assert passes.pop() == (4, True)
    assert not passes


def test_a_batch_without_gradient_runs_alone_and_keeps_no_activations(
    distance: PerceptualDistance, passes: list[tuple[int, bool]]
) -> None:
    recon, target = pair()
    distance(recon.requires_grad_(), target)
    distance(target, recon)
    assert passes == [(2, True), (2, False), (2, False), (2, True)]


def test_the_value_range_scales_the_input_of_the_network_and_not_the_pixel_error(
    tmp_path: Path, distance: PerceptualDistance
) -> None:
    signed = PerceptualDistance.from_file(write_vgg(tmp_path / "vgg16.pth"), (-1.0, 1.0))
    recon, target = pair()
    pixels = ops.reconstruction_error(recon, target, kind="l1")
    came = signed(recon * 2 - 1, target * 2 - 1) - 2 * pixels
    torch.testing.assert_close(came, distance(recon, target) - pixels, rtol=2 * RELATIVE, atol=0)


def test_grey_images_are_weighted_by_their_own_elements(distance: PerceptualDistance) -> None:
    recon, target = pair(channels=1)
    wide = [images.expand(-1, 3, -1, -1) for images in (recon, target)]
    torch.testing.assert_close(3 * distance(recon, target), distance(*wide), rtol=RELATIVE, atol=0)


def test_small_images_are_compared_at_the_taps_with_a_map(distance: PerceptualDistance) -> None:
    recon, target = pair(4, 7)
    expected = ops.reconstruction_error(recon, target, kind="l1")
    taps = ("relu1_2", "relu2_2", "relu3_3")
    for one, other in zip(distance.network(recon, taps), distance.network(target, taps), strict=True):
        expected = expected + 3 * 4 * 7 * (one - other).abs().flatten(1).mean(1)
    torch.testing.assert_close(distance(recon, target), expected, rtol=RELATIVE, atol=0)


def test_an_empty_batch_gives_no_distances(distance: PerceptualDistance) -> None:
    empty = torch.zeros(0, 3, 16, 16)
    assert distance(empty, empty).shape == (0,)


def test_under_autocast_the_sums_are_float32(distance: PerceptualDistance) -> None:
    recon, target = pair()
    with torch.autocast("cpu", torch.bfloat16):
        rec = distance(recon, target)
    assert rec.dtype == torch.float32
    # bfloat16 keeps 8 bits: 2^-8 at each of 13 layers.
    torch.testing.assert_close(rec.double(), plain(recon, target), rtol=13 / 256, atol=0)


def test_wrong_pairs_of_images_are_errors(distance: PerceptualDistance) -> None:
    recon, target = pair()
    with pytest.raises(ValueError, match=r"target has shape \[1, 3, 16, 18\], expected \[2, 3, 16, 18\] as recon"):
        distance(recon, target[:1])
    with pytest.raises(TypeError, match=r"target has dtype torch\.int64"):
        distance(recon, target.long())
    with pytest.raises(ValueError, match=r"images are \[4, 7\], expected \[B, C, H, W\]"):
        distance(torch.zeros(2, 7), torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"images are \[4, 2, 16, 16\], expected \[B, C, H, W\] with 1 or 3 channels"):
        distance(torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16))


def test_a_file_of_another_layout_is_an_error(tmp_path: Path) -> None:
    torch.save({"layer": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=r"x\.pth lacks features\.0\.weight.*vgg16-397923af\.pth"):
        PerceptualDistance.from_file(tmp_path / "x.pth")
