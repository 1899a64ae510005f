"""Every metric that a run computes is explained, with the direction that is better."""

from __future__ import annotations

import pytest
import torch

from sivae.evaluation.feature_distances import sample_metrics
from sivae.evaluation.meanings import CLOUDS, IMAGES, POINTS, SAMPLES, meanings


def test_a_kl_of_points_is_a_distance_and_of_images_none() -> None:
    assert meanings(["kl", "jsd"])[0].better == "lower"
    assert meanings(["kl", "rec"])[0].better == ""
    assert meanings(["kl", "chamfer"])[0].better == ""


@pytest.mark.parametrize(
    ("name", "better", "words"),
    [
        ("transfer_ssim", "higher", "recombined images: structural similarity"),
        ("reconstruction_lpips", "lower", "reconstructions: perceptual distance"),
        ("class_from_class", "higher", "class read from class code, accuracy"),
        ("class_from_content_draws", "lower", "class read from a draw of content code, accuracy"),
        ("something_new", "", ""),
    ],
)
def test_metrics_of_translations(name: str, better: str, words: str) -> None:
    (found,) = meanings([name])
    assert found.better == better and found.words.startswith(words)


def test_rows_fit_a_terminal_of_80_columns() -> None:
    for names in (POINTS, CLOUDS, IMAGES, SAMPLES):
        for name, found in names.items():
            assert len(found.words) < 40 and len(name) < 15 and found.better in ("lower", "higher", "")


def test_every_metric_of_features_is_explained() -> None:
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    found = sample_metrics(features, features.flip(0), network="effnet_lite0", seed=0)
    assert all(one.words for one in meanings(found))
