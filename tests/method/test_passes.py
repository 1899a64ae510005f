"""The random draws of a step's decoder passes, and `fresh_passes`, against the plain step in float64.

Each pass of the style model draws noise and mixes styles, and updates its running average. So each pass of the plain
step gets the draws of the same pass of the fused step, by its offset.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import MLPVAE, VAEModel
from sivae.models.style import StyleVAE
from sivae.objectives import FAKES, SoftIntroObjective, VAEObjective
from sivae.training import SoftIntroStep, StepNoise, StepOptions, VAEStep
from tests.method.test_soft_intro import compare, compare_losses, gradients, optimizers

SEED = 17
BATCH = 4
WEIGHTS = {"beta_rec": 0.7, "beta_kl": 0.4, "beta_neg": 0.9, "alpha": 2.0}
SCALE = 0.05


@pytest.fixture(params=["reference", "native"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[request.param]["cpu"]))
    with ops.use_backend(request.param):
        yield request.param


@pytest.fixture
def style() -> StyleVAE:
    """A model of 8x8 images in the middle of blending, with a visible effect of noise."""
    torch.manual_seed(3)
    model = StyleVAE(image_size=8, channels=1, start_channels=3, max_channels=4, z_dim=5, mapping_layers=2).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "noise_weight" in name or "bias" in name:
                parameter.normal_(std=0.3)
    model.grow(1, 0.6)
    return model


def _noise(rows: int, z_dim: int) -> StepNoise:
    generator = torch.Generator().manual_seed(5)
    names = [field.name for field in dataclasses.fields(StepNoise)]
    return StepNoise(**{name: torch.randn(rows, z_dim, dtype=torch.float64, generator=generator) for name in names})


def _images(model: VAEModel, rows: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(rows, *model.sample_shape, dtype=torch.float64, generator=generator) * 2 - 1


def test_fresh_passes_equal_the_plain_step(backend: str) -> None:
    """For a model without noise maps: the decoder's update has new draws, and z of the updated encoder."""
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2).double()
    other = copy.deepcopy(model)
    batch = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    settings = {"scale": 0.5, "gamma_r": 1.0, **WEIGHTS}
    plain = PlainSoftIntroStep(other, *optimizers(other), fresh_passes=True, **settings)
    options = StepOptions(fresh_passes=True)
    step = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(**settings), options=options)
    for shift in range(2):
        compare_losses(step(batch + shift, _noise(7, 2)), plain(batch + shift, _noise(7, 2)), 1e-11)
    compare(model, other, 1e-11)


class _PlainPasses(nn.Module):
    """A model whose passes, in the order of the plain step, get the draws that the fused step takes by offsets."""

    def __init__(self, model: StyleVAE, seed: Tensor, passes: list[tuple[int, str | None]]) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.encode = model.encode
        self._model, self._seed = model, seed
        self._passes = deque(passes)

    def decode(self, z: Tensor) -> Tensor:
        return self._decode(z, prior=False)

    def decode_prior(self, z: Tensor) -> Tensor:
        return self._decode(z, prior=True)

    def _decode(self, z: Tensor, *, prior: bool) -> Tensor:
        number, fake = self._passes.popleft()
        noise = ops.PhiloxNoise(self._seed, 32 + 32 * number)
        if fake is None:
            return self._model.decode_for_training(z, noise=noise, prior=prior)
        # Ours decodes both kinds of fakes in one pass; no sample sees another.
        first = FAKES.index(fake) * len(z)  # type: ignore[arg-type]
        return self._model.decode_for_training(torch.cat([z, z]), noise=noise, prior=prior)[first : first + len(z)]


# Numbers of passes: reconstructions, prior samples, fakes in the encoder's and the decoder's update, and the first two
# once more where they are fresh.
_ENCODER_UPDATE: list[tuple[int, str | None]] = [(0, None), (1, None), (2, "prior"), (2, "reconstruction")]
_GAMMA_R_TERM: list[tuple[int, str | None]] = [(3, "prior"), (3, "reconstruction")]


@pytest.mark.parametrize("fresh", [False, True], ids=["shared", "fresh"])
def test_the_step_of_the_style_model_equals_the_plain_step(style: StyleVAE, fresh: bool) -> None:
    other = copy.deepcopy(style)
    again: list[tuple[int, str | None]] = [(4, None), (5, None)] if fresh else [(0, None), (1, None)]
    settings = {"scale": SCALE, "gamma_r": 1.0, **WEIGHTS}
    generator = torch.Generator().manual_seed(SEED)
    seed = ops.draw_seed("cpu", torch.Generator().manual_seed(SEED))
    passes = _PlainPasses(other, seed, [*_ENCODER_UPDATE, *again, *_GAMMA_R_TERM])
    plain = PlainSoftIntroStep(
        passes, *optimizers(other), decode_prior=passes.decode_prior, fresh_passes=fresh, **settings
    )
    options = StepOptions(fresh_passes=fresh)
    step = SoftIntroStep(
        style, *optimizers(style), SoftIntroObjective(**settings), generator=generator, options=options
    )
    batch, noise = _images(style), _noise(BATCH, 5)
    compare_losses(step(batch, noise), plain(batch, noise), 1e-10)
    for name in ("encoder", "decoder"):
        mine, theirs = (
            {label: value for label, value in getattr(model, name).named_parameters() if value.grad is not None}
            for model in (style, other)
        )
        assert mine.keys() == theirs.keys()
        for label, parameter in mine.items():
            torch.testing.assert_close(parameter.grad, theirs[label].grad, rtol=1e-7, atol=1e-10)


def test_layers_of_other_stages_do_not_change(style: StyleVAE) -> None:
    style.grow(0)
    before = {name: value.clone() for name, value in style.named_parameters()}
    step = SoftIntroStep(style, *optimizers(style), SoftIntroObjective(scale=SCALE, **WEIGHTS))
    step(_images(style))
    moved = {name for name, value in style.named_parameters() if not torch.equal(value, before[name])}
    assert "decoder.blocks.0.conv2.weight" in moved and "encoder.blocks.1.conv1.weight" in moved
    assert not any(name.startswith(("decoder.blocks.1", "decoder.exits.1", "encoder.blocks.0")) for name in moved)
    assert "encoder.entrances.0.weight" not in moved


@pytest.mark.parametrize("fresh", [False, True], ids=["shared", "fresh"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_passes_of_an_iteration_have_different_draws(style: StyleVAE, accumulate: int, fresh: bool) -> None:
    """With two processes and parts of batches, each pass of an iteration has its own range of offsets."""
    offsets: list[int] = []
    for rank in range(2):
        model = copy.deepcopy(style)
        original = model.decode_for_training

        def recorded(z: Tensor, condition: Tensor | None = None, *, noise: ops.PhiloxNoise, prior: bool) -> Tensor:
            offsets.append(noise.offset)
            return original(z, condition, noise=noise, prior=prior)  # noqa: B023

        model.decode_for_training = recorded  # type: ignore[method-assign]
        options = StepOptions(accumulate=accumulate, fresh_passes=fresh, rank=rank, world_size=2)
        objective = SoftIntroObjective(scale=SCALE, gamma_r=1.0, **WEIGHTS)
        SoftIntroStep(model, *optimizers(model), objective, options=options)(_images(model))
    # With parts, the passes that both updates share are computed twice, with the same draws.
    of_a_part = 6 if fresh else 4
    assert len(set(offsets)) == 2 * accumulate * of_a_part
    assert len(offsets) == len(set(offsets)) + (4 * accumulate if accumulate > 1 and not fresh else 0)
    distances = {abs(one - another) for one in offsets for another in offsets} - {0}
    assert min(distances) >= VAEModel.OFFSETS_PER_PASS
    assert min(offsets) >= 6  # below lie the latents' draws


def test_parts_of_a_batch_repeat_the_draws_of_shared_passes(style: StyleVAE) -> None:
    """The gradient of a batch in two parts is the mean of the gradients of two processes with the same draws."""
    generator = torch.Generator().manual_seed(SEED)
    options = StepOptions(accumulate=2)
    objective = SoftIntroObjective(scale=SCALE, **WEIGHTS)
    step = SoftIntroStep(style, *optimizers(style), objective, generator=generator, options=options)
    other = copy.deepcopy(style)
    losses = step(_images(style))
    assert all(torch.isfinite(value) for value in losses.values())
    # The encoder's gradient of each part alone: the same rows of the same draws, by the rank that has them.
    parts = []
    for rank in range(2):
        model = copy.deepcopy(other)
        SoftIntroStep(
            model,
            *optimizers(model),
            objective,
            generator=torch.Generator().manual_seed(SEED),
            options=StepOptions(rank=rank, world_size=2),
        )(_images(model)[2 * rank : 2 * rank + 2])
        parts.append(gradients(_trained(model.encoder)))
    torch.testing.assert_close(gradients(_trained(style.encoder)), (parts[0] + parts[1]) / 2, rtol=1e-7, atol=1e-10)


def _trained(network: nn.Module) -> nn.Module:
    """Flatten the parameters that have a gradient."""
    return nn.ParameterList([value for value in network.parameters() if value.grad is not None])


def test_the_warm_up_updates_the_average_style_without_mixing(style: StyleVAE) -> None:
    step = VAEStep(style, *optimizers(style), VAEObjective(), generator=torch.Generator().manual_seed(SEED))
    style.style_mixing = 1.0
    before = style.average_style.clone()
    step(_images(style))
    moved = style.average_style - before
    assert moved.abs().min() > 0
    # One style serves all inputs of a reconstruction, so the average stays the same for all.
    assert torch.equal(moved, moved[:1].expand_as(moved))
