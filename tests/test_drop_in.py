"""The examples of docs/drop-in.md do what the code they replace does."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.method.noise import StepNoise
from sivae.method.plain import PlainSoftIntroStep
from sivae.models.pair import PairVAE

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "drop-in.md"
ROUNDING = 2.0**-52  # of float64, in which both sides are run


def examples(heading: str, run: int | None = None) -> dict[str, Any]:
    """The names that the first `run` code blocks under a heading define; None: all of them."""
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)
    section = next(section for section in sections if section.startswith(heading))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[:run]:
        exec(compile(block, DOCUMENT.name, "exec"), names)
    return names


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def kl_error(mu: Tensor, logvar: Tensor) -> Tensor:
    """What two float64 sums of the KL may differ by: the usual formula rounds each of its four terms and their sum."""
    sizes = 1 + logvar.abs() + mu.square() + logvar.exp()
    return (16 + mu[0].numel()) * ROUNDING * sizes.flatten(1).sum(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def test_the_hand_written_loss_and_its_gradient_given_the_same_noise(monkeypatch):
    names = examples("A VAE written by hand")
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).double()
    decoder = nn.Sequential(nn.Linear(5, 48), nn.Unflatten(1, (3, 4, 4))).double()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    x = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    eps = torch.randn(6, 5, dtype=torch.float64)

    monkeypatch.setattr(torch, "randn_like", lambda _: eps)
    by_hand = names["loss_by_hand"](encoder, decoder, x)
    fused = ops.reparameterize_kl
    monkeypatch.setattr(ops, "reparameterize_kl", lambda mu, logvar: fused(mu, logvar, noise=eps))
    by_ops = names["loss_by_ops"](encoder, decoder, x)

    # 48 and 5 terms a sample and a mean over 6, all of one sign but for the KL's, whose terms are of order 1.
    bound = 100 * ROUNDING * (by_hand.detach().abs() + 5)
    assert (by_hand - by_ops).detach().abs() <= bound
    expected, actual = torch.autograd.grad(by_hand, parameters), torch.autograd.grad(by_ops, parameters)
    for e, a in zip(expected, actual, strict=True):
        # Products of at most 48 + 6 + 5 summands, whose sizes the largest entry of the gradient stands for.
        assert (e - a).abs().max() <= 1000 * ROUNDING * e.abs().max()


@pytest.mark.parametrize(
    ("by_hand", "kind"),
    [
        (torch.nn.functional.mse_loss, "mse"),
        (torch.nn.functional.l1_loss, "l1"),
        (torch.nn.functional.binary_cross_entropy, "bce"),
        (torch.nn.functional.binary_cross_entropy_with_logits, "bce_with_logits"),
    ],
)
def test_the_kinds_and_the_mean_over_samples_that_the_document_names(by_hand, kind):
    recon, target = torch.rand(2, 4, 3, 5, dtype=torch.float64)
    expected = by_hand(recon, target, reduction="sum") / 4
    actual = ops.reconstruction_error(recon, target, kind=kind, reduction="mean")
    assert (expected - actual).abs() <= (60 + 32) * ROUNDING * expected  # 60 positive terms, each to a few roundings


def test_the_soft_introvae_made_of_the_ops_is_the_paper_s_algorithm(monkeypatch):
    names = examples("A Soft-IntroVAE", run=1)
    theirs = nn.ModuleDict({"encoder": names["network"](4), "decoder": names["network"](2)}).double()
    mine = copy.deepcopy(theirs)
    x = torch.randn(6, 2, dtype=torch.float64)
    draws = dict(
        zip(("eps_real", "eps_fake_encoder", "eps_fake_decoder", "prior"), torch.randn(4, 6, 2).double(), strict=True)
    )
    eps = iter(draws.values())  # in the order of the example, whose noise comes last
    fused = ops.reparameterize_kl
    monkeypatch.setattr(ops, "reparameterize_kl", lambda mu, logvar: fused(mu, logvar, noise=next(eps)))
    monkeypatch.setattr(torch, "randn_like", lambda _: draws["prior"])

    def optimizers(model):
        return [torch.optim.SGD(model[side].parameters(), lr=0.5) for side in ("encoder", "decoder")]

    names["update"](mine["encoder"], mine["decoder"], *optimizers(mine), x)
    monkeypatch.undo()

    model = PairVAE(theirs["encoder"], theirs["decoder"])
    weights = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9, "gamma_r": 1.0, "scale": 0.5}
    plain = PlainSoftIntroStep(model, *optimizers(theirs), semantics="paper", fakes=("prior",), **weights)
    plain(x, StepNoise(**draws))
    for (name, mine_now), expected in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        # Two updates in float64, of sums of up to 128 products in each of some ten layers.
        assert (mine_now - expected).abs().max() <= 1e4 * ROUNDING * expected.abs().max(), name


def test_the_soft_introvae_made_of_the_ops_learns(capsys):
    examples("A Soft-IntroVAE")
    before, after = (float(number) for number in re.findall(r"0\.\d\d", capsys.readouterr().out))
    assert before > 0.6  # nats; log 2 is the most
    assert after < 0.5


def test_the_factors_of_other_packages_for_clouds():
    """What each computes, as its documentation has it. 14 positive terms in float64, each to a few roundings."""
    names = examples("pytorch3d, kaolin, chamferdist")
    points, targets = torch.randn(2, 4, 7, 3, dtype=torch.float64)
    pairs = (points[:, :, None] - targets[:, None]).square().sum(3)
    to_targets, to_points = pairs.amin(2), pairs.amin(1)  # [4, 7] each
    expected = {
        "as_pytorch3d": to_targets.mean() + to_points.mean(),
        "as_kaolin": to_targets.mean(1) + to_points.mean(1),
        "as_chamferdist": to_targets.sum(1).mean() + to_points.sum(1).mean(),
    }
    for name, value in expected.items():
        actual = names[name](points, targets)
        assert actual.shape == value.shape, name
        assert ((actual - value).abs() <= 64 * ROUNDING * value).all(), name


def test_group_norm_followed_by_silu():
    """float64; a few thousand roundings of numbers of order 1."""
    norm_silu = examples("torch and diffusers: group norm followed by SiLU")["norm_silu"]
    norm, x = torch.nn.GroupNorm(2, 6, eps=1e-6).double(), torch.randn(3, 6, 5, 4, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    assert (norm_silu(norm, x) - torch.nn.functional.silu(norm(x))).abs().max() <= 1e4 * ROUNDING


@needs("diffusers")
def test_diffusers_posterior():
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    names = examples("diffusers")
    moments = 3 * torch.randn(4, 8, 5, 5, dtype=torch.float64)
    moments[0, 4:] = 100.0  # what the class clamps
    posterior = DiagonalGaussianDistribution(moments)
    for z, kl in (names["sample_and_kl"](posterior), names["moments_to_sample_and_kl"](moments)):
        assert z.shape == posterior.sample().shape
        assert ((kl - posterior.kl()).abs() <= kl_error(posterior.mean, posterior.logvar)).all()
    # The sample, given diffusers' own noise.
    expected = posterior.sample(torch.Generator().manual_seed(3))
    eps = torch.randn(4, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    actual = ops.reparameterize(posterior.mean, posterior.logvar, noise=eps)
    spread = posterior.std * eps.abs()
    assert ((actual - expected).abs() <= 8 * ROUNDING * (posterior.mean.abs() + spread)).all()


@needs("pythae")
@pytest.mark.parametrize("kind", ["mse", "bce"])
def test_pythae_loss(kind):
    from pythae.models import VAE, VAEConfig

    config = VAEConfig(input_dim=(1, 6, 6), latent_dim=4, reconstruction_loss=kind)
    model = examples("pythae")["FusedVAE"](config).double()
    x, recon = torch.rand(2, 5, 1, 6, 6, dtype=torch.float64)
    mu, logvar = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = VAE.loss_function(model, recon.flatten(1), x, mu, logvar, None)
    actual = model.loss_function(recon.flatten(1), x, mu, logvar, None)
    bound = kl_error(mu, logvar).mean() + (36 + 32) * ROUNDING * expected[1]
    for e, a in zip(expected, actual, strict=True):
        assert (e - a).abs() <= bound
    # And the whole model trains with it.
    output = model({"data": x})
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_usual_formula_loses_the_kl_next_to_the_prior_and_the_op_does_not():
    """What the document says of the KL in float32."""
    mu, logvar = torch.zeros(1, 1), torch.full((1, 1), 1e-4)
    exact = (logvar.double().expm1() - logvar.double()).sum() / 2
    usual = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum()
    assert (usual.double() - exact).abs() >= exact  # not one digit
    assert (ops.gaussian_kl(mu, logvar).double().sum() - exact).abs() <= 1e-6 * exact
