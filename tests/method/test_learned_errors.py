"""The reconstruction errors that change with the run or the model: a learned variance, and bce of a model of logits."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sivae
from sivae.detection.detector import density_of
from sivae.errors import ConfigError
from sivae.method.kl_average import ErrorAverage
from sivae.method.plain import PlainSoftIntroStep
from sivae.models import ConvVAE
from sivae.models.storage import write_model
from sivae.objectives import SoftIntroObjective, VAEObjective
from sivae.settings.presets import preset_config
from sivae.training import SoftIntroStep, StepNoise, StepOptions, VAEStep
from tests.method.test_soft_intro import compare, compare_losses, optimizers

SIDE, BATCH, Z = 8, 6, 3
NAMES = ("prior", "eps_real", "eps_rec_encoder", "eps_fake_encoder", "eps_rec_decoder", "eps_fake_decoder")


def _model(**options: Any) -> ConvVAE:
    torch.manual_seed(3)
    return ConvVAE(image_size=SIDE, channels=1, widths=(4,), z_dim=Z, norm="none", **options).double()


def _slow(model: ConvVAE) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD(network.parameters(), lr=1e-6) for network in (model.encoder, model.decoder)]


@pytest.fixture
def batch() -> Tensor:
    return torch.rand(BATCH, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def noise() -> StepNoise:
    generator = torch.Generator().manual_seed(5)
    return StepNoise(**{name: torch.randn(BATCH, Z, dtype=torch.float64, generator=generator) for name in NAMES})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("step_class", "objective"), [(VAEStep, VAEObjective), (SoftIntroStep, SoftIntroObjective)])
def test_a_learned_variance_is_the_mean_squared_error_so_far(
    step_class: Any, objective: Any, accumulate: int, batch: Tensor, noise: StepNoise
) -> None:
    """A step is that of the squared error with the weight 1 / (2 variance) of the iterations before."""
    weights = {} if objective is VAEObjective else {"beta_neg": 2.0, "gamma_r": 1.0}
    model, options = _model(), StepOptions(accumulate=accumulate)
    step = step_class(model, *_slow(model), objective(kind="gaussian", **weights), options=options)
    variance, sums = 0.05, (0.0, 0.0)  # of the first iteration
    for _ in range(3):
        other = copy.deepcopy(model)
        plain = objective(beta_rec=0.5 / variance, **weights)
        theirs = step_class(other, *_slow(other), plain, options=options)(batch, noise)
        ours = step(batch, noise)
        compare(model, other, 1e-12)
        elements = SIDE * SIDE
        assert ours["decoder_std"].item() == pytest.approx(math.sqrt(variance), rel=1e-12)
        squares = theirs["rec"].item()
        density = squares / (2.0 * variance) + 0.5 * elements * math.log(2.0 * math.pi * variance)
        assert ours["rec"].item() == pytest.approx(density, rel=1e-12)
        sums = (0.98 * sums[0] + 0.02 * squares / elements, 0.98 * sums[1] + 0.02)
        variance = sums[0] / sums[1]


def test_the_variance_has_a_least_value() -> None:
    average = ErrorAverage()
    assert average.variance(torch.zeros(())) == pytest.approx(0.05)
    average.observe(torch.tensor(0.0))
    assert average.variance(torch.zeros(())) == pytest.approx(1e-6)


def bce(recon: Tensor, target: Tensor) -> Tensor:
    return -(target * recon.log() + (1.0 - target) * (1.0 - recon).log()).flatten(1).sum(1)


@pytest.mark.parametrize("semantics", ["official", "paper"])
@pytest.mark.parametrize("gamma_r", [0.0, 1.0])
def test_a_step_with_bce_on_logits_is_the_plain_one_on_their_sigmoid(
    semantics: Any, gamma_r: float, batch: Tensor, noise: StepNoise
) -> None:
    weights: dict[str, Any] = {"beta_neg": 2.0, "gamma_r": gamma_r, "scale": 0.02, "semantics": semantics}
    model = _model(makes_logits=True)
    other = copy.deepcopy(model)
    plain = PlainSoftIntroStep(other, *optimizers(other), error=bce, **weights)
    ours = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(kind="bce", **weights))(batch, noise)
    compare_losses(ours, plain(batch, noise), 1e-11)
    compare(model, other, 1e-9)  # float64 over two convolutions; 1 - recon of the plain form rounds


def test_a_model_of_logits_decodes_to_images_and_its_folder_says_so(tmp_path: Path) -> None:
    model, z = _model(makes_logits=True).float().eval(), torch.randn(4, Z)
    torch.testing.assert_close(model.decode(z), torch.sigmoid(model.raw_output(z)))
    assert 0.0 <= model.sample(16).min() <= model.sample(16).max() <= 1.0
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", model)
    again = sivae.from_pretrained(tmp_path / "model")
    assert torch.equal(again.decode(z), model.decode(z)) and again.hyperparameters["makes_logits"] is True
    assert "makes_logits" not in _model().hyperparameters
    with pytest.raises(ValueError, match="makes_logits is 'yes', expected True or False"):
        _model(makes_logits="yes")


def test_other_errors_of_a_model_of_logits_are_those_of_its_images(batch: Tensor, noise: StepNoise) -> None:
    model = _model(makes_logits=True)
    mu, _ = model.encode(batch)
    rec = F.mse_loss(model.decode(mu), batch, reduction="none").flatten(1).sum(1).mean()
    zero = StepNoise(eps_real=torch.zeros(BATCH, Z, dtype=torch.float64))
    assert VAEStep(model, *optimizers(model), VAEObjective())(batch, zero)["rec"].item() == pytest.approx(rec.item())


@pytest.mark.parametrize("kind", ["bce", "gaussian"])
def test_a_distance_compares_images_and_replaces_the_error(kind: Any, batch: Tensor) -> None:
    model, seen = _model(makes_logits=True), []

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(images.detach())
        return (images - targets).abs().flatten(1).sum(1)

    expected = distance(model.decode(model.encode(batch)[0]), batch).mean().item()
    options: dict[str, Any] = {"distance": distance, "error_average": ErrorAverage()}
    zero = StepNoise(eps_real=torch.zeros(BATCH, Z, dtype=torch.float64))
    metrics = VAEStep(model, *optimizers(model), VAEObjective(kind=kind), **options)(batch, zero)
    assert torch.equal(seen[1], seen[0])
    assert metrics["rec"].item() == pytest.approx(expected, rel=1e-12) and "decoder_std" not in metrics


@pytest.mark.parametrize("preset", ["rings", "style32", "translation-shapes"])
def test_bce_needs_a_model_with_a_sigmoid(preset: str) -> None:
    with pytest.raises(ConfigError, match='kind = "bce": expected one of mse, l1, gaussian; the model '):
        preset_config(preset, kind="bce")


def test_clouds_have_no_other_error() -> None:
    with pytest.raises(ConfigError, match='kind = "gaussian": expected one of chamfer'):
        preset_config("points-shapes", kind="gaussian")


def test_the_density_of_bce_follows_from_the_weights() -> None:
    density = density_of(VAEObjective(kind="bce", beta_rec=2.0))
    recon, target = torch.full((3, 5), 0.25), torch.ones(3, 5)
    assert density.precision * density.error(recon, target)[0].item() == pytest.approx(-10.0 * math.log(0.25))
    assert density.log_normaliser == 0.0


def test_the_density_of_a_learned_variance_has_that_variance_relative_to_the_weights() -> None:
    objective, said = VAEObjective(kind="gaussian", beta_rec=4.0), list[str]()
    assert density_of(objective, sigma=0.1).sigma == pytest.approx(0.1)
    assert density_of(objective, learned=0.2, notice=said.append).sigma == pytest.approx(0.2 / math.sqrt(4.0))
    assert "learned the deviation 0.2; with beta_rec = 4 and beta_kl = 1 that of p(x|z) is 0.1 " in said[0]
    assert density_of(objective, beta_rec=1.0, beta_kl=1.0, learned=0.2).sigma == pytest.approx(0.2)


def test_a_learned_variance_is_asked_for_where_it_is_unknown_and_needed() -> None:
    objective = VAEObjective(kind="gaussian")
    assert density_of(objective, score="kl").kind == "mse"
    with pytest.raises(ConfigError, match=r"learned its decoder's deviation, and no checkpoint .* by --sigma"):
        density_of(objective, beta_rec=1.0, beta_kl=1.0)
