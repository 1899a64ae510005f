"""LPIPS is its definition with the original's normalisation, and only files of its weights make one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from sivae.errors import ConfigError, ModelFileError
from sivae.models.lpips import LPIPS
from sivae.models.perceptual import LPIPSDistance
from sivae.models.vgg import TAPS, load_vgg16
from sivae.objectives import VAEObjective
from sivae.training.distances import make_distance
from tests.models.plain_vgg import LAYERS, random_state, write_vgg

CHANNELS = (64, 128, 256, 512, 512)
PUBLISHED = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


def random_linear() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for index, channels in enumerate(CHANNELS)
    }


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg16.pth")


@pytest.fixture(scope="module")
def lpips(vgg: Path) -> LPIPS:
    torch.save(random_linear(), vgg.with_name("linear.pth"))
    return LPIPS.from_files(vgg, vgg.with_name("linear.pth"))


def pair(height: int = 16, width: int = 19, channels: int = 3) -> tuple[Tensor, Tensor]:
    both = torch.rand(2, 2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return both[0], both[1]


def plain(images: Tensor, others: Tensor, linear: dict[str, Tensor]) -> Tensor:
    """In float64, of images in [0, 1]: shifted and scaled in [-1, 1], as the original does it."""
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    one, other = (((x.double() * 2 - 1) - shift) / scale for x in (images, others))
    distance = torch.zeros(len(images), dtype=torch.float64)
    weights = iter(linear.values())
    for place, _, _, tap in LAYERS:
        weight, bias = (random_state()[f"features.{place}.{name}"].double() for name in ("weight", "bias"))
        one, other = (F.relu(F.conv2d(x, weight, bias, padding=1)) for x in (one, other))
        if tap:
            units = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (one, other)]
            distance += F.conv2d((units[0] - units[1]).square(), next(weights).double()).mean((1, 2, 3))
        if tap and tap != "relu5_3":
            one, other = (F.max_pool2d(x, 2) for x in (one, other))
    return distance


# Activations err by 5e-5 of their scale (tests.models.test_vgg) and differences of unit vectors by as much, which
# squares double; the vectors differ by about their own length.
RELATIVE = 2e-4


def test_it_is_its_definition(lpips: LPIPS) -> None:
    images, others = pair()
    distance = lpips(images, others)
    assert distance.dtype == torch.float64
    torch.testing.assert_close(distance, plain(images, others, random_linear()), rtol=RELATIVE, atol=0)


def test_the_published_weights_are_read(vgg: Path) -> None:
    images, others = pair()
    published = torch.load(PUBLISHED, map_location="cpu", weights_only=True)
    came = LPIPS.from_files(vgg, PUBLISHED)(images, others)
    torch.testing.assert_close(came, plain(images, others, published), rtol=RELATIVE, atol=0)


def test_it_is_symmetric_and_zero_for_equal_images(lpips: LPIPS) -> None:
    images, others = pair()
    assert torch.equal(lpips(images, images.clone()), torch.zeros(2, dtype=torch.float64))
    # A convolution may round an image's values otherwise at another place in the batch.
    torch.testing.assert_close(lpips(images, others), lpips(others, images), rtol=RELATIVE, atol=0)


def test_images_of_another_range_and_grey_ones(vgg: Path, lpips: LPIPS) -> None:
    save_file(random_linear(), vgg.with_name("linear.safetensors"))
    signed = LPIPS.from_files(vgg, vgg.with_name("linear.safetensors"), value_range=(-1.0, 1.0))
    images, others = pair(channels=1)
    wide = [x.expand(-1, 3, -1, -1) for x in (images, others)]
    torch.testing.assert_close(signed(images * 2 - 1, others * 2 - 1), lpips(*wide), rtol=RELATIVE, atol=0)


def test_a_black_map_has_no_direction_and_no_nan(vgg: Path) -> None:
    network = load_vgg16(vgg)
    torch.nn.init.zeros_(network.features[28].weight)
    torch.nn.init.constant_(network.features[28].bias, -1.0)
    weights = {
        tap: torch.full((1, channels, 1, 1), float(tap == "relu5_3"))
        for tap, channels in zip(TAPS, CHANNELS, strict=True)
    }
    assert torch.equal(LPIPS(network, weights)(*pair()), torch.zeros(2, dtype=torch.float64))


def test_values_that_are_not_finite_show(lpips: LPIPS) -> None:
    images, others = pair()
    images[1, 0, 3, 3] = torch.nan
    distance = lpips(images, others)
    assert distance.isnan().tolist() == [False, True]


def test_no_batch_gives_no_distances(lpips: LPIPS) -> None:
    assert lpips(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16)).shape == (0,)


def test_what_is_no_pair_of_images_is_refused(lpips: LPIPS) -> None:
    images, others = pair()
    with pytest.raises(ValueError, match=r"images are \[2, 3, 16, 19\] and \[1, 3, 16, 19\], expected two equal"):
        lpips(images, others[:1])
    with pytest.raises(ValueError, match=r"expected \[B, C, H, W\]"):
        lpips(images[0], others[0])
    with pytest.raises(ValueError, match="images are 15 x 19, and relu5_3 needs 16 x 16 at least"):
        lpips(images[:, :, :15], others[:, :, :15])


def test_weights_of_another_shape_are_refused(lpips: LPIPS) -> None:
    with pytest.raises(ValueError, match=r"the weights of relu1_2 are missing, expected \[1, 64, 1, 1\]"):
        LPIPS(lpips.network, {})
    with pytest.raises(ValueError, match=r"the weights of relu1_2 are \[64\], expected \[1, 64, 1, 1\]"):
        LPIPS(lpips.network, {"relu1_2": torch.zeros(64)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lin3.model.1.weight"), r"lacks lin3\.model\.1\.weight"),
        (
            lambda state: state.update({"lin1.model.1.weight": torch.zeros(1, 192, 1, 1)}),  # of AlexNet
            r"lin1\.model\.1\.weight has shape \[1, 192, 1, 1\], expected \[1, 128, 1, 1\]",
        ),
        (lambda state: state.update({"lin5.model.1.weight": torch.zeros(1)}), r"holds lin5\.model\.1\.weight, which"),
        (lambda state: state["lin2.model.1.weight"][0, 7].fill_(-0.25), r"lin2\.model\.1\.weight holds -0\.25, exp"),
        (lambda state: state["lin2.model.1.weight"][0, 7].fill_(torch.inf), r"lin2\.model\.1\.weight has infinite"),
    ],
)
def test_files_of_other_weights_are_refused(
    vgg: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = random_linear()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=rf"x\.pth:? {message}.*; name the file weights/v0\.1/vgg\.pth"):
        LPIPS.from_files(vgg, tmp_path / "x.pth")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SIVAE_TEST_TRAP"],)


def test_code_is_not_run_and_other_files_are_refused(
    vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIVAE_TEST_TRAP", str(tmp_path / "sprung"))
    torch.save({**random_linear(), "extra": Trap()}, tmp_path / "saved.pth")
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "text.safetensors").write_text("hello")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ModelFileError, match=rf"{path.name}.*weights/v0\.1/vgg\.pth of the package lpips"):
            LPIPS.from_files(vgg, path)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(FileNotFoundError):
        LPIPS.from_files(vgg, tmp_path / "none.pth")


def test_the_two_files_the_other_way_round_are_refused(vgg: Path) -> None:
    with pytest.raises(ModelFileError, match=r"vgg16\.pth lacks lin0\.model\.1\.weight"):
        LPIPS.from_files(vgg, vgg)
    with pytest.raises(ModelFileError, match=r"vgg\.pth lacks features\.0\.weight.*vgg16-397923af\.pth"):
        LPIPS.from_files(PUBLISHED, PUBLISHED)


def test_gradients_are_those_of_the_formula(lpips: LPIPS) -> None:
    images, others = (x.requires_grad_() for x in pair(16, 16))
    expected = torch.autograd.grad(plain(images, others, random_linear()).sum(), (images, others))
    found = torch.autograd.grad(lpips(images, others).sum(), (images, others))
    for mine, theirs in zip(found, expected, strict=True):
        # The networks' activations err by 5e-5 of their scale (test_vgg); gradients of a ReLU at 0 may differ, rarely.
        assert (mine - theirs).norm() < 1e-3 * theirs.norm()


def test_the_training_error_is_l1_and_lpips(lpips: LPIPS, vgg: Path) -> None:
    recon, target = pair()
    objective = VAEObjective(perceptual=str(vgg), lpips=str(vgg.with_name("linear.pth")))
    distance = make_distance(objective, None)
    assert isinstance(distance, LPIPSDistance)
    with torch.autocast("cpu", torch.bfloat16):
        rec = distance(recon, target)
    size = recon[0].numel()
    expected = size * ((recon - target).abs().flatten(1).mean(1) + lpips(recon, target).float())
    torch.testing.assert_close(rec, expected)


def test_an_error_of_a_file_names_its_setting_and_what_is_expected_there(vgg: Path) -> None:
    def refused(perceptual: Path, lpips: Path | None, message: str) -> None:
        objective = VAEObjective(perceptual=str(perceptual), lpips=None if lpips is None else str(lpips))
        with pytest.raises(ConfigError, match=message) as caught:
            make_distance(objective, None)
        assert str(caught.value).count("; name ") == 1

    none = vgg.with_name("none.pth")
    refused(vgg, vgg, r"^lpips: .*name the file weights/v0\.1/vgg\.pth of the package lpips$")
    refused(vgg, none, r"^lpips: there is no file .*none\.pth; name the file weights/v0\.1/vgg\.pth of the")
    refused(none, vgg, r"^perceptual: there is no file .*none\.pth; name torchvision's weights .* vgg16-397923af\.pth$")
    refused(vgg.with_name("linear.pth"), None, r"^perceptual: .*linear\.pth lacks features.*vgg16-397923af\.pth$")


def test_a_target_without_gradient_keeps_no_activations(lpips: LPIPS) -> None:
    seen: list[tuple[int, bool]] = []
    hook = lpips.network.register_forward_hook(
        lambda _, inputs, maps: seen.append((len(inputs[0]), maps[0].requires_grad))
    )
    recon, target = pair(16, 16)
    distance = LPIPSDistance(lpips)
    (gradient,) = torch.autograd.grad(distance(recon.requires_grad_(), target).sum(), recon)
    assert seen == [(2, True), (2, False)]
    (expected,) = torch.autograd.grad(distance(recon, target.requires_grad_()).sum(), recon)
    hook.remove()
    assert seen[2:] == [(4, True)]
    # The networks' activations err by 5e-5 of their scale (test_vgg); gradients of a ReLU at 0 may differ, rarely.
    assert (gradient - expected).norm() < 1e-3 * expected.norm()


def test_no_batch_has_no_training_error(lpips: LPIPS) -> None:
    assert LPIPSDistance(lpips)(torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16)).shape == (0,)
