"""Differentiable augmentation: each kind against a plain statement for one image, gradients, and steps that use it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.method.augmentation import DRAWS, augment
from sivae.method.noise import NO_NOISE, Draws
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import ConvVAE
from sivae.objectives import SoftIntroObjective, VAEObjective
from sivae.settings.presets import preset_config
from sivae.training import SoftIntroStep, StepNoise, StepOptions, VAEStep
from tests.method.test_soft_intro import compare, compare_losses, optimizers

KINDS = ("color", "translation", "cutout")
SIDE, BATCH = 16, 6


def _images(seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.rand(BATCH, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _draws(seed: int = 1, rows: int = BATCH) -> Tensor:
    return torch.rand(rows, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_color_changes_brightness_then_saturation_then_contrast() -> None:
    images, draws = _images() * 2.0 - 1.0, _draws()
    for image, (brightness, saturation, contrast, *_), result in zip(
        images, draws.tolist(), augment(images, draws, ["color"], (-1.0, 1.0)), strict=True
    ):
        expected = image + (brightness - 0.5)
        gray = expected.mean(0)
        expected = gray + (expected - gray) * (2.0 * saturation)
        expected = expected.mean() + (expected - expected.mean()) * (0.5 + contrast)
        torch.testing.assert_close(result, expected, rtol=0.0, atol=1e-14)  # a few roundings of values below 4


def test_a_translation_shifts_by_at_most_an_eighth_and_fills_with_the_middle() -> None:
    images, draws = _images(), _draws()
    shifts = []
    for image, (*_, x, y, _cx, _cy), result in zip(
        images, draws.tolist(), augment(images, draws, ["translation"]), strict=True
    ):
        down, right = (int(draw * 5) - 2 for draw in (y, x))
        shifts += [down, right]
        for row in range(SIDE):
            for column in range(SIDE):
                inside = 0 <= row + down < SIDE and 0 <= column + right < SIDE
                expected = image[:, row + down, column + right] if inside else torch.full((3,), 0.5).double()
                assert torch.equal(result[:, row, column], expected)
    assert {-2, 2} <= set(shifts) <= {-2, -1, 0, 1, 2}


def test_a_cutout_replaces_a_square_of_half_the_side_around_any_place() -> None:
    corners = torch.zeros(3, DRAWS, dtype=torch.float64)
    corners[1, 5:] = 0.5
    corners[2, 5:] = 1.0 - 1e-9
    cut = augment(torch.ones(3, 1, SIDE, SIDE, dtype=torch.float64), corners, ["cutout"])[:, 0] == 0.5
    expected = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    expected[0, :4, :4] = True
    expected[1, 4:12, 4:12] = True
    expected[2, 12:, 12:] = True
    assert torch.equal(cut, expected)


def test_gradients_reach_the_images() -> None:
    images, draws = _images(side=5)[:2].requires_grad_(), _draws(rows=2)
    assert torch.autograd.gradcheck(lambda x: augment(x, draws, KINDS), images)


def test_the_memory_format_and_the_dtype_stay() -> None:
    images = _images().float().to(memory_format=torch.channels_last)
    result = augment(images, _draws(), KINDS)
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        augment(images.contiguous(), _draws(), ["translation", "cutout"]),
        augment(images, _draws(), ["translation", "cutout"]),
    )


def test_points_cannot_be_augmented() -> None:
    with pytest.raises(ValueError, match=r"images of shape \[6, 2\].*expected \[B, C, H, W\] and \[B, 7\]"):
        augment(torch.zeros(6, 2), _draws(), KINDS)


def test_the_draws_of_parts_and_processes_are_rows_of_the_whole_ones() -> None:
    seed = torch.tensor([5])

    def drawn(rows: slice, first: int, total: int, fresh: bool = False) -> dict[str, Tensor]:
        draws = Draws(NO_NOISE, seed, rows, first, total, 0, fresh)
        count = rows.stop - rows.start
        return {"real": draws.of_augmentation("real", 1, count, DRAWS)} | {
            of: draws.of_augmentation(of, 2, 2 * count, DRAWS).view(2, count, DRAWS) for of in ("encoder", "decoder")
        }

    whole, part, fresh = drawn(slice(0, 6), 0, 6), drawn(slice(2, 4), 2, 6), drawn(slice(0, 6), 0, 6, fresh=True)
    assert torch.equal(part["real"], whole["real"][2:4])
    for of in ("encoder", "decoder"):
        assert torch.equal(part[of], whole[of][:, 2:4])
    different = [whole["real"], *whole["encoder"], *whole["decoder"], fresh["real"]]
    assert all((draws >= 0).all() and (draws <= 1).all() for draws in different)
    assert len({draws.sum().item() for draws in different}) == len(different)


class _Augmenting:
    """A model whose `encode` augments first, with given draws for each call in turn."""

    def __init__(self, model: ConvVAE, draws: list[Tensor]) -> None:
        self.encoder, self.decoder, self.decode = model.encoder, model.decoder, model.decode
        self._model, self._draws = model, draws

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._model.encode(augment(x, self._draws.pop(0), KINDS))


@pytest.fixture
def model() -> ConvVAE:
    torch.manual_seed(3)
    return ConvVAE(image_size=SIDE, channels=3, widths=(4, 6), z_dim=3, norm="none").double()


@pytest.mark.parametrize("gamma_r", [0.0, 1.0])
def test_a_step_is_the_plain_one_of_an_encoder_that_augments(
    model: ConvVAE, gamma_r: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are against the images as they were, and gradients reach the decoder through the augmentation."""
    given = {"real": _draws(2), "encoder": _draws(3, 2 * BATCH), "decoder": _draws(4, 2 * BATCH)}
    monkeypatch.setattr(Draws, "of_augmentation", lambda self, of, *_: given[of])
    generator = torch.Generator().manual_seed(5)
    names = ("prior", "eps_real", "eps_rec_encoder", "eps_fake_encoder", "eps_rec_decoder", "eps_fake_decoder")
    noise = StepNoise(**{name: torch.randn(BATCH, 3, dtype=torch.float64, generator=generator) for name in names})
    weights: dict[str, Any] = {"scale": 0.01, "gamma_r": gamma_r, "beta_neg": 2.0}
    other = copy.deepcopy(model)
    # FAKES has the prior samples first, as the rows of the fused step.
    order = [given["real"], *given["encoder"].chunk(2), *given["decoder"].chunk(2)]
    plain = PlainSoftIntroStep(_Augmenting(other, order), *optimizers(other), **weights)
    step = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(**weights), options=StepOptions(augment=KINDS))
    compare_losses(step(_images(), noise), plain(_images(), noise), 1e-11)
    compare(model, other, 1e-9)  # float64 over four convolutions, each a sum of up to 150 products


def test_a_vae_s_step_encodes_augmented_images_and_is_deterministic(model: ConvVAE) -> None:
    losses = []
    for kinds in (KINDS, KINDS, ()):
        copied = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(1)
        step = VAEStep(
            copied, *optimizers(copied), VAEObjective(), generator=generator, options=StepOptions(augment=kinds)
        )
        losses.append(step(_images())["loss"].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("preset", ["8gaussians", "points-shapes"])
def test_points_and_clouds_refuse_augmentation(preset: str) -> None:
    with pytest.raises(ConfigError, match="augment: the samples are points, not images; leave it out"):
        preset_config(preset, augment=("color",))


def test_each_kind_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r'augment = \["color", "color"\]: name each kind once'):
        preset_config("digits", augment=("color", "color"))
    with pytest.raises(ConfigError, match=r"augment = .*: expected one of color, translation, cutout"):
        preset_config("digits", augment=("colour",))
