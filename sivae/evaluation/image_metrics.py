"""Measure a model of images: how well it reconstructs images, and how close its samples are to them.

MSE, PSNR and SSIM compare images as they are shown: values are mapped from the model's range to [0, 1] and clipped
there, since decoders may overshoot. `rec` and `kl` are the terms of the ELBO, in the model's own units. Networks run in
eval mode and in their own dtype; everything after them is float64, but for SSIM's convolutions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.evaluation.fid import FeatureDistance
from sivae.models import VAEModel
from sivae.models.base import device_and_dtype, evaluating, one_hot
from sivae.models.latent import generate
from sivae.models.pixels import image_range, unit_range
from sivae.models.precision import float32_products

Batch = Tensor | tuple[Tensor, Tensor | None]

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_FIRST_NOISE = 1 << 32  # offset of the decoder's noise in metrics, beyond those of the latents


def mse(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of each pair of images, over all their elements.

    Args:
        images, others: [B, C, H, W] of one shape.

    Returns:
        float64 [B]; for values in [0, 1] between 0 and 1.

    Raises:
        ValueError: the shapes differ or are no batches of images.
    """
    _check_pair("mse", images, others)
    return (images.double() - others.double()).square().flatten(1).mean(1)


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, -10 log10(MSE), in decibels, for a peak of 1.

    Args:
        images, others: [B, C, H, W] of one shape, in [0, 1].

    Returns:
        float64 [B]; infinite where the two are equal.

    Raises:
        ValueError: the shapes differ or are no batches of images.
    """
    _check_pair("psnr", images, others)
    return -10.0 * mse(images, others).log10()


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al., IEEE TIP 2004), by torchmetrics, for a data range of 1.

    Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, borders reflected, the mean over all pixels and
    channels. Where the shorter side s is below 11 the window is the largest odd one that fits and sigma shrinks in
    proportion, so that the window keeps its shape: 7 x 7 with sigma 0.95 for 8 x 8 images. Values of different windows
    are not comparable. It is computed in float32, in a tenth of float64's time; the rounding changes a value by about
    1e-7, and by 2e-4 where the image is almost flat and bright.

    Args:
        images, others: [B, C, H, W] of one shape, in [0, 1].

    Returns:
        float64 [B], from -1 to 1; 1 where the two are equal.

    Raises:
        ValueError: the shapes differ or are no batches of images.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_pair("ssim", images, others)
    if len(images) == 0:
        return torch.zeros(0, dtype=torch.float64, device=images.device)
    side = min(images.shape[2:])
    window = min(_SSIM_WINDOW, side - (side + 1) % 2)
    with float32_products(rounded=False):  # a variance is the small difference of two means
        similarity = structural_similarity_index_measure(
            images.float(),
            others.float(),
            # torchmetrics derives the width of the window from sigma, as 2 int(3.5 sigma + 0.5) + 1.
            sigma=_SSIM_SIGMA * window / _SSIM_WINDOW,
            reduction="none",
            data_range=1.0,
        )
    assert isinstance(similarity, Tensor)
    return similarity.double().reshape(len(images))


class ReconstructionMeter:
    """Sums up the reconstruction metrics of batches, and returns their means; it needs constant memory.

    Args:
        model: of images; it runs in the mode that it has, so put it into eval mode.
    """

    def __init__(self, model: VAEModel) -> None:
        self._model = model
        self._value_range = image_range(model)
        self._sums: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def add(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Reconstruct images through the posterior mean, and add their metrics to the sums.

        Args:
            x: [B, C, H, W] in the model's value range, on its device.
            condition: [B, condition_dim], for a conditional model.

        Returns:
            The reconstructions, [B, C, H, W].
        """
        mu, logvar = self._model.encode(x, condition)
        again = self._model.render(mu, condition)
        # Sums stay on the device, so that no batch waits for the one before it.
        shown, original = (unit_range(images.double(), self._value_range) for images in (again, x))
        values = {
            "mse": mse(shown, original),
            "psnr": psnr(shown, original),
            "ssim": ssim(shown, original),
            "rec": ops.reconstruction_error(again.double(), x.double()),
            "kl": self._model.kl(mu.double(), logvar.double()),
        }
        for name, per_image in values.items():
            total = per_image.sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self.count += len(x)
        return again

    def compute(self) -> dict[str, float]:
        """The means over the images added so far: `mse`, `psnr`, `ssim`, `rec` and `kl`.

        Raises:
            ValueError: nothing was added.
        """
        if self.count == 0:
            raise ValueError("the metrics need at least one image, and the batches held none")
        return {name: float(total) / self.count for name, total in self._sums.items()}


def evaluate_images(
    model: VAEModel,
    batches: Iterable[Batch],
    *,
    seed: int,
    fid_features: nn.Module | None = None,
    fid_count: int = 50_000,
) -> dict[str, float]:
    """Compute all metrics of a model of images, in one pass over the batches.

    Args:
        model: of images; it runs in eval mode without gradients, and every part of it gets its mode back.
        batches: x [B, C, H, W] in the model's value range, or (x, condition) with condition [B, condition_dim] or
            labels [B], whole numbers, that a conditional model needs and another ignores. Batches may differ in size;
            they are read once, one at a time.
        seed: of the prior's samples: 0 or more.
        fid_features: the network whose features FID and KID compare, see :class:`sivae.evaluation.fid.FeatureDistance`;
            None leaves them out.
        fid_count: real images at most for FID and KID; the same number is generated.

    Returns:
        mse: mean squared error per element, of pictures in [0, 1]; lower is better.
        psnr: mean over images of -10 log10(mse), in dB; higher is better. Infinite if one image is exact.
        ssim: see :func:`ssim`; higher is better.
        rec, kl: the ELBO's terms, the squared error summed over an image in the model's units, and the divergence of
            its posterior from the prior in nats; the reconstruction is decoded from the posterior mean.

        With `fid_features` also what :meth:`sivae.evaluation.fid.FeatureDistance.compute` returns.

    Raises:
        ValueError: the batches are not of the model's images, or hold none (for FID, fewer than two).
    """
    with evaluating(model):
        meter = ReconstructionMeter(model)
        distance = None
        conditions = []
        for x, condition in _prepared(model, batches):
            meter.add(x, condition)
            if fid_features is None:
                continue
            if distance is None:
                distance = FeatureDistance(fid_features, value_range=image_range(model), device=x.device)
            kept = min(len(x), fid_count - distance.real_count)
            if kept > 0:
                distance.add_real(x[:kept])
                if condition is not None:
                    conditions.append(condition[:kept])
        metrics = meter.compute()
        if distance is not None:
            condition = torch.cat(conditions) if conditions else None
            for images in generate_for_metrics(model, distance.real_count, seed=seed, condition=condition):
                distance.add_generated(images)
            metrics |= distance.compute(seed=seed)
        return metrics


def generate_for_metrics(
    model: VAEModel, count: int, *, seed: int, condition: Tensor | None = None
) -> Iterator[Tensor]:
    """Decode samples of the prior as :func:`sivae.models.latent.generate` does, each with noise maps of its own.

    Args:
        model: of images, in eval mode. Where it adds noise, every image gets other noise.
        count, seed, condition: see :func:`sivae.models.latent.generate`.

    Yields:
        [B, C, H, W] in the model's value range, on its device.
    """
    passes = itertools.count(_FIRST_NOISE, model.OFFSETS_PER_PASS)

    def decode(z: Tensor, condition: Tensor | None) -> Tensor:
        # In eval mode this only decodes.
        return model.decode_for_training(z, condition, noise=ops.PhiloxNoise(seed, next(passes)), prior=True)

    yield from generate(model, count, seed=seed, condition=condition, decode=decode)


def _prepared(model: VAEModel, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches as the model needs them: checked, on its device, in its dtype, with a condition where it takes one."""
    device, dtype = device_and_dtype(model)
    for batch in batches:
        x, given = batch if isinstance(batch, tuple | list) else (batch, None)
        if tuple(x.shape[1:]) != tuple(model.sample_shape):
            raise ValueError(
                f"a batch is {list(x.shape)}, expected [B, {', '.join(map(str, model.sample_shape))}] for this model"
            )
        yield x.to(device, dtype), _condition(model, given, len(x), device, dtype)


def _condition(
    model: VAEModel, given: Tensor | None, count: int, device: torch.device, dtype: torch.dtype
) -> Tensor | None:
    size = model.condition_dim
    if size == 0:
        return None
    if given is None:
        raise ValueError(f"the model is conditional, so its batches need labels, or conditions [B, {size}]")
    if given.ndim == 1 and not given.is_floating_point():
        given = one_hot(given, size)
    if tuple(given.shape) != (count, size):
        raise ValueError(f"conditions are {list(given.shape)}, expected [{count}, {size}], or labels [{count}]")
    return given.to(device, dtype)


def _check_pair(name: str, images: Tensor, others: Tensor) -> None:
    if images.ndim != 4 or images.shape != others.shape:
        raise ValueError(
            f"{name}: images are {list(images.shape)} and {list(others.shape)}, expected two equal [B, C, H, W]"
        )
