"""Training steps of the conv model, against recordings of the official programs."""

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
from sivae.models.reading import read_checkpoint
from sivae.objectives import SoftIntroObjective
from sivae.training import SoftIntroStep, StepNoise, StepOptions

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Recording:
    """A step of one of the official programs."""

    def __init__(self, stem: str) -> None:
        self.checkpoint = FIXTURES / f"{stem}.pth"
        self.settings = json.loads((FIXTURES / f"{stem}.json").read_text())
        self.arrays = dict(np.load(FIXTURES / f"{stem}.npz"))

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def model(self, memory_format: torch.memory_format = torch.contiguous_format) -> ConvVAE:
        model = import_official(self.checkpoint).model
        assert isinstance(model, ConvVAE)
        model.to(memory_format=memory_format)
        return model.train()

    def noise(self) -> StepNoise:
        return StepNoise(
            prior=self.tensor("noise_prior"),
            eps_real=self.tensor("eps_real"),
            eps_rec_encoder=self.tensor("eps_rec_encoder_step"),
            eps_fake_encoder=self.tensor("eps_fake_encoder_step"),
            eps_rec_decoder=self.tensor("eps_rec_decoder_step"),
            eps_fake_decoder=self.tensor("eps_fake_decoder_step"),
        )

    def step_on(self, model: ConvVAE, options: StepOptions | None = None, **weights: float) -> SoftIntroStep:
        optimizers = [
            torch.optim.SGD(network.parameters(), lr=self.settings["learning_rate"])
            for network in (model.encoder, model.decoder)
        ]
        names = ("beta_rec", "beta_kl", "beta_neg", "gamma_r")
        objective = SoftIntroObjective(**{name: self.settings[name] for name in names} | weights)
        return SoftIntroStep(model, *optimizers, objective, options=options or StepOptions())

    def compare(self, model: ConvVAE, losses: dict[str, Tensor], tolerance: float) -> None:
        """Both losses agree to 1e-5, and every gradient to the tolerance."""
        for name in ("loss_encoder", "loss_decoder"):
            assert losses[name].item() == pytest.approx(self.tensor(name).item(), rel=1e-5)
        names = official_names(model)
        seen = set()
        for ours, gradient in gradients(model).items():
            key = f"grad_{names[ours]}"
            assert distance(gradient, self.tensor(key)) < tolerance, names[ours]
            seen.add(key)
        assert seen == {key for key in self.arrays if key.startswith("grad_")}


OF_IMAGES = Recording("official_step_rgb32")
OF_BOOTSTRAP = Recording("official_step_bootstrap")
recorded = OF_IMAGES.tensor
official_model = OF_IMAGES.model


@pytest.fixture
def model() -> ConvVAE:
    return official_model()


def take_step(model: ConvVAE, gamma_r: float, options: StepOptions | None = None) -> dict[str, Tensor]:
    return OF_IMAGES.step_on(model, options, gamma_r=gamma_r)(recorded("x"), OF_IMAGES.noise())


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
        losses = take_step(model, OF_IMAGES.settings["gamma_r"])
    OF_IMAGES.compare(model, losses, tolerance)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_bootstrap_step_equals_the_recorded_one(backend):
    """To the same tolerances, in contiguous memory. The recorded target decoder has weights of its own."""
    if backend not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[backend]["cpu"]))
    model = OF_BOOTSTRAP.model()
    with ops.use_backend(backend):
        step = OF_BOOTSTRAP.step_on(model, bootstrap=1.0)
        file = read_checkpoint(OF_BOOTSTRAP.checkpoint)["model"]
        names = official_names(model)
        target = {ours: file[f"target_{names[ours]}"] for ours in names if ours.startswith("decoder.")}
        before = {name: tensor.clone() for name, tensor in target.items()}
        step.target.load_state({name.removeprefix("decoder."): tensor for name, tensor in target.items()})
        losses = step(OF_BOOTSTRAP.tensor("x"), OF_BOOTSTRAP.noise())
    OF_BOOTSTRAP.compare(model, losses, 1e-4)
    assert all(torch.equal(step.target.state()[name.removeprefix("decoder.")], value) for name, value in before.items())


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
