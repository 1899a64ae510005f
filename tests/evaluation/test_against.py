"""Samples and images are compared with other images, through a small feature network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sivae.errors import ConfigError, DamagedImageError, DataError, FeaturesError
from sivae.evaluation import against as against_module
from sivae.evaluation.against import Against, compare_images, compare_samples
from sivae.evaluation.feature_distances import sample_metrics
from sivae.evaluation.features import FeatureSet
from sivae.models.latent import generate
from sivae.models.pixels import to_uint8
from tests.evaluation.painter import Painter
from tests.evaluation.small_features import small_network

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_module, "effnet_lite0", small_network)


def pictures(count: int, seed: int, side: int = 8, channels: int = 3) -> np.ndarray:
    """uint8 [N, side, side, channels], each smooth enough to survive a resize."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, channels), np.uint8)
    return coarse.repeat(side // 4, 1).repeat(side // 4, 2)


def write(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{index:04}.png")
    return folder


def features(images: np.ndarray) -> Tensor:
    return small_network().of(torch.from_numpy(images).permute(0, 3, 1, 2))


class TestImages:
    def test_two_folders_are_compared_as_they_are(self, tmp_path: Path) -> None:
        real, given, notices = pictures(40, 0), pictures(40, 1) // 2, []
        against = Against(path=write(tmp_path / "real", real), notice=notices.append)
        found = compare_images(write(tmp_path / "given", given), against, seed=3, device=CPU)
        assert found == sample_metrics(features(real), features(given), network="small", seed=3)
        assert notices == ["FID is left out: it needs 5,000 images of each side, and there are 40"]

    def test_the_larger_set_and_a_smaller_count_are_spread(self, tmp_path: Path) -> None:
        real, given = pictures(31, 0), pictures(16, 1)
        one, other = write(tmp_path / "real", real), write(tmp_path / "given", given)
        found = compare_images(other, Against(path=one), seed=0, device=CPU)
        assert found == sample_metrics(features(real[::2]), features(given), network="small", seed=0)
        found = compare_images(other, Against(path=one, count=6), seed=0, device=CPU)
        assert found == sample_metrics(features(real[::6]), features(given[::3]), network="small", seed=0)

    def test_of_other_images_the_middle_square_counts_and_the_difference_is_said(self, tmp_path: Path) -> None:
        real, notices = pictures(10, 0), []
        wide = np.concatenate([np.zeros_like(real), real, np.zeros_like(real)], axis=2)
        against = Against(path=write(tmp_path / "wide", wide), notice=notices.append)
        grey = write(tmp_path / "grey", pictures(10, 1, 16, channels=1))
        found = compare_images(grey, against, seed=0, device=CPU)
        expected = features(pictures(10, 1, 16, channels=1).repeat(3, -1))
        assert found == sample_metrics(features(real), expected, network="small", seed=0)
        assert notices[0].startswith("grey has grey images of 16x16, and wide RGB images of 8x8: ")

    def test_a_part_of_each_image_can_be_cut_out(self, tmp_path: Path) -> None:
        real = pictures(10, 0)
        wide = np.concatenate([real, np.zeros_like(real)], axis=2)
        against = Against(path=write(tmp_path / "wide", wide), crop=(0, 0, 8, 8), save_to=tmp_path / "kept.safetensors")
        found = compare_images(against.path, against, seed=0, device=CPU)
        assert found == sample_metrics(features(real), features(real), network="small", seed=0)
        with pytest.raises(FeaturesError, match=r"of 8x8 cut at 0,0,8,8, expected RGB images of 8x8 as for this model"):
            compare_samples(Painter(), Against(path=tmp_path / "kept.safetensors"), seed=0)

    def test_images_of_several_sizes_are_one_set(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "some", pictures(6, 0))
        for index, image in enumerate(pictures(5, 1, 12)):
            Image.fromarray(image).save(folder / f"more{index}.png")
        against = Against(path=folder, save_to=tmp_path / "kept.safetensors")
        compare_images(folder, against, seed=0, device=CPU)
        kept = FeatureSet.load(tmp_path / "kept.safetensors", small_network())
        assert torch.equal(kept.values, torch.cat([features(pictures(6, 0)), features(pictures(5, 1, 12))]))
        assert (kept.side, kept.channels, kept.source) == (0, 3, "some")

    def test_damaged_images_are_all_named_or_left_out(self, tmp_path: Path) -> None:
        real, notices = pictures(8, 0), []
        folder = write(tmp_path / "some", real)
        for index in (2, 5):
            (folder / f"{index:04}.png").write_bytes(b"no image")
        expected = r"^2 of 8 images of some are damaged: .*0002.png.*; .*0005.png.*; restore .* by --skip-damaged .*"
        with pytest.raises(DamagedImageError, match=expected):
            compare_images(folder, Against(path=folder), seed=0, device=CPU)
        against = Against(path=folder, skip_damaged=True, notice=notices.append)
        found = compare_images(folder, against, seed=0, device=CPU)
        kept = features(np.delete(real, (2, 5), 0))
        assert found == sample_metrics(kept, kept, network="small", seed=0)
        assert notices[0].startswith("some: damaged images left out: 2 (")

    def test_few_images_are_refused(self, tmp_path: Path) -> None:
        few, empty = write(tmp_path / "few", pictures(3, 0)), write(tmp_path / "empty", pictures(0, 0))
        with pytest.raises(FeaturesError, match="few holds 3 images, expected 4 at least"):
            compare_images(few, Against(path=few), seed=0, device=CPU)
        with pytest.raises(DataError, match="empty holds no files"):
            compare_images(few, Against(path=empty), seed=0, device=CPU)


class TestFile:
    def test_a_file_of_features_stands_for_the_images(self, tmp_path: Path) -> None:
        real, given = write(tmp_path / "real", pictures(20, 0)), write(tmp_path / "given", pictures(20, 1))
        kept = tmp_path / "kept.safetensors"
        found = compare_images(given, Against(path=real, save_to=kept), seed=0, device=CPU)
        assert compare_images(given, Against(path=kept), seed=0, device=CPU) == found
        (tmp_path / "real.safetensors").write_bytes(kept.read_bytes())
        same = compare_images(tmp_path / "real.safetensors", Against(path=kept), seed=0, device=CPU)
        assert same["precision_small"] == same["recall_small"] == 1

    def test_its_folder_is_missed_before_the_work(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nowhere/kept.safetensors: there is no folder .*nowhere to write to"):
            Against(path=tmp_path, save_to=tmp_path / "nowhere" / "kept.safetensors")

    def test_that_of_images_of_another_size_does_not_fit_a_model(self, tmp_path: Path) -> None:
        real = write(tmp_path / "real", pictures(20, 0, 16))
        kept = tmp_path / "kept.safetensors"
        compare_images(real, Against(path=real, save_to=kept), seed=0, device=CPU)
        with pytest.raises(FeaturesError, match="of RGB images of 16x16, expected RGB images of 8x8 as for this model"):
            compare_samples(Painter(), Against(path=kept), seed=0)
        compare_samples(Painter(), Against(path=real, save_to=kept), seed=0)
        assert compare_samples(Painter(), Against(path=kept), seed=0)["images_small"] == 20


class TestSamples:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_samples_in_eval_mode_are_compared_with_images_of_the_model_s_shape(
        self, channels: int, tmp_path: Path
    ) -> None:
        model, twin = (Painter((channels, 8, 8), value_range=(-1.0, 1.0)) for _ in range(2))
        model.train()
        found = compare_samples(model, Against(path=write(tmp_path / "real", pictures(40, 0, 16))), seed=7)
        assert model.training and model.seen_training == 0
        with torch.no_grad():
            drawn = torch.cat([to_uint8(x, (-1.0, 1.0)) for x in generate(twin.eval(), 40, seed=7)])
        real = np.stack(
            [
                np.asarray(
                    Image.fromarray(x).resize((8, 8), Image.Resampling.LANCZOS).convert("L" if channels == 1 else "RGB")
                )
                for x in pictures(40, 0, 16)
            ]
        ).reshape(40, 8, 8, channels)
        assert found == sample_metrics(features(real), small_network().of(drawn), network="small", seed=7)

    def test_a_conditional_model_gets_its_conditions(self, tmp_path: Path) -> None:
        asked = []

        def conditions(count: int) -> Tensor:
            asked.append(count)
            return torch.eye(3)[torch.arange(count) % 3]

        real = Against(path=write(tmp_path / "real", pictures(20, 0)))
        found = compare_samples(Painter(condition_dim=3), real, seed=0, conditions=conditions)
        assert asked == [20] and all(math.isfinite(value) for value in found.values())

    def test_samples_that_are_not_finite_give_nan(self, tmp_path: Path) -> None:
        model = Painter()
        with torch.no_grad():
            model.decoder[0].bias[0] = math.nan
        found = compare_samples(model, Against(path=write(tmp_path / "real", pictures(20, 0))), seed=0)
        assert {name for name, value in found.items() if math.isfinite(value)} == {"images_small", "kid_subset_small"}
