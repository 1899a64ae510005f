"""MS-SSIM is its definition at every size, and has finite gradients everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae import ops
from sivae.evaluation.image_metrics import ssim
from sivae.models.precision import float32_products
from sivae.models.structural import WEIGHTS, StructuralDistance, ms_ssim


def pair(side: int, *, width: int | None = None, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Two similar images with structure at all scales, float64 [2, 3, side, width]."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(2, 3, side, width or side, generator=generator, dtype=torch.float64).cumsum(2).cumsum(3)
    image = torch.sigmoid(steps / (1 + side // 4))
    return image, image + noise * torch.rand(image.shape, generator=generator, dtype=torch.float64)


def plain(images: Tensor, others: Tensor, scales: int) -> Tensor:
    """The definition, window by window."""
    row = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5).square())
    window = torch.outer(row, row).flatten() / row.sum().square()
    result = torch.ones(len(images), dtype=torch.float64)
    for scale in range(scales):
        shape = images.shape[:2]
        x, y = (F.unfold(F.pad(one, (5,) * 4, "reflect"), 11).unflatten(1, (shape[1], 121)) for one in (images, others))
        mean_x, mean_y = (torch.einsum("bcwp,w->bcp", one, window) for one in (x, y))
        dx, dy = x - mean_x.unsqueeze(2), y - mean_y.unsqueeze(2)
        covariance, variances = (torch.einsum("bcwp,w->bcp", one, window) for one in (dx * dy, dx**2 + dy**2))
        similarity = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale == scales - 1:
            similarity = similarity * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        result = result * similarity.mean((1, 2)) ** (WEIGHTS[scale] / sum(WEIGHTS[:scales]))
        images, others = (F.avg_pool2d(one, 2) for one in (images, others))
    return result


@pytest.mark.parametrize(("side", "width", "scales"), [(176, 180, 5), (32, 32, 2), (21, 50, 1), (44, 50, 3)])
def test_it_is_the_definition_with_as_many_scales_as_hold_the_window(side: int, width: int, scales: int) -> None:
    images, others = pair(side, width=width)
    expected = plain(images, others, scales)
    torch.testing.assert_close(ms_ssim(images, others), expected)  # both in float64
    assert (expected < 0.99).all()


def test_small_images_have_a_small_window() -> None:
    images, others = pair(8)
    # The metric computes in float32, in which a variance errs by about 2^-24, relative to c2 = 9e-4 at least.
    torch.testing.assert_close(ms_ssim(images, others), ssim(images, others), rtol=0, atol=2**-24 / 9e-4)
    torch.testing.assert_close(ms_ssim(images, images), torch.ones(2, dtype=torch.float64))
    assert ms_ssim(*pair(1)).isfinite().all()


def test_values_are_measured_in_the_range_of_the_images() -> None:
    images, others = pair(24)
    doubled = ms_ssim(2.0 * images - 1.0, 2.0 * others - 1.0, (-1.0, 1.0))
    torch.testing.assert_close(doubled, ms_ssim(images, others))


def test_gradients_are_exact_and_finite_where_images_are_opposite() -> None:
    images, others = (x[:1, :1].requires_grad_() for x in pair(12))
    assert torch.autograd.gradcheck(ms_ssim, (images, others))
    opposite = (1.0 - images.detach()).requires_grad_()
    value = ms_ssim(images, opposite)
    assert 0.0 < value < 0.2
    (gradient,) = torch.autograd.grad(value, opposite)
    assert gradient.isfinite().all()


def test_halves_and_autocast_compute_in_float32() -> None:
    images, others = (x.to(torch.bfloat16) for x in pair(32))
    with torch.autocast("cpu", torch.bfloat16):
        value = ms_ssim(images, others)
    assert value.dtype == torch.float32
    # Products of values in [0, 1] err by 2^-24, relative to c2 = 9e-4 in a flat place: by 2^-24 / 9e-4 < 1e-4.
    torch.testing.assert_close(value.double(), ms_ssim(images.double(), others.double()), rtol=0, atol=1e-4)


def test_flat_bright_images_keep_their_digits() -> None:
    """Values of 1 err by 2^-24; minus their mean they are of the size of the noise, 0.01, and their squares of 1e-4."""
    images, others = (0.95 + 0.01 * (x - 0.5) for x in pair(32))
    value = ms_ssim(images.float(), others.float()).double()
    # Rounding the inputs alone changes a deviation of 0.01 by 2^-24 / 0.01 = 6e-6 of itself.
    torch.testing.assert_close(value, ms_ssim(images, others), rtol=0, atol=2e-5)


def test_a_gpu_rounds_no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    images, others = pair(16)
    seen = []
    blur = F.conv2d

    def watched(*given: Tensor, groups: int) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return blur(*given, groups=groups)

    monkeypatch.setattr(F, "conv2d", watched)
    with float32_products(rounded=True):
        ms_ssim(images, others)
        assert torch.backends.cudnn.allow_tf32
    assert seen and not any(seen)


def test_other_shapes_are_refused() -> None:
    images, others = pair(12)
    for one, other in ((images, others[:, :1]), (images[0], others[0])):
        with pytest.raises(ValueError, match=r"ms_ssim: images are .*, expected two equal \[B, C, H, W\]"):
            ms_ssim(one, other)


def test_no_batch_gives_no_distances() -> None:
    assert StructuralDistance(0.5)(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16)).shape == (0,)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_the_distance_adds_it_to_the_error(kind: str) -> None:
    recon, target = pair(16)
    rec = StructuralDistance(0.5, kind)(recon, target)
    expected = ops.reconstruction_error(recon, target, kind=kind) + 0.5 * 3 * 16 * 16 * (1.0 - ms_ssim(recon, target))
    torch.testing.assert_close(rec, expected)
