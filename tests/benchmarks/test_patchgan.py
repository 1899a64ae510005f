"""The PatchGAN critic of the baseline: its patches, its losses, and the iteration that trains with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.patchgan import (
    CRITIC_WEIGHT,
    KL_WEIGHT,
    RATIO_LARGEST,
    PatchGAN,
    PatchGANStep,
    adaptive_weight,
    hinge_loss,
    layers_for,
)
from sivae.models import AutoencoderVAE
from sivae.models.structural import StructuralDistance


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_the_published_size(layers: int, patch: int) -> None:
    torch.manual_seed(0)
    critic = PatchGAN(1, 2, layers).double().eval()  # eval: batch norm would mix all pixels
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = critic(x)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == patch


@pytest.mark.parametrize(
    ("side", "layers", "logits"), [(16, 1, 6), (32, 1, 14), (64, 2, 14), (128, 3, 14), (256, 3, 30)]
)
def test_larger_images_get_larger_patches(side: int, layers: int, logits: int) -> None:
    assert layers_for(side) == layers
    assert PatchGAN(3, 4, layers)(torch.zeros(2, 3, side, side)).shape == (2, 1, logits, logits)


def test_the_published_critic_has_its_number_of_parameters() -> None:
    # 4x4 convolutions of 3, 64, 128, 256, 512 and 1 channels; the first and the last have biases, three have a norm.
    weights = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    others = 64 + 1 + 2 * (128 + 256 + 512)
    assert sum(parameter.numel() for parameter in PatchGAN(3, 64, 3).parameters()) == weights + others == 2_765_633


def test_the_hinge_loss_counts_what_is_within_the_margin() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))


def test_the_weight_is_the_ratio_of_the_gradients_at_the_last_layer() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    rec, adversarial = (w * w).sum(), 0.1 * w[0]  # gradients (6, 8) and (0.1, 0)
    assert adaptive_weight(rec, adversarial, w).item() == pytest.approx(10.0 / (0.1 + 1e-4))
    assert not adaptive_weight(rec, adversarial, w).requires_grad
    assert adaptive_weight(rec, 0.0 * w[0], w).item() == RATIO_LARGEST  # 10 / 1e-4 is more


def _step(starts_after: int) -> tuple[PatchGANStep, Tensor]:
    torch.manual_seed(0)
    model = AutoencoderVAE(image_size=16, widths=(8, 16), latent_channels=2, layers=1, groups=4)
    distance = StructuralDistance(1.0, "l1", (-1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    step = PatchGANStep(model, PatchGAN(3, 8, 1), distance, starts_after=starts_after, generator=generator)
    return step, torch.rand(8, 3, 1, 1).mul(2).sub(1).expand(8, 3, 16, 16).contiguous()


def _weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_iterations_lower_the_error_and_teach_the_critic() -> None:
    step, x = _step(starts_after=5)
    first = step(1, x, 2e-3)
    for number in range(2, 40):
        last = step(number, x, 2e-3)
    assert last["rec"] < 0.6 * first["rec"]
    assert last["loss_critic"] < 1.0  # of a critic that says 0 to all
    assert all(math.isfinite(value) for value in last.values())


def test_the_critic_waits_for_its_start() -> None:
    step, x = _step(starts_after=1)
    before = _weights(step.critic)
    early = step(1, x, 1e-3)
    assert set(early) == {"loss", "rec", "kl_real"}
    assert all(torch.equal(one, other) for one, other in zip(before, _weights(step.critic), strict=True))
    torch.testing.assert_close(early["loss"], early["rec"] + KL_WEIGHT * early["kl_real"])
    late = step(2, x, 1e-3)
    assert 0 < late["critic_weight"] <= CRITIC_WEIGHT * RATIO_LARGEST
    changed = [not torch.equal(one, other) for one, other in zip(before, _weights(step.critic), strict=True)]
    assert any(changed)


def test_the_autoencoder_follows_its_loss_alone_and_the_critic_the_hinge() -> None:
    step, x = _step(starts_after=0)
    step(1, x, 0.0)  # with a rate of 0 only the gradients remain
    of_critic = [parameter.grad.clone() for parameter in step.critic.parameters() if parameter.grad is not None]
    step.generator.manual_seed(0)
    mu, logvar = step.model.encode(x)
    noise = torch.randn(mu.shape, generator=step.generator)
    recon = step.model.decode(mu + torch.exp(0.5 * logvar) * noise).detach()
    step.critic.zero_grad()
    hinge_loss(step.critic(x), step.critic(recon)).backward()
    for parameter, gradient in zip(step.critic.parameters(), of_critic, strict=True):
        assert torch.equal(parameter.grad, gradient)
