"""The optimizers: groups, learning rates, and the difference between torch's Adam and the published optimizer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae.models import MLPVAE, ConvVAE, VAEModel
from sivae.models.style import StyleVAE
from sivae.training.optimizers import make_optimizers, set_rate

RATE, DECAY, EPS = 0.002, 0.99, 1e-8


def _style() -> StyleVAE:
    return StyleVAE(image_size=8, channels=1, start_channels=2, max_channels=4, z_dim=3, mapping_layers=2)


def _rates(model: VAEModel, rate: float) -> dict[str, float]:
    """Learning rates by parameter name."""
    optimizers = make_optimizers(model, rate, capturable=False)
    for optimizer in optimizers.values():
        set_rate(optimizer, rate)
    found = {}
    for name, optimizer in optimizers.items():
        names = {id(value): f"{name}.{key}" for key, value in getattr(model, name).named_parameters()}
        for group in optimizer.param_groups:
            found |= {names.pop(id(parameter)): group["lr"] for parameter in group["params"]}
        assert not names  # every parameter, each in one group
    return found


def test_the_rate_of_each_parameter_has_its_scale() -> None:
    rates = _rates(_style(), RATE)
    root_2 = math.sqrt(2.0)
    # gain / sqrt(fan_in) times .1 in the mappings, as published; a mapping's bias .1, everything else 1.
    expected = {
        "encoder.blocks.0.conv1.weight": root_2 / math.sqrt(2 * 9),
        "encoder.blocks.0.bias1": 1.0,
        "encoder.blocks.0.style1.weight": root_2 / math.sqrt(2 * 2),
        "encoder.blocks.0.style1.bias": 1.0,
        "encoder.entrances.0.weight": root_2,  # of a grey image
        "encoder.entrances.0.bias": 1.0,
        "encoder.mapping.layers.0.weight": 0.1 * root_2 / math.sqrt(3),
        "encoder.mapping.layers.0.bias": 0.1,
        "decoder.mapping.layers.1.weight": 0.1 * root_2 / math.sqrt(3),
        "decoder.constant": 1.0,
        "decoder.blocks.1.noise_weight1": 1.0,
        "decoder.blocks.1.style1.weight": 1.0 / math.sqrt(3),
        "decoder.exits.1.weight": 0.03 / math.sqrt(2),
    }
    for name, scale in expected.items():
        assert rates[name] == pytest.approx(RATE * scale), name


@pytest.mark.parametrize("model", [MLPVAE(hidden=4, layers=1), ConvVAE(8, 1, (2, 4), 3)], ids=["mlp", "conv"])
def test_other_models_have_the_default_adam(model: VAEModel) -> None:
    for optimizer in make_optimizers(model, RATE, capturable=False).values():
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.Adam)
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)
    assert set(_rates(model, RATE).values()) == {RATE}


def test_a_rate_for_a_graph_is_filled_in_place() -> None:
    optimizer = make_optimizers(_style(), torch.tensor(RATE), capturable=False)["decoder"]
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len({rate.data_ptr() for rate in rates}) == len(rates) > 3
    set_rate(optimizer, 3 * RATE)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate
        assert rate.item() == pytest.approx(3 * RATE * group["rate_scale"])


def _published_steps(gradients: Tensor) -> Tensor:
    """Compute the authors' optimizer for gradients [T, N]: lr sqrt(1 - .99^t) g / (sqrt(v) + 1e-8)."""
    v = torch.zeros_like(gradients[0])
    steps = []
    for t, gradient in enumerate(gradients, start=1):
        v = DECAY * v + (1 - DECAY) * gradient**2
        steps.append(RATE * math.sqrt(1 - DECAY**t) * gradient / (v.sqrt() + EPS))
    return torch.stack(steps)


def _steps_of_adam(gradients: Tensor) -> Tensor:
    model = _style().double()
    with torch.no_grad():
        model.decoder.constant = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make_optimizers(model, RATE, capturable=False)["decoder"]
    set_rate(optimizer, RATE)
    weight, steps = model.decoder.constant, []
    for gradient in gradients:
        weight.data.zero_()
        weight.grad = gradient.clone()
        optimizer.step()
        steps.append(-weight.detach().clone())
    return torch.stack(steps)


def test_a_step_differs_from_the_published_one_only_by_epsilon() -> None:
    """Adam's step is lr c g / (sqrt(v) + c eps) with c = sqrt(1 - .99^t). The published step has eps instead of c eps,
    so it is smaller, by (1 - c) eps / (sqrt(v) + eps) of Adam's step.
    """
    generator = torch.Generator().manual_seed(2)
    sizes = 10.0 ** torch.linspace(-9, 1, 41, dtype=torch.float64)
    gradients = torch.randn(400, 41, dtype=torch.float64, generator=generator) * sizes
    ours, published = _steps_of_adam(gradients), _published_steps(gradients)
    v = torch.zeros(41, dtype=torch.float64)
    for t in range(400):
        v = DECAY * v + (1 - DECAY) * gradients[t] ** 2
        bias = math.sqrt(1 - DECAY ** (t + 1))
        shortfall = (1 - bias) * EPS / (v.sqrt() + EPS)
        torch.testing.assert_close(published[t], ours[t] * (1 - shortfall), rtol=1e-10, atol=1e-18)


def test_over_a_run_the_difference_is_below_a_thousandth() -> None:
    """For gradients of one size and either sign, sqrt(v) is c |g|. Then Adam's steps have the same size, and the
    published steps are smaller by at most (1 - c) / c times eps / |g|. The mean of this over the first 400 steps is
    0.31 eps / |g|: 3e-4 at gradients of 1e-5.
    """
    generator = torch.Generator().manual_seed(2)
    sizes = 10.0 ** torch.linspace(-5, 1, 13, dtype=torch.float64)
    gradients = torch.randn(400, 13, dtype=torch.float64, generator=generator).sign() * sizes
    ours, published = _steps_of_adam(gradients), _published_steps(gradients)
    biases = [math.sqrt(1 - DECAY**t) for t in range(1, 401)]
    mean = sum((1 - bias) / bias for bias in biases) / 400
    drift = (ours - published).abs().sum(0) / ours.abs().sum(0)
    assert (drift <= mean * EPS / sizes * (1 + 1e-6) + 1e-14).all()
    assert mean * EPS / sizes.min() < 1e-3
