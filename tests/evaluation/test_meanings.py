"""Every metric that a run computes is explained, with the direction that is better."""

from __future__ import annotations

import pytest

from sivae.evaluation.meanings import IMAGES, POINTS, meanings


def test_a_kl_of_points_is_a_distance_and_of_images_none() -> None:
    assert meanings(["kl", "jsd"])[0].better == "lower"
    assert meanings(["kl", "rec"])[0].better == ""


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
    for names in (POINTS, IMAGES):
        for name, found in zip(names, meanings(names), strict=True):
            assert len(found.words) < 40 and len(name) < 15 and found.better in ("lower", "higher", "")
