"""One training step of the conv model, against a recording of the official program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sivae import ops
from sivae.models import ConvVAE
from sivae.models.official import import_official
from sivae.models.official.conv import official_names
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepNoise, StepOptions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "official_step_rgb32"
SETTINGS = json.loads(FIXTURE.with_suffix(".json").read_text())
RECORDED = dict(np.load(FIXTURE.with_suffix(".npz")))


def recorded(name: str) -> Tensor:
    return torch.from_numpy(RECORDED[name])


def official_model(memory_format: torch.memory_format = torch.contiguous_format) -> ConvVAE:
    model = import_official(FIXTURE.with_suffix(".pth")).model
    assert isinstance(model, ConvVAE)
    model.to(memory_format=memory_format)
    return model.train()


@pytest.fixture
def model() -> ConvVAE:
    return official_model()


def take_step(model: ConvVAE, gamma_r: float, options: StepOptions | None = None) -> dict[str, Tensor]:
    optimizers = [
        torch.optim.SGD(network.parameters(), lr=SETTINGS["learning_rate"])
        for network in (model.encoder, model.decoder)
    ]
    objective = SoftIntroObjective(
        beta_rec=SETTINGS["beta_rec"], beta_kl=SETTINGS["beta_kl"], beta_neg=SETTINGS["beta_neg"], gamma_r=gamma_r
    )
    noise = StepNoise(
        prior=recorded("noise_prior"),
        eps_real=recorded("eps_real"),
        eps_rec_encoder=recorded("eps_rec_encoder_step"),
        eps_fake_encoder=recorded("eps_fake_encoder_step"),
        eps_rec_decoder=recorded("eps_rec_decoder_step"),
        eps_fake_decoder=recorded("eps_fake_decoder_step"),
    )
    return SoftIntroStep(model, *optimizers, objective, options=options or StepOptions())(recorded("x"), noise)


def gradients(model: ConvVAE) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance."""
    return ((ours - theirs).norm() / theirs.norm()).item()


# In channels-last memory the convolutions sum in another order than the recording's, and an activation within rounding
# of zero may take leaky ReLU's other slope: a jump in the gradient that no rounding error bounds.
FORMATS = [
    pytest.param(torch.contiguous_format, 1e-4, id="contiguous"),
    pytest.param(torch.channels_last, 1e-3, id="channels-last"),
]


@pytest.mark.parametrize(("memory_format", "tolerance"), FORMATS)
@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("skips", [True, False], ids=["gamma_r left out", "gamma_r kept"])
def test_losses_and_all_gradients_equal_the_recorded_ones(memory_format, tolerance, backend, skips, monkeypatch):
    """Up to 1e-5 and 1e-4, the rounding of float32 sums in another order, through a dozen layers with batch norm."""
    if backend not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[backend]["cpu"]))
    model = official_model(memory_format)
    if not skips:
        monkeypatch.setattr("sivae.method.objectives.NEGLIGIBLE", 0.0)
    with ops.use_backend(backend):
        metrics = take_step(model, SETTINGS["gamma_r"])
    for name in ("loss_encoder", "loss_decoder"):
        assert metrics[name].item() == pytest.approx(recorded(name).item(), rel=1e-5)
    names = official_names(model)
    seen = set()
    for ours, gradient in gradients(model).items():
        network = ours.split(".")[0]
        key = f"grad_{names[ours]}"
        assert distance(gradient, recorded(key)) < tolerance, f"{network}: {names[ours]}"
        seen.add(key)
    assert seen == {key for key in RECORDED if key.startswith("grad_")}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_leaving_out_a_negligible_gamma_r_changes_no_gradient(memory_format, monkeypatch):
    """The relative L2 distance over each network is below 1e-6."""
    model, other = official_model(memory_format), official_model(memory_format)
    take_step(model, 1e-8)
    monkeypatch.setattr("sivae.method.objectives.NEGLIGIBLE", 0.0)
    take_step(other, 1e-8)
    for name in ("encoder", "decoder"):
        mine, theirs = (
            torch.cat([parameter.grad.flatten() for parameter in getattr(one, name).parameters()])
            for one in (model, other)
        )
        assert distance(mine, theirs) < 1e-6, name


def test_running_statistics_follow_real_images_and_the_decoder_s_first_pass_of_each_kind(model):
    """With a momentum of 0.1 each pass that counts makes a statistic 0.9 of its old value plus 0.1 of the batch's."""
    encoder, decoder = model.encoder.entry.norm, model.decoder.stages[0].norm1
    counts = [int(norm.num_batches_tracked) for norm in (encoder, decoder)]
    before = encoder.running_mean.clone()
    with torch.no_grad():
        of_real = model.encoder.entry.conv(recorded("x")).mean((0, 2, 3))
    take_step(model, 1.0)
    assert int(encoder.num_batches_tracked) == counts[0] + 1
    assert int(decoder.num_batches_tracked) == counts[1] + 2
    torch.testing.assert_close(encoder.running_mean, 0.9 * before + 0.1 * of_real)


def test_a_step_in_parts_updates_running_statistics_once_for_each_part(model):
    encoder, decoder = model.encoder.entry.norm, model.decoder.stages[0].norm1
    counts = [int(norm.num_batches_tracked) for norm in (encoder, decoder)]
    take_step(model, 1e-8, StepOptions(accumulate=3))
    assert int(encoder.num_batches_tracked) == counts[0] + 3
    assert int(decoder.num_batches_tracked) == counts[1] + 6
