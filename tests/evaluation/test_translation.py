"""The metrics of translation: against enumeration, models whose codes are known, and hostile codes and labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sivae.evaluation import translation
from sivae.evaluation.image_metrics import mse
from sivae.evaluation.translation import example_rows, measure_translation, transfer_pairs
from sivae.models import VAEModel
from sivae.models.pixels import unit_range
from sivae.models.translation import TranslationVAE

CLASSES, CONTENTS = 6, 5
LABELS, POSES = np.repeat(np.arange(CLASSES), CONTENTS), np.tile(np.arange(CONTENTS), CLASSES)


class Halves(VAEModel):
    """The lower half of an image is its content and the upper half its class, and the codes are the pixels.

    `leak` times the upper half is added to the content code, as values of their own.
    """

    name = "halves"
    has_posterior = True
    value_range = (0.0, 1.0)
    sample_shape = (1, 8, 8)

    def __init__(self, *, leak: float = 0.0) -> None:
        super().__init__()
        self.z_dim, self.leak = 96 if leak else 64, leak
        self.encoder = nn.Identity()
        self.decoder = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upper, lower = (half.flatten(1) for half in x.chunk(2, dim=2))
        mu = torch.cat([lower, self.leak * upper, upper] if self.leak else [lower, upper], dim=1)
        return mu * self.scale, torch.zeros_like(mu)

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.cat([z[:, -32:], z[:, :32]], dim=1).view(-1, 1, 8, 8)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, :-32], z[:, -32:]

    def recombined(self, content: Tensor, of_class: Tensor) -> Tensor:
        return torch.cat([self.split(content)[0], self.split(of_class)[1]], dim=1)


def _set(labels: np.ndarray = LABELS, poses: np.ndarray = POSES) -> Tensor:
    """Images whose halves are a pattern of the class and a pattern of the content."""
    generator = torch.Generator().manual_seed(0)
    uppers, lowers = (torch.rand(int(of.max()) + 1, 1, 4, 8, generator=generator) for of in (labels, poses))
    return torch.cat([uppers[torch.from_numpy(labels)], lowers[torch.from_numpy(poses)]], dim=2)


def _tiny(channels: int = 1) -> TranslationVAE:
    torch.manual_seed(0)
    return TranslationVAE(image_size=8, channels=channels, content_dim=3, class_dim=4, width=4, hidden=8)


class TestPairs:
    @pytest.mark.parametrize("kept", [1.0, 0.6])
    def test_all_that_there_are_are_those_of_an_enumeration(self, kept: float) -> None:
        rng = np.random.default_rng(1)
        rows = np.flatnonzero(rng.random(len(LABELS)) < kept)
        rows = np.sort(np.concatenate([rows, rows[:4]]))  # and some twice
        labels, poses = LABELS[rows] * 7 - 3, POSES[rows] * 2  # numbers need not be dense
        showing: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(zip(labels.tolist(), poses.tolist(), strict=True)):
            showing.setdefault(key, []).append(row)
        only = {key: rows[0] for key, rows in showing.items() if len(rows) == 1}
        expected = {
            (i, j, only[labels[j], poses[i]])
            for i, j in itertools.permutations(range(len(rows)), 2)
            if labels[i] != labels[j] and poses[i] != poses[j] and (labels[j], poses[i]) in only
        }
        pairs = transfer_pairs(labels, poses, 10_000, 0)
        drawn = list(zip(*(part.tolist() for part in pairs), strict=True))
        assert len(drawn) == len(expected) and set(drawn) == expected

    def test_frames_of_one_class_in_one_content_have_no_truth(self) -> None:
        labels, poses = np.repeat([0, 0, 1, 1], 5), np.repeat([0, 1, 0, 1], 5)
        assert len(transfer_pairs(labels, poses, 100, 0).truth) == 0

    def test_a_draw_follows_from_its_seed_and_repeats_nothing(self) -> None:
        first, again, other = (transfer_pairs(LABELS, POSES, 50, seed) for seed in (3, 3, 4))
        assert all((a == b).all() for a, b in zip(first, again, strict=True))
        assert (first.content != other.content).any()
        assert len(set(zip(first.content.tolist(), first.of_class.tolist(), strict=True))) == 50

    def test_every_pair_is_as_likely(self) -> None:
        # 600 pairs, each in one of ten draws of 60: a binomial of mean 20 over 200 draws, five deviations of 4.2 wide.
        seen = np.zeros((len(LABELS), len(LABELS)), int)
        for seed in range(200):
            pairs = transfer_pairs(LABELS, POSES, 60, seed)
            seen[pairs.content, pairs.of_class] += 1
        counts = seen[(LABELS[:, None] != LABELS) & (POSES[:, None] != POSES)]
        assert counts.sum() == 200 * 60 and len(counts) == 600
        assert abs(counts - 20).max() <= 5 * math.sqrt(200 * 0.1 * 0.9)

    @pytest.mark.parametrize(
        ("labels", "poses"),
        [
            (LABELS, None),
            (np.zeros_like(LABELS), POSES),
            (LABELS, np.zeros_like(POSES)),
            (np.arange(5), np.arange(5)),  # no true image of any other combination
            (np.empty(0, int), np.empty(0, int)),
        ],
    )
    def test_there_may_be_none(self, labels: np.ndarray, poses: np.ndarray | None) -> None:
        assert all(part.shape == (0,) and part.dtype == np.int64 for part in transfer_pairs(labels, poses, 9, 0))

    def test_many_images_need_no_enumeration(self) -> None:
        labels, poses = np.repeat(np.arange(180), 96), np.tile(np.arange(96), 180)  # 3 · 10^8 pairs
        pairs = transfer_pairs(labels, poses, 100, 0)
        assert (labels[pairs.truth] == labels[pairs.of_class]).all()
        assert (poses[pairs.truth] == poses[pairs.content]).all()
        assert len(np.unique(pairs.content)) > 90

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"contents are int64 \[29\], expected whole numbers \[30\]"):
            transfer_pairs(LABELS, POSES[1:], 5, 0)
        with pytest.raises(ValueError, match=r"labels are float64 \[30\], expected whole numbers \[N\]"):
            transfer_pairs(LABELS / 2, POSES, 5, 0)
        with pytest.raises(ValueError, match="count is -1"):
            transfer_pairs(LABELS, POSES, -1, 0)


class TestExamples:
    def test_classes_and_contents_differ_where_they_are_known(self) -> None:
        contents, classes = example_rows(30, LABELS, POSES, 5, 0)
        assert len(set(LABELS[classes])) == len(set(POSES[contents])) == 5
        assert not set(contents) & set(classes)
        other, _ = example_rows(30, LABELS, POSES, 5, 1)
        assert (contents != other).any()
        contents, classes = example_rows(30, LABELS, POSES, 9, 0)
        assert (len(contents), len(classes)) == (5, 6)  # all there are

    def test_anything_will_do_where_nothing_is_known(self) -> None:
        contents, classes = example_rows(9, None, None, 4, 0)
        assert len({*contents, *classes}) == 8
        assert [part.tolist() for part in example_rows(1, None, None, 4, 0)] == [[0], [0]]


class TestMeasure:
    def test_codes_that_are_apart(self) -> None:
        found = measure_translation(Halves(), _set(), LABELS, POSES, seed=0)
        assert found["transfer_mse"] == found["reconstruction_mse"] == 0.0
        assert found["transfer_ssim"] == found["reconstruction_ssim"] == pytest.approx(1.0, abs=1e-6)  # float32
        assert found["class_from_class"] == found["content_from_content"] == 1.0
        assert found["class_from_content"] < 2 * found["class_chance"]
        assert found["content_from_class"] < 2 * found["content_chance"]

    def test_a_leak_that_the_decoder_ignores_is_found(self) -> None:
        found = measure_translation(Halves(leak=1.0), _set(), LABELS, POSES, seed=0)
        assert found["transfer_mse"] == 0.0
        assert found["class_from_content"] == 1.0

    @pytest.mark.parametrize(("leak", "drawn"), [(1e-3, False), (1e3, True)])
    def test_draws_hold_what_is_not_small_beside_the_posterior(self, leak: float, drawn: bool) -> None:
        labels, poses = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
        found = measure_translation(Halves(leak=leak), _set(labels, poses), labels, poses, seed=0)
        assert found["class_from_content"] == 1.0
        # Of 60 guesses at a chance of 1/6, five deviations of 2.9 above the mean are 24.4.
        assert found["class_from_content_draws"] == 1.0 if drawn else found["class_from_content_draws"] < 25 / 60

    def test_codes_without_a_posterior_are_not_drawn(self) -> None:
        model = TranslationVAE(8, 1, content_dim=3, class_dim=4, width=4, hidden=8, coded_images=2, coded_classes=1)
        found = measure_translation(model, _set(), LABELS, POSES, seed=0, count=5)
        assert set(measure_translation(_tiny(), _set(), LABELS, POSES, seed=0, count=5)) - set(found) == {
            "class_from_content_draws",
            "content_from_class_draws",
        }

    def test_transfer_is_what_translate_makes_beside_the_truth(self) -> None:
        model, images = _tiny(), _set()
        pairs = transfer_pairs(LABELS, POSES, 20, 5)
        made = model.translate(images[pairs.content], images[pairs.of_class])
        again = model.reconstruct(images[pairs.truth])
        found = measure_translation(model, images, LABELS, POSES, seed=5, count=20)
        # Values of about 1, in float32 batches of other sizes.
        expected = float(mse(unit_range(made), images[pairs.truth]).mean())
        assert found["transfer_mse"] == pytest.approx(expected, abs=1e-6)
        assert found["reconstruction_mse"] == pytest.approx(float(mse(again, images[pairs.truth]).mean()), abs=1e-6)

    def test_images_may_be_read_row_by_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(translation, "samples_at_once", lambda shape: 7)
        model, images = _tiny().train(), _set()
        asked: list[int] = []

        def read(rows: Sequence[int]) -> Tensor:
            asked.append(len(rows))
            return images[list(rows)]

        found = measure_translation(model, read, LABELS, POSES, seed=1, count=20)
        assert found == measure_translation(model, images, torch.from_numpy(LABELS), POSES.tolist(), seed=1, count=20)
        assert max(asked) == 7
        assert model.training and model.encoder.content.training

    def test_without_truths_reconstruction_and_the_probes_of_the_class_remain(self) -> None:
        found = measure_translation(Halves(), _set(), LABELS, None, seed=0)
        names = ["reconstruction_mse", "reconstruction_ssim", "class_from_content", "class_from_content_draws"]
        assert list(found) == [*names, "class_from_class", "class_chance"]
        alone = measure_translation(Halves(), _set(), np.zeros_like(LABELS), None, seed=0, count=3)
        assert list(alone) == names[:2]

    def test_another_distance_is_asked_about_the_same_images(self) -> None:
        seen = []

        def distance(shown: Tensor, true: Tensor) -> Tensor:
            seen.append((shown, true))
            return torch.arange(len(shown)).float()

        found = measure_translation(Halves(), _set(), LABELS, POSES, seed=0, count=9, lpips=distance)
        assert found["transfer_lpips"] == found["reconstruction_lpips"] == 4.0
        assert all(torch.equal(shown, true) and len(shown) == 9 for shown, true in seen)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_codes_that_are_not_finite_give_no_figures(self, value: float) -> None:
        model = Halves()
        model.scale.data.fill_(value)
        found = measure_translation(model, _set() + 0.1, LABELS, POSES, seed=0)
        chances = {name: found.pop(name) for name in ("class_chance", "content_chance")}
        assert all(0 < chance < 0.5 for chance in chances.values())
        assert all(math.isnan(figure) for figure in found.values())

    def test_what_cannot_be_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"labels are int64 \[29\], expected whole numbers \[30\]"):
            measure_translation(Halves(), _set(), LABELS[1:], None, seed=0)
        with pytest.raises(ValueError, match="got 0 images and a count of 1000"):
            measure_translation(Halves(), torch.zeros(0, 1, 8, 8), np.empty(0, int), None, seed=0)
        with pytest.raises(ValueError, match="got 30 images and a count of 0"):
            measure_translation(Halves(), _set(), LABELS, None, seed=0, count=0)


class TestHalves:
    def test_each_name_is_in_both_and_single_images_in_none(self) -> None:
        named = np.array([0] * 9 + [1] * 2 + [2] + [3] * 5)
        split = translation._halves(named, np.random.Generator(np.random.Philox(0)))
        assert split is not None
        train, test = split
        assert sorted([*train, *test]) == [row for row in range(17) if named[row] != 2]
        assert set(named[train]) == set(named[test]) == {0, 1, 3}
        assert abs(np.bincount(named[train]) - np.bincount(named[test])).max() == 1

    def test_no_probe_sees_more_than_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(translation, "PROBED_NAMES", 3)
        monkeypatch.setattr(translation, "PROBED_IMAGES", 12)
        split = translation._halves(LABELS, np.random.Generator(np.random.Philox(0)))
        assert split is not None
        rows = np.concatenate(split)
        assert 10 <= len(rows) <= 12 and len(set(LABELS[rows])) == 3

    def test_chance_names_the_class_most_frequent_in_training(self) -> None:
        labels = np.array([0] * 20 + [1] * 4 + [2] * 6)
        found = measure_translation(Halves(), _set(), labels, None, seed=0)
        assert found["class_chance"] == 10 / 15
