"""The training steps against plain statements of their algorithms, in float64, with given noise.

Soft-IntroVAE is stated in `sivae.method.plain`; the paper's form and IntroVAE are stated here. The optimizer is SGD
without momentum, so that the decoder's update depends exactly on the gradient of the encoder's.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from sivae import ops
from sivae.method.kl_average import KLAverage
from sivae.method.plain import PlainSoftIntroStep, l1, mse
from sivae.models import MLPVAE, PointVAE
from sivae.objectives import FAKES, IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training import IntroStep, SoftIntroStep, StepNoise, StepOptions, VAEStep

BATCH = 7
RATE = 0.05
WEIGHTS = {"beta_rec": 0.7, "beta_kl": 0.4, "beta_neg": 0.9, "alpha": 2.0}
FAKE_SETS = [("prior",), ("reconstruction",), FAKES]


@pytest.fixture(params=["reference", "native"], autouse=True)
def backend(request: pytest.FixtureRequest):
    if request.param not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[request.param]["cpu"]))
    with ops.use_backend(request.param):
        yield request.param


@pytest.fixture
def model() -> MLPVAE:
    torch.manual_seed(3)
    built = MLPVAE(hidden=16, layers=2).double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(1.5)  # the initial networks are so flat that a wrong gradient could hide in a small one
    return built


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(BATCH, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def noise() -> StepNoise:
    generator = torch.Generator().manual_seed(5)
    names = [field.name for field in dataclasses.fields(StepNoise)]
    return StepNoise(**{name: torch.randn(BATCH, 2, dtype=torch.float64, generator=generator) for name in names})


def optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return torch.optim.SGD(model.encoder.parameters(), lr=RATE), torch.optim.SGD(model.decoder.parameters(), lr=RATE)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2 distance."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def compare(ours: MLPVAE, theirs: MLPVAE, tolerance: float) -> None:
    for name in ("encoder", "decoder"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert gradients(other).norm() > 1e-3
        assert distance(gradients(mine), gradients(other)) < tolerance, name
        for (label, parameter), reference in zip(mine.named_parameters(), other.parameters(), strict=True):
            scale = max(reference.grad.norm().item(), 1e-6 * gradients(other).norm().item())
            assert (parameter.grad - reference.grad).norm().item() < 10 * tolerance * scale, f"{name}.{label}"
        assert distance(weights(mine), weights(other)) < tolerance, name


def compare_losses(ours: dict[str, Tensor], theirs: dict[str, float], tolerance: float) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].item() == pytest.approx(value, rel=tolerance), name


@pytest.mark.parametrize(
    ("kind", "gamma_r", "loss_tolerance", "gradient_tolerance"),
    [
        # The fused step leaves out a term with the weight 1e-8, times a ratio of rec that depends on the kind.
        pytest.param("mse", 1e-8, 1e-9, 1e-7, id="mse, negligible gamma_r left out"),
        pytest.param("l1", 1e-8, 1e-8, 1e-7, id="l1, negligible gamma_r left out"),
        pytest.param("mse", 1.0, 1e-12, 1e-12, id="mse, gamma_r matters"),
        pytest.param("l1", 1.0, 1e-12, 1e-12, id="l1, gamma_r matters"),
        pytest.param("mse", 0.0, 1e-12, 1e-12, id="mse, no gamma_r"),
    ],
)
def test_the_official_step_equals_the_plain_step(
    model, batch, noise, kind, gamma_r, loss_tolerance, gradient_tolerance
):
    other = copy.deepcopy(model)
    plain = PlainSoftIntroStep(
        other, *optimizers(other), scale=0.5, gamma_r=gamma_r, error={"mse": mse, "l1": l1}[kind], **WEIGHTS
    )
    objective = SoftIntroObjective(scale=0.5, gamma_r=gamma_r, kind=kind, **WEIGHTS)
    ours = SoftIntroStep(model, *optimizers(model), objective)(batch, noise)
    theirs = plain(batch, noise)
    # Only the decoder's loss has a gamma_r term.
    compare_losses(
        {name: value for name, value in ours.items() if name != "loss_decoder"},
        {name: value for name, value in theirs.items() if name != "loss_decoder"},
        1e-12,
    )
    assert ours["loss_decoder"].item() == pytest.approx(theirs["loss_decoder"], rel=loss_tolerance)
    compare(model, other, gradient_tolerance)


def test_three_official_steps_in_a_row_equal_three_plain_steps(model, batch, noise):
    other = copy.deepcopy(model)
    plain = PlainSoftIntroStep(other, *optimizers(other), scale=0.5, gamma_r=1.0, **WEIGHTS)
    step = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(scale=0.5, gamma_r=1.0, **WEIGHTS))
    for shift in range(3):
        ours, theirs = step(batch + shift, noise), plain(batch + shift, noise)
        compare_losses(ours, theirs, 1e-11)
    compare(model, other, 1e-11)


def straight_line(
    model: MLPVAE, batch: Tensor, noise: StepNoise, fakes: tuple[str, ...], encoder_fake, decoder_fake, scale: float
) -> dict[str, float]:
    """Encoder's and decoder's update with SGD, one forward pass per use, gradients left in `.grad`.

    `encoder_fake(rec, kl)` and `decoder_fake(rec, kl)` give the batch's fake term from per-sample values. Gradients are
    stopped where Algorithm 1 of the paper stops them: at x_f in the encoder's update, at x_ff in the decoder's.
    """
    encoder, decoder = list(model.encoder.parameters()), list(model.decoder.parameters())

    def rec(x: Tensor, target: Tensor) -> Tensor:
        return ((x - target) ** 2).sum(1)

    def kl(mu: Tensor, logvar: Tensor) -> Tensor:
        return 0.5 * (logvar.exp() + mu**2 - 1 - logvar).sum(1)

    def fakes_of(z: Tensor) -> dict[str, Tensor]:
        return {"prior": model.decode(noise.prior), "reconstruction": model.decode(z)}

    eps_encoder = {"prior": noise.eps_fake_encoder, "reconstruction": noise.eps_rec_encoder}
    eps_decoder = {"prior": noise.eps_fake_decoder, "reconstruction": noise.eps_rec_decoder}
    label = {"prior": "fake", "reconstruction": "rec"}
    values: dict[str, float] = {}

    mu, logvar = model.encode(batch)
    z = mu + torch.exp(0.5 * logvar) * noise.eps_real
    loss_rec, loss_kl = rec(model.decode(z), batch), kl(mu, logvar)
    loss = scale * (WEIGHTS["beta_rec"] * loss_rec + WEIGHTS["beta_kl"] * loss_kl).mean()
    terms = []
    for kind in fakes:
        x_f = fakes_of(z)[kind].detach()
        mu_f, logvar_f = model.encode(x_f)
        x_ff = model.decode(mu_f + torch.exp(0.5 * logvar_f) * eps_encoder[kind])
        terms.append(encoder_fake(rec(x_ff, x_f), kl(mu_f, logvar_f)))
        values[f"kl_{label[kind]}"] = kl(mu_f, logvar_f).mean().item()
    loss = loss + sum(terms)
    values |= {"loss_encoder": loss.item(), "rec": loss_rec.mean().item(), "kl_real": loss_kl.mean().item()}
    encoder_gradients = torch.autograd.grad(loss, encoder)
    z = z.detach()
    with torch.no_grad():
        for parameter, gradient in zip(encoder, encoder_gradients, strict=True):
            parameter -= RATE * gradient

    loss = scale * WEIGHTS["beta_rec"] * rec(model.decode(z), batch).mean()
    for kind in fakes:
        x_f = fakes_of(z)[kind]
        mu_f, logvar_f = model.encode(x_f)
        x_ff = model.decode(mu_f + torch.exp(0.5 * logvar_f) * eps_decoder[kind]).detach()
        loss = loss + decoder_fake(rec(x_f, x_ff), kl(mu_f, logvar_f))
    values["loss_decoder"] = loss.item()
    decoder_gradients = torch.autograd.grad(loss, decoder)
    with torch.no_grad():
        for parameter, gradient in zip(decoder, decoder_gradients, strict=True):
            parameter -= RATE * gradient
    for parameter, gradient in zip([*encoder, *decoder], [*encoder_gradients, *decoder_gradients], strict=True):
        parameter.grad = gradient
    return values


@pytest.mark.parametrize("fakes", FAKE_SETS, ids="+".join)
@pytest.mark.parametrize(("gamma_r", "gamma"), [(1.0, 1.0), (0.0, 1.0), (1.0, 0.4)])
def test_the_paper_step_equals_algorithm_1(model, batch, noise, fakes, gamma_r, gamma):
    scale, alpha = 0.5, WEIGHTS["alpha"]
    share = 1.0 / len(fakes)

    def encoder_fake(rec: Tensor, kl: Tensor) -> Tensor:
        return share * torch.exp(-alpha * scale * (WEIGHTS["beta_rec"] * rec + WEIGHTS["beta_neg"] * kl)).mean() / alpha

    def decoder_fake(rec: Tensor, kl: Tensor) -> Tensor:
        return gamma * share * scale * (WEIGHTS["beta_kl"] * kl + gamma_r * WEIGHTS["beta_rec"] * rec).mean()

    other, restated = copy.deepcopy(model), copy.deepcopy(model)
    settings = {"scale": scale, "gamma_r": gamma_r, "gamma": gamma, "semantics": "paper", "fakes": fakes, **WEIGHTS}
    ours = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(**settings))(batch, noise)
    plain = PlainSoftIntroStep(other, *optimizers(other), **settings)(batch, noise)
    compare_losses(ours, plain, 1e-12)
    compare(model, other, 1e-12)
    theirs = straight_line(restated, batch, noise, fakes, encoder_fake, decoder_fake, scale)
    compare_losses({name: value for name, value in ours.items() if "exp_elbo" not in name}, theirs, 1e-12)
    compare(model, restated, 1e-12)


@pytest.mark.parametrize("fakes", FAKE_SETS, ids="+".join)
@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_the_official_step_equals_the_plain_step_with_any_fakes(model, batch, noise, fakes, gamma):
    other = copy.deepcopy(model)
    settings = {"scale": 0.5, "gamma_r": 1.0, "gamma": gamma, "semantics": "official", "fakes": fakes, **WEIGHTS}
    ours = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(**settings))(batch, noise)
    compare_losses(ours, PlainSoftIntroStep(other, *optimizers(other), **settings)(batch, noise), 1e-12)
    compare(model, other, 1e-12)


@pytest.mark.parametrize("fakes", FAKE_SETS, ids="+".join)
@pytest.mark.parametrize("semantics", ["official", "paper"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_bootstrap_step_equals_the_plain_step(model, batch, noise, fakes, semantics, accumulate):
    """The target decoder is copied from the decoder before the first and the third step, and differs in the second."""
    batch, noise = batch[:6], StepNoise(**{name: eps[:6] for name, eps in vars(noise).items()})
    other = copy.deepcopy(model)
    target = copy.deepcopy(other).requires_grad_(False)
    settings = {"scale": 0.5, "semantics": semantics, "fakes": fakes, **WEIGHTS}
    plain = PlainSoftIntroStep(other, *optimizers(other), gamma_r=1.0, target=target, **settings)
    objective = SoftIntroObjective(bootstrap=2.0, **settings)
    assert objective.gamma_r == 1.0
    step = SoftIntroStep(model, *optimizers(model), objective, options=StepOptions(accumulate=accumulate))
    for number in range(3):
        if number == 2:
            step.target.copy()
            target.load_state_dict(other.state_dict())
        assert torch.equal(weights(step.target.model.decoder), weights(model.decoder)) == (number != 1)
        compare_losses(step(batch + number, noise), plain(batch + number, noise), 1e-11)
        compare(model, other, 1e-11)


@pytest.mark.parametrize("change", [dataclasses.replace, SoftIntroObjective.changed], ids=["replace", "changed"])
def test_a_default_gamma_r_follows_the_target_decoder_and_a_given_one_stays(change):
    with_target = change(SoftIntroObjective(), bootstrap=1.0)
    assert with_target == SoftIntroObjective(bootstrap=1.0) and with_target.gamma_r == 1.0
    assert change(change(with_target, alpha=1.0), bootstrap=None) == SoftIntroObjective(alpha=1.0)
    for given in (1e-8, 1.0, 0.3):
        explicit = SoftIntroObjective(gamma_r=given)
        assert change(explicit, bootstrap=1.0).gamma_r == given
        assert change(change(explicit, bootstrap=1.0), bootstrap=None).gamma_r == given
    assert change(SoftIntroObjective(gamma_r=0.3), gamma_r=None).gamma_r == 1e-8


def test_a_target_decoder_shares_the_encoder_and_is_never_trained(model, batch):
    step = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(bootstrap=1.0, scale=0.5))
    before = weights(step.target.model.decoder)
    step(batch)
    assert step.target.model.encoder is model.encoder
    assert torch.equal(weights(step.target.model.decoder), before)
    assert all(parameter.grad is None for parameter in step.target.model.decoder.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("fakes", FAKE_SETS, ids="+".join)
def test_the_intro_step_applies_the_hinge_to_each_sample(model, batch, noise, fakes):
    # A margin amid the fakes' kl, so that some samples are past it and the hinge of the mean would differ; between two
    # of them, because at the kink itself the derivative is a matter of convention.
    with torch.no_grad():
        ordered = ops.gaussian_kl(*model.encode(model.decode(noise.prior))).sort().values
    margin = ordered[BATCH // 2 - 1 : BATCH // 2 + 1].mean().item()
    alpha = 0.25

    def encoder_fake(rec: Tensor, kl: Tensor) -> Tensor:
        return alpha * (margin - kl).clamp(min=0).mean()

    def decoder_fake(rec: Tensor, kl: Tensor) -> Tensor:
        return alpha * kl.mean()

    other = copy.deepcopy(model)
    objective = IntroObjective(
        beta_rec=WEIGHTS["beta_rec"], beta_kl=WEIGHTS["beta_kl"], margin=margin, alpha=alpha, fakes=fakes
    )
    ours = IntroStep(model, *optimizers(model), objective)(batch, noise)
    theirs = straight_line(other, batch, noise, fakes, encoder_fake, decoder_fake, 1.0)
    compare_losses(ours, theirs, 1e-12)
    compare(model, other, 1e-12)


def counted_calls(model: MLPVAE) -> dict[str, int]:
    """Count the passes through each network from now on."""
    calls = {"encoder": 0, "decoder": 0}
    for name in calls:

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        getattr(model, name).register_forward_hook(count)
    return calls


@pytest.mark.parametrize(
    ("changes", "encoder", "decoder"),
    [
        ({}, 3, 3),  # E(x), E(fakes) in each update; D(z), D(noise), D(z_fakes)
        ({"gamma_r": 1.0}, 3, 4),  # and D(z_fakes) in the decoder's update
        ({"beta_rec": 0.0}, 3, 2),  # no rec of a fake is needed
        ({"beta_kl": 0.0}, 2, 3),  # nothing in the decoder's update looks at E(fakes)
        ({"gamma": 0.0, "gamma_r": 1.0}, 2, 3),  # nor at any fake
        ({"fakes": ("reconstruction",)}, 3, 2),  # no D(noise)
    ],
    ids=str,
)
def test_passes_without_use_are_not_computed(model, batch, changes, encoder, decoder):
    calls = counted_calls(model)
    SoftIntroStep(model, *optimizers(model), SoftIntroObjective(scale=0.5, **(WEIGHTS | changes)))(batch)
    assert calls == {"encoder": encoder, "decoder": decoder}


@pytest.mark.parametrize("step", [SoftIntroStep, IntroStep])
def test_frozen_parameters_stay_frozen(model, batch, step):
    objective = SoftIntroObjective(scale=0.5) if step is SoftIntroStep else IntroObjective()
    frozen = [model.encoder[0].weight, *model.decoder.parameters()]
    before = [parameter.detach().clone() for parameter in frozen]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trained = model.encoder[2].weight.detach().clone()
    step(model, *optimizers(model), objective)(batch)
    assert not any(parameter.requires_grad for parameter in frozen)
    assert all(torch.equal(parameter, old) for parameter, old in zip(frozen, before, strict=True))
    assert not torch.equal(model.encoder[2].weight, trained)


def test_the_decoder_trains_alone_where_the_encoder_s_loss_has_no_gradient(model, batch):
    """Neither the fakes nor the reconstruction error reach z of the real samples here."""
    model.encoder.requires_grad_(False)
    before = weights(model.decoder)
    objective = SoftIntroObjective(scale=0.5, fakes=("prior",), beta_rec=0.0, beta_neg=1.0)
    SoftIntroStep(model, *optimizers(model), objective)(batch)
    assert not torch.equal(weights(model.decoder), before)


def test_all_passes_call_encode_or_decode_of_the_model(model, batch):
    class Clamped(MLPVAE):
        calls = 0

        def encode(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return super().encode(x, condition)

    clamped = Clamped(hidden=16, layers=2).double()
    SoftIntroStep(clamped, *optimizers(clamped), SoftIntroObjective(scale=0.5))(batch)
    assert clamped.calls == 3


@pytest.mark.parametrize("push", [0.1, 0.9, 30.0])
def test_an_automatic_beta_neg_pushes_a_fake_of_the_mean_kl_with_the_given_share_of_the_pull(model, batch, noise, push):
    """After the first iteration the mean is that iteration's kl, and beta_kl stands in for beta_neg in it.

    30 is more than any weight reaches; the weight of the strongest push is taken, whose exponent is 1.
    """
    other = copy.deepcopy(model)
    objective = SoftIntroObjective(scale=0.5, **{**WEIGHTS, "beta_neg": "auto", "alpha": 1.5}, neg_push=push)
    automatic = SoftIntroStep(model, *optimizers(model), objective)

    def compare_with_fixed(losses: dict[str, Tensor]) -> float:
        beta_neg = losses.pop("beta_neg").item()
        fixed = SoftIntroStep(other, *optimizers(other), objective.changed(beta_neg=beta_neg))
        compare_losses(losses, {name: value.item() for name, value in fixed(batch, noise).items()}, 1e-12)
        compare(model, other, 1e-12)
        return beta_neg

    first = automatic(batch, noise)
    assert compare_with_fixed(first) == objective.beta_kl
    beta_neg = compare_with_fixed(automatic(batch, noise))
    exponent = objective.alpha * 0.5 * beta_neg * first["kl_real"].item()
    reached = beta_neg * math.exp(-exponent) / objective.beta_kl
    assert exponent == pytest.approx(1.0, rel=1e-12) if push == 30.0 else exponent > 1.0
    assert reached == pytest.approx(push, rel=1e-12) or (push == 30.0 and reached < push)


@pytest.mark.parametrize("beta_kl", [1e-12, 1e-3, 0.4])
@pytest.mark.parametrize("kl", [1e-9, 0.7, 40.0, 1e4])
def test_an_automatic_beta_neg_is_finite_for_every_kl(beta_kl, kl):
    objective = SoftIntroObjective(scale=5e-6, beta_kl=beta_kl, beta_neg="auto")
    average = KLAverage()
    average.observe(torch.tensor(kl))
    beta_neg = objective.automatic_beta_neg(average, torch.zeros(2), 5e-6).item()
    exponent = 2.0 * 5e-6 * beta_neg * max(kl, 0.1)
    # float32: the exponent's error moves the push by as many times its own size.
    assert beta_neg * math.exp(-exponent) == pytest.approx(objective.neg_push * beta_kl, rel=exponent * 1e-6)


@pytest.mark.parametrize("gamma_r", [1e-8, 1.0])
@pytest.mark.parametrize("semantics", ["official", "paper"])
def test_a_batch_in_parts_gives_the_same_update(model, batch, noise, semantics, gamma_r):
    """The losses of the parts are means over equal numbers of samples, so only rounding differs."""
    batch, noise = batch[:6], StepNoise(**{name: eps[:6] for name, eps in vars(noise).items()})
    other = copy.deepcopy(model)
    objective = SoftIntroObjective(scale=0.5, semantics=semantics, gamma_r=gamma_r, **WEIGHTS)
    whole = SoftIntroStep(other, *optimizers(other), objective)(batch, noise)
    parts = SoftIntroStep(model, *optimizers(model), objective, options=StepOptions(accumulate=3))(batch, noise)
    compare_losses(parts, {name: value.item() for name, value in whole.items()}, 1e-12)
    compare(model, other, 1e-12)


def test_a_vae_s_batch_in_parts_gives_the_same_update(model, batch):
    other = copy.deepcopy(model)
    results = []
    for one, accumulate in ((model, 2), (other, 1)):
        generator = torch.Generator().manual_seed(11)
        step = VAEStep(
            one,
            *optimizers(one),
            VAEObjective(beta_kl=0.4),
            generator=generator,
            options=StepOptions(accumulate=accumulate),
        )
        results.append(step(batch[:6]))
    compare_losses(results[0], {name: value.item() for name, value in results[1].items()}, 1e-12)
    compare(model, other, 1e-12)


def test_parts_and_processes_draw_their_rows_of_the_whole_noise(model, batch):
    """In float32, so that PhiloxNoise inside an op and philox_normal outside draw the same numbers."""
    model, batch = model.float(), batch[:6].float()
    seen: dict[str, list[Tensor]] = {}

    def steps(rank: int, world_size: int, accumulate: int) -> None:
        copied = copy.deepcopy(model)
        decoded: list[Tensor] = []
        original = copied.decode
        copied.decode = lambda z, condition=None: decoded.append(z.detach()) or original(z, condition)
        rows = len(batch) // world_size
        SoftIntroStep(
            copied,
            *optimizers(copied),
            SoftIntroObjective(scale=0.5),
            generator=torch.Generator().manual_seed(11),
            options=StepOptions(accumulate=accumulate, rank=rank, world_size=world_size),
        )(batch[rank * rows : (rank + 1) * rows])
        seen[f"{rank}/{world_size}/{accumulate}"] = decoded

    steps(0, 1, 1)
    steps(0, 2, 1)
    steps(1, 2, 1)
    steps(0, 1, 3)
    whole_z, whole_prior, whole_fakes = seen["0/1/1"]  # [6, 2], [6, 2], [12, 2]: reconstructions, then prior samples
    fakes = whole_fakes.view(2, 6, 2)
    for rank in (0, 1):
        rows = slice(3 * rank, 3 * rank + 3)
        z, prior, again = seen[f"{rank}/2/1"]
        torch.testing.assert_close(z, whole_z[rows])
        torch.testing.assert_close(prior, whole_prior[rows])
        torch.testing.assert_close(again, fakes[:, rows].reshape(6, 2))
    for part in range(3):
        rows = slice(2 * part, 2 * part + 2)
        z, prior, again = seen["0/1/3"][3 * part : 3 * part + 3]
        torch.testing.assert_close(z, whole_z[rows])
        torch.testing.assert_close(prior, whole_prior[rows])
        torch.testing.assert_close(again, fakes[:, rows].reshape(4, 2))


def test_a_batch_that_accumulate_does_not_divide_is_an_error(model, batch):
    with pytest.raises(ValueError, match="the batch has 7 samples, expected a multiple of accumulate = 2"):
        step = SoftIntroStep(model, *optimizers(model), SoftIntroObjective(), options=StepOptions(accumulate=2))
        step(batch)


def test_autocast_keeps_weights_losses_and_gradients_in_float32(model, batch):
    model, batch = model.float(), batch.float()
    other = copy.deepcopy(model)
    objective = SoftIntroObjective(scale=0.5, **WEIGHTS)
    results = []
    for one, dtype in ((model, torch.bfloat16), (other, None)):
        generator = torch.Generator().manual_seed(11)
        step = SoftIntroStep(one, *optimizers(one), objective, generator=generator, options=StepOptions(autocast=dtype))
        results.append(step(batch))
    assert {value.dtype for value in results[0].values()} == {torch.float32}
    for parameter, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert not torch.equal(parameter.grad, reference.grad)  # it did run in bfloat16
    # bfloat16 rounds to 2^-9; four layers forward and as many back stay within twenty roundings.
    for name in ("encoder", "decoder"):
        assert distance(gradients(getattr(model, name)), gradients(getattr(other, name))) < 20 * 2.0**-9


def test_an_empty_batch_is_an_error(model, batch):
    with pytest.raises(ValueError, match="the batch has no samples"):
        SoftIntroStep(model, *optimizers(model), SoftIntroObjective())(batch[:0])


def test_noise_for_only_some_fakes_is_an_error(model, batch, noise):
    with pytest.raises(ValueError, match="only some of eps_fake_encoder, eps_rec_encoder are given"):
        partial = dataclasses.replace(noise, eps_rec_encoder=None)
        SoftIntroStep(model, *optimizers(model), SoftIntroObjective())(batch, partial)


def test_the_same_generator_state_gives_the_same_step(model, batch):
    results = []
    for _ in range(2):
        copied = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(11)
        step = SoftIntroStep(copied, *optimizers(copied), SoftIntroObjective(scale=0.5), generator=generator)
        results.append((step(batch), step(batch), weights(copied)))
    (first, second, ours), (again, _, theirs) = results
    assert torch.equal(ours, theirs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["loss_encoder"] != second["loss_encoder"]


@pytest.mark.parametrize("bootstrap", [None, 1.0])
def test_the_step_of_point_clouds_equals_the_plain_step_with_chamfer_distances(bootstrap: float | None) -> None:
    torch.manual_seed(3)
    model = PointVAE(20, 2, (6, 8), 7, (8,)).double()
    clouds = torch.rand(BATCH, 30, 3, dtype=torch.float64) - 0.5
    other = copy.deepcopy(model)
    names = [field.name for field in dataclasses.fields(StepNoise)]
    noise = StepNoise(**{name: torch.randn(BATCH, 2, dtype=torch.float64) for name in names})
    target = None if bootstrap is None else copy.deepcopy(other)
    scale = 1.0 / clouds[0].numel()
    plain = PlainSoftIntroStep(
        other, *optimizers(other), scale=scale, gamma_r=1.0, error=ops.chamfer_distance, target=target, **WEIGHTS
    )
    objective = SoftIntroObjective(gamma_r=1.0, kind="chamfer", bootstrap=bootstrap, **WEIGHTS)
    ours = SoftIntroStep(model, *optimizers(model), objective)(clouds, noise)
    compare_losses(ours, plain(clouds, noise), 1e-10)
    for name in ("encoder", "decoder"):
        assert distance(gradients(getattr(model, name)), gradients(getattr(other, name))) < 1e-9, name
        assert distance(weights(getattr(model, name)), weights(getattr(other, name))) < 1e-10, name
