"""The metrics of reconstructions, against their definitions in NumPy and cases worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from sivae.evaluation.image_metrics import Batch, evaluate_images, mse, psnr, ssim
from tests.evaluation.painter import Painter

# torchmetrics takes a variance for E[x²] − E[x]² in float32: sums of 121 terms that add up to less than 1 err by some
# 1e-6, against variances of random images of 0.01 and more.
SSIM_ROUNDING = 1e-4


def images(count: int, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def metrics_of(model: Painter, batches: Iterable[Batch]) -> dict[str, float]:
    return evaluate_images(model, batches, seed=0)


def numpy_ssim(x: np.ndarray, y: np.ndarray, window: int, sigma: float) -> float:
    """SSIM of two planes [H, W] by its definition, pixel by pixel, with reflected borders."""
    half = window // 2
    offsets = np.arange(window) - half
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    px, py = np.pad(x, half, mode="reflect"), np.pad(y, half, mode="reflect")
    values = []
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            a, b = px[i : i + window, j : j + window], py[i : i + window, j : j + window]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            values.append(
                (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


class TestPairs:
    def test_mse_and_psnr_by_hand(self) -> None:
        black, grey = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
        grey[1] = 0.1
        grey[1, 0, 0, 0] = 0.0
        assert mse(grey, black).tolist() == pytest.approx([0.0, 0.0075], rel=1e-6)  # 3/4 of 0.1², from float32
        assert psnr(grey, black).tolist() == pytest.approx([math.inf, -10 * math.log10(0.0075)], rel=1e-6)
        assert mse(grey, black).dtype == torch.float64

    @pytest.mark.parametrize("shape", [(1, 11, 11), (3, 12, 13)])
    def test_ssim_is_the_published_formula(self, shape: tuple[int, int, int]) -> None:
        x, y = images(2, shape).double(), images(2, shape, seed=1).double()
        y = 0.7 * x + 0.3 * y
        expected = [
            np.mean([numpy_ssim(a, b, 11, 1.5) for a, b in zip(one, other, strict=True)])
            for one, other in zip(x.numpy(), y.numpy(), strict=True)
        ]
        assert ssim(x, y).tolist() == pytest.approx(expected, abs=SSIM_ROUNDING)

    @pytest.mark.parametrize(
        ("side", "window"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 7), (8, 7), (9, 9), (10, 9), (11, 11)]
    )
    def test_images_below_the_window_get_the_largest_odd_one_that_fits(self, side: int, window: int) -> None:
        x, y = images(1, (1, side, 12)).double(), images(1, (1, side, 12), seed=1).double()
        expected = numpy_ssim(x[0, 0].numpy(), y[0, 0].numpy(), window, 1.5 * window / 11)
        assert ssim(x, y).tolist() == pytest.approx([expected], abs=SSIM_ROUNDING)

    def test_ssim_of_equals_is_1_and_of_opposites_negative(self) -> None:
        x = images(3, (1, 16, 16))
        assert ssim(x, x).tolist() == pytest.approx([1.0] * 3, abs=SSIM_ROUNDING)
        assert (ssim(x, 1 - x) < 0).all()
        assert ssim(x[:0], x[:0]).shape == (0,)

    @pytest.mark.parametrize("metric", [mse, psnr, ssim])
    def test_other_shapes_are_refused(self, metric) -> None:
        with pytest.raises(ValueError, match=r"images are \[1, 3, 8, 8\] and \[1, 3, 8, 7\]"):
            metric(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 7))
        with pytest.raises(ValueError, match="expected two equal"):
            metric(torch.zeros(3, 8), torch.zeros(3, 8))


class TestReconstructions:
    @pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
    def test_means_over_images_whatever_the_batches(self, value_range: tuple[float, float]) -> None:
        model = Painter((1, 12, 12), value_range=value_range)
        low, high = value_range
        x = images(11, (1, 12, 12)) * (high - low) + low
        metrics = metrics_of(model, [x[:4], x[4:5], x[5:]])
        model.eval()
        with torch.no_grad():
            mu, logvar = (part.double().numpy() for part in model.encode(x))
            again = model.decode(model.encode(x)[0])
        recon, original = again.double().numpy(), x.double().numpy()
        shown, target = (np.clip((part - low) / (high - low), 0, 1) for part in (recon, original))
        errors = ((shown - target) ** 2).mean(axis=(1, 2, 3))
        expected = {
            "mse": errors.mean(),
            "psnr": (-10 * np.log10(errors)).mean(),
            "ssim": np.mean([numpy_ssim(a[0], b[0], 11, 1.5) for a, b in zip(shown, target, strict=True)]),
            "rec": ((recon - original) ** 2).sum(axis=(1, 2, 3)).mean(),
            "kl": (0.5 * (np.exp(logvar) + mu**2 - 1 - logvar)).sum(axis=1).mean(),
        }
        # The networks run in float32, in batches of other sizes: sums of up to 144 products of values of about 1.
        assert metrics.pop("ssim") == pytest.approx(expected.pop("ssim"), abs=SSIM_ROUNDING)
        assert metrics == pytest.approx(expected, rel=1e-5)
        assert np.abs(recon - original).max() > (high - low)  # the clipping was put to the test

    def test_the_model_runs_in_eval_mode_and_gets_its_mode_back(self) -> None:
        model = Painter().train()
        model.decoder.eval()
        before = [module.training for module in model.modules()]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        metrics_of(model, [images(4)])
        assert model.seen_training == 0
        assert [module.training for module in model.modules()] == before
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())

    def test_a_mode_is_restored_after_a_failure(self) -> None:
        model = Painter().train()
        with pytest.raises(ValueError, match=r"a batch is \[2, 1, 8, 8\], expected \[B, 3, 8, 8\] for this model"):
            metrics_of(model, [images(2, (1, 8, 8))])
        assert model.training and model.encoder.training

    def test_batches_are_read_once_and_one_at_a_time(self) -> None:
        alive = 0

        def batches():
            nonlocal alive
            for seed in range(5):
                alive += 1
                yield images(2, seed=seed)
                alive -= 1
            assert alive == 0

        assert math.isfinite(metrics_of(Painter(), batches())["psnr"])

    def test_no_image_is_no_metric(self) -> None:
        with pytest.raises(ValueError, match="at least one image"):
            metrics_of(Painter(), [])
        with pytest.raises(ValueError, match="at least one image"):
            metrics_of(Painter(), [images(0)])

    def test_a_value_that_is_not_a_number_shows(self) -> None:
        x = images(2)
        x[0, 0, 0, 0] = math.nan
        assert all(math.isnan(value) for value in metrics_of(Painter(), [x]).values())

    def test_half_precision_models_are_measured_in_float64(self) -> None:
        model = Painter().bfloat16()
        exact = metrics_of(Painter(), [images(6)])
        # bfloat16 has 8 bits: a few roundings of 0.4 % each in a value of the networks.
        assert metrics_of(model, [images(6)])["psnr"] == pytest.approx(exact["psnr"], rel=0.05)

    def test_points_are_no_images(self) -> None:
        model = Painter()
        model.sample_shape = (2,)  # type: ignore[assignment]
        with pytest.raises(ValueError, match="makes points of 2 values, not images"):
            metrics_of(model, [images(1)])


class TestConditions:
    def test_labels_become_conditions(self) -> None:
        model, x, labels = Painter(condition_dim=3), images(4), torch.tensor([0, 2, 1, 2])
        by_label = metrics_of(model, [(x, labels)])
        assert by_label == metrics_of(model, [(x, torch.eye(3)[labels])])
        assert by_label != metrics_of(model, [(x, torch.zeros(4, dtype=torch.long))])

    def test_an_unconditional_model_does_without(self) -> None:
        x = images(4)
        assert metrics_of(Painter(), [(x, torch.arange(4))]) == metrics_of(Painter(), [x])

    def test_what_is_missing_or_unknown_is_said(self) -> None:
        model = Painter(condition_dim=3)
        for given, message in (
            (None, r"needs? labels, or conditions \[B, 3\]"),
            (torch.tensor([0, 3]), "labels run from 0 to 3, expected 0 to 2"),
            (torch.tensor([0]), r"conditions are \[1, 3\], expected \[2, 3\]"),
            (torch.zeros(2, 4), r"conditions are \[2, 4\], expected \[2, 3\], or labels \[2\]"),
        ):
            with pytest.raises(ValueError, match=message):
                metrics_of(model, [(images(2), given)])
