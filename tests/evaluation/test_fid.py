"""FID and KID through a small feature network, against their definitions in float64 NumPy."""

from __future__ import annotations

import math
import pickle
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sivae.errors import FeaturesError
from sivae.evaluation import fid
from sivae.evaluation.fid import FeatureDistance, inception
from sivae.evaluation.image_metrics import evaluate_images
from sivae.models.latent import generate
from sivae.models.pixels import to_uint8
from tests.evaluation.painter import Painter


class Features(nn.Module):
    """uint8 [B, 3, H, W] -> [B, 5], different in training mode."""

    def __init__(self, size: int = 3 * 8 * 8, width: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, width, generator=torch.Generator().manual_seed(1)))
        self.drop = nn.Dropout()
        self.seen: list[tuple[torch.dtype, tuple[int, ...], bool]] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append((pixels.dtype, tuple(pixels.shape), self.training or torch.is_grad_enabled()))
        return self.drop(pixels.flatten(1).float() / 255 @ self.weight)


def numpy_fid(x: np.ndarray, y: np.ndarray) -> float:
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    # tr (C C')^½ = tr (C^½ C' C^½)^½, whose matrices are symmetric.
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_y @ root), 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def numpy_kid(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate over all images."""
    n, d = x.shape
    k = [(a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((m.sum() - np.trace(m)) / (n * (n - 1)) for m in k[:2])
    return float(within - 2 * k[2].mean())


def images(count: int, seed: int, shape: tuple[int, int, int] = (3, 8, 8)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def features_of(x: Tensor) -> np.ndarray:
    network = Features().eval()
    with torch.no_grad():
        return network(to_uint8(x)).double().numpy()


def distance_of(real: Tensor, generated: Tensor, seed: int = 0) -> dict[str, float]:
    distance = FeatureDistance(Features())
    for part in real.split(70):
        distance.add_real(part)
    for part in generated.split(33):
        distance.add_generated(part)
    return distance.compute(seed=seed)


class TestDistances:
    def test_they_are_what_their_definitions_say(self) -> None:
        real, generated = images(150, 0), images(150, 1) * 0.8 + 0.1
        x, y = features_of(real), features_of(generated)
        result = distance_of(real, generated)
        # Features are computed in float32 in batches of other sizes: 1e-6 of values up to 20, whose squares add up.
        assert result["fid"] == pytest.approx(numpy_fid(x, y), rel=1e-4)
        assert result["kid_mean"] == pytest.approx(numpy_kid(x, y), rel=1e-4)
        assert result["kid_std"] == pytest.approx(0, abs=1e-9)  # every subset is all of the images
        assert result["fid_images"] == 150

    def test_equal_sets_are_at_no_distance(self) -> None:
        x = images(100, 0)
        result = distance_of(x, x)
        # Square roots of eigenvalues of 1 that err by 1e-12 of it.
        assert result["fid"] == pytest.approx(0, abs=1e-6)
        assert result["kid_mean"] < 0  # the unbiased estimate counts an image and itself as two

    def test_fewer_images_than_features_are_no_error(self) -> None:
        real, generated = images(3, 0), images(4, 1)
        result = distance_of(real, generated)
        # The square root of an eigenvalue that is 0 but for rounding, 1e-16 of 1, is 1e-8.
        assert result["fid"] == pytest.approx(numpy_fid(features_of(real), features_of(generated)), rel=1e-3)
        assert result["fid_images"] == 3

    def test_images_are_rounded_to_8_bits_and_the_network_is_in_eval_mode(self) -> None:
        network = Features().train()
        distance = FeatureDistance(network, value_range=(-1.0, 1.0))
        x = images(3, 0)
        distance.add_real(x * 2 - 1)
        distance.add_generated(to_uint8(x).float() / 255 * 2 - 1)
        assert network.seen == [(torch.uint8, (3, 3, 8, 8), False)] * 2
        assert network.training and network.drop.training
        # Three images span 2 of 5 dimensions: square roots of zeros that err by 1e-15 of a covariance of 100.
        assert distance.compute(seed=0)["fid"] == pytest.approx(0, abs=1e-5)

    def test_grey_images_are_repeated_into_three_channels(self) -> None:
        grey = images(20, 0, (1, 8, 8))
        other = images(20, 1, (1, 8, 8))
        assert distance_of(grey, other) == distance_of(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))

    def test_many_images_reach_the_network_in_small_batches(self) -> None:
        network = Features()
        FeatureDistance(network).add_real(images(150, 0))
        assert [shape[0] for _, shape, _ in network.seen] == [64, 64, 22]

    def test_large_sets_are_compared_by_subsets_that_the_seed_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fid, "_KID_SUBSET", 50)  # else a thousand, and seconds
        real, generated = images(80, 0), images(90, 1)
        state = torch.get_rng_state()
        first = distance_of(real, generated, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(5)
        assert distance_of(real, generated, seed=3) == first
        other = distance_of(real, generated, seed=4)
        assert other["kid_mean"] != first["kid_mean"] and other["fid"] == first["fid"]
        assert first["kid_std"] > 0

    def test_it_goes_on_after_a_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fid, "_KID_SUBSET", 30)
        distance = FeatureDistance(Features())
        distance.add_real(images(60, 0))
        distance.add_generated(images(60, 1))
        first = distance.compute(seed=0)
        assert distance.compute(seed=1)["kid_mean"] != first["kid_mean"]
        assert distance.compute(seed=0) == first
        distance.add_generated(images(40, 2))
        assert distance.compute(seed=0)["fid"] != first["fid"]

    def test_values_that_are_not_finite_give_nan(self) -> None:
        broken = images(5, 1)
        broken[2, 0, 0, 0] = math.inf
        result = distance_of(images(5, 0), broken)
        assert all(math.isnan(result[name]) for name in ("fid", "kid_mean", "kid_std"))

    def test_nothing_is_warned_of(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distance_of(images(5, 0), images(5, 1))

    def test_too_few_images_and_wrong_networks_are_refused(self) -> None:
        with pytest.raises(ValueError, match="two real and two generated images at least, got 1 and 0"):
            distance_of(images(1, 0), images(0, 0))
        with pytest.raises(ValueError, match=r"made \[4, 3, 8, 8\] of 4 images, expected \[4, features\]"):
            FeatureDistance(nn.Identity()).add_real(images(4, 0))
        with pytest.raises(ValueError, match=r"images are \[4, 2, 8, 8\]"):
            FeatureDistance(Features()).add_real(images(4, 0, (2, 8, 8)))


class TestEvaluation:
    def test_generated_images_come_from_the_decoder_in_eval_mode(self) -> None:
        model, real = Painter().train(), images(60, 0)
        result = evaluate_images(model, [real[:25], real[25:]], seed=7, fid_features=Features())
        assert model.seen_training == 0 and model.training
        generated = torch.cat(list(generate(Painter().eval(), 60, seed=7)))
        expected = numpy_fid(features_of(real), features_of(generated))
        assert result["fid"] == pytest.approx(expected, rel=1e-4)
        assert result["fid_images"] == 60
        assert set(result) == {"mse", "psnr", "ssim", "rec", "kl", "fid", "kid_mean", "kid_std", "fid_images"}

    def test_it_is_a_function_of_the_seed_and_the_count(self) -> None:
        real = images(40, 0)

        def once(seed: int, count: int) -> dict[str, float]:
            return evaluate_images(
                Painter(), iter([real[:30], real[30:]]), seed=seed, fid_features=Features(), fid_count=count
            )

        assert once(1, 32) == once(1, 32)
        assert once(1, 32)["fid_images"] == 32
        assert once(1, 32)["fid"] != once(2, 32)["fid"] != once(2, 20)["fid"]
        assert once(1, 32)["mse"] == once(2, 20)["mse"]  # reconstructions are of all images

    def test_a_conditional_model_generates_the_classes_of_the_real_images(self) -> None:
        real, labels = images(30, 0), torch.arange(30) % 3
        model = Painter(condition_dim=3)
        result = evaluate_images(model, [(real, labels)], seed=1, fid_features=Features())
        condition = torch.eye(3)[labels]
        generated = torch.cat(list(generate(Painter(condition_dim=3).eval(), 30, seed=1, condition=condition)))
        assert result["fid"] == pytest.approx(numpy_fid(features_of(real), features_of(generated)), rel=1e-4)


class FakeInception(nn.Module):
    """Stands for torch-fidelity's class: reads its weights the same way, which would unpickle anything."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: object) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.layer = nn.Linear(3, 2)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.layer(pixels.float().mean((2, 3))),)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))


class TestInception:
    @pytest.fixture
    def fidelity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        package, module = types.ModuleType("torch_fidelity"), types.ModuleType("torch_fidelity.inception")
        module.FeatureExtractorInceptionV3 = FakeInception  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch_fidelity", package)
        monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)

    @pytest.fixture
    def absent(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setitem(sys.modules, "torch_fidelity", None)
        yield

    @pytest.mark.usefixtures("fidelity")
    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    def test_a_file_of_weights_makes_a_network(self, name: str, tmp_path: Path) -> None:
        state = nn.Linear(3, 2).state_dict(prefix="layer.")
        if name.endswith("pth"):
            torch.save(state, tmp_path / name)
        else:
            save_file(state, tmp_path / name)
        network = inception(tmp_path / name)
        pixels = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
        expected = pixels.float().mean((2, 3)) @ state["layer.weight"].T + state["layer.bias"]
        torch.testing.assert_close(network(pixels), expected)
        assert not network.training

    @pytest.mark.usefixtures("fidelity")
    def test_a_file_that_would_run_code_runs_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"layer.weight": Trap()}, tmp_path / "saved.pth")
        (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Trap()))
        for name in ("saved.pth", "pickled.pth"):
            with pytest.raises(FeaturesError, match=rf"{name}: (refused, because|not a checkpoint of)"):
                inception(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.usefixtures("fidelity")
    def test_other_files_are_refused_by_name(self, tmp_path: Path) -> None:
        torch.save({"layer.weight": torch.zeros(2, 3)}, tmp_path / "other.pth")
        torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
        torch.save(torch.zeros(3), tmp_path / "tensor.pth")
        (tmp_path / "text.pth").write_text("hello")
        (tmp_path / "empty.pth").touch()
        (tmp_path / "text.safetensors").write_text("hello")
        for path in sorted(tmp_path.iterdir()):
            with pytest.raises(FeaturesError, match=path.name) as caught:
                inception(path)
            assert "weights-inception-2015-12-05-6726825d.pth" in str(caught.value)
        with pytest.raises(FileNotFoundError):
            inception(tmp_path / "missing.pth")

    def test_without_weights_it_says_which_file_and_which_extra(self) -> None:
        with pytest.raises(
            FeaturesError, match=r"never downloaded: name the file weights-inception.*soft-intro-vae\[fid\]"
        ):
            inception(None)

    @pytest.mark.usefixtures("absent")
    def test_without_the_package_it_says_which_extra(self, tmp_path: Path) -> None:
        torch.save({"layer.weight": torch.zeros(2, 3)}, tmp_path / "weights.pth")
        with pytest.raises(FeaturesError, match=r"pip install 'soft-intro-vae\[fid\]'"):
            inception(tmp_path / "weights.pth")
