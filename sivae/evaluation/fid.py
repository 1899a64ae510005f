"""Compute the Fréchet and the kernel Inception distance of real and generated images by the standard protocol.

torchmetrics computes them. Images are rounded to uint8, the feature network is in eval mode, and so is the decoder that
made them. The network's weights come from a file that the user names; nothing is ever downloaded.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sivae.errors import FeaturesError, ModelFileError
from sivae.models.base import evaluating
from sivae.models.pixels import to_uint8
from sivae.models.reading import read_weights

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

_AT_ONCE = 64  # images in the feature network: Inception sees them at 299 x 299, whatever their size
_KID_SUBSETS, _KID_SUBSET = 100, 1000


class FeatureDistance:
    """FID and KID between two sets of images that are added batch by batch.

    The decoder has to be in eval mode. Statistics are float64. FID needs memory for d x d values; KID keeps the
    features of every image on the CPU.

    Args:
        features: uint8 images [B, 3, H, W] -> [B, d]: :func:`inception`, or any other network. It is moved to the
            device, runs in eval mode without gradients, and gets its mode back. Grey images are repeated into three
            channels.
        value_range: the values that stand for black and for white in the images.
        device: where the network runs.
    """

    def __init__(
        self,
        features: nn.Module,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        self._features = features.to(device)
        self._value_range = value_range
        self._device = torch.device(device)
        self._fid: Any = None
        self._kid: Any = None
        self._finite = True
        self.real_count = 0
        self.generated_count = 0

    def add_real(self, images: Tensor) -> None:
        """Add images of the data, [B, C, H, W]; C is 1 or 3."""
        self._add(images, real=True)
        self.real_count += len(images)

    def add_generated(self, images: Tensor) -> None:
        """Add images of the model, [B, C, H, W]; C is 1 or 3."""
        self._add(images, real=False)
        self.generated_count += len(images)

    def compute(self, *, seed: int) -> dict[str, float]:
        """Compute the distances between the images added so far.

        Args:
            seed: of KID's random subsets.

        Returns:
            fid: Fréchet distance between Gaussians fitted to the two sets of features (Heusel et al., NeurIPS 2017),
                ``|m - m'|² + tr(C + C' - 2 (C C')^½)`` with unbiased covariances; 0 or more, lower is better. It is
                too high for few images, so only values of equal counts can be compared.
            kid_mean, kid_std: mean and standard deviation, over 100 random subsets of 1000 images each (of all of
                them, if there are fewer), of the unbiased squared MMD with the kernel ``(x·y/d + 1)³`` (Bińkowski et
                al., ICLR 2018); around 0 for equal distributions, lower is better.
            fid_images: how many images each of the two sets had at least.

            The distances are NaN if an image held a value that is not finite.

        Raises:
            ValueError: a set has fewer than two images.
        """
        count = min(self.real_count, self.generated_count)
        if count < 2:
            raise ValueError(
                f"FID and KID need two real and two generated images at least, got {self.real_count} and "
                f"{self.generated_count}"
            )
        if not self._finite:
            return {"fid": math.nan, "kid_mean": math.nan, "kid_std": math.nan, "fid_images": count}
        self._kid.subset_size = min(_KID_SUBSET, count)
        before = torch.get_rng_state()  # torchmetrics draws the subsets from the CPU's global generator
        torch.default_generator.manual_seed(seed)
        try:
            mean, deviation = self._kid.compute()
        finally:
            torch.set_rng_state(before)
        # Some builds of torch cannot compute the eigenvalues of a general matrix on a GPU.
        fid = self._fid.to("cpu").compute()
        self._fid.to(self._device)
        return {"fid": float(fid), "kid_mean": float(mean), "kid_std": float(deviation), "fid_images": count}

    @torch.no_grad()
    def _add(self, images: Tensor, *, real: bool) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images are {list(images.shape)}, expected [B, C, H, W] with 1 or 3 channels")
        if len(images) == 0:
            return
        # torchmetrics would raise at the end, with a message that does not name the images.
        self._finite = self._finite and bool(images.isfinite().all())
        pixels = to_uint8(images.to(self._device), self._value_range).expand(-1, 3, -1, -1)
        with evaluating(self._features):
            features = torch.cat([self._features(part.contiguous()) for part in pixels.split(_AT_ONCE)])
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"the feature network made {list(features.shape)} of {len(images)} images, "
                f"expected [{len(images)}, features]"
            )
        features = features.double()
        if self._fid is None:
            self._open(features.shape[1])
        self._fid.update(features, real=real)
        self._kid.update(features.cpu(), real=real)

    def _open(self, features: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        # Both metrics get the features, computed once, instead of images.
        given = nn.Identity()
        given.num_features = features  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # KID warns about its memory, which the docstring states
            self._fid = FrechetInceptionDistance(feature=given).to(self._device)
            # A cached value would be that of the first seed.
            self._kid = KernelInceptionDistance(feature=given, subsets=_KID_SUBSETS, compute_with_cache=False)


def inception(weights: str | os.PathLike[str] | None) -> nn.Module:
    """Load the Inception network of FID and KID, as torch-fidelity ports it from the original program.

    Args:
        weights: file of its weights as torch or safetensors saves them, :data:`INCEPTION_WEIGHTS` in torch-fidelity's
            releases. It is read without executing anything in it.

    Returns:
        A network in eval mode, uint8 [B, 3, H, W] -> float32 [B, 2048], the features before the classifier. It resizes
        images to 299 x 299 as the original does.

    Raises:
        FeaturesError: torch-fidelity is missing, or no file is named, or it holds other weights.
        OSError: the file cannot be read.
    """
    if weights is None:
        raise FeaturesError(
            f"FID and KID need Inception's weights, which are never downloaded: name the file {INCEPTION_WEIGHTS} "
            "(from the releases of torch-fidelity); they also need pip install 'soft-intro-vae[fid]'"
        )
    try:
        state = read_weights(Path(weights))
    except ModelFileError as error:
        raise FeaturesError(f"{error}; {_REMEDY}") from None
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision for another torch fails in several ways
        raise FeaturesError(
            f"FID and KID need torch-fidelity, which cannot be imported here ({error}): "
            f"pip install 'soft-intro-vae[fid]', with the torchvision that fits torch {torch.__version__}"
        ) from None
    # It would unpickle any file, so it gets a clean copy.
    clean = io.BytesIO()
    torch.save(state, clean)
    clean.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=clean)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise FeaturesError(f"{weights} does not hold Inception's weights ({reason}); {_REMEDY}") from None
    return _First(network).eval()


_REMEDY = f"name the file {INCEPTION_WEIGHTS} from the releases of torch-fidelity"


class _First(nn.Module):
    """The first of a network's outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)[0]
        return features
