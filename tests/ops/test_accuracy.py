"""Compare every op with exact values: never worse than eager PyTorch (or a few ulp), and within its stated bound.

Exact values are the formulas in float64 on the very inputs (for float32 and half inputs), written so that nothing
cancels, and Python's decimal for float64 itself. u = 2^-24 is the unit roundoff of float32; an ulp is 2 u.
"""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae import ops

U = 2.0**-24
FEW_ULP = 16 * U  # eight ulp of float32
KINDS = ["mse", "l1", "bce", "bce_with_logits"]
SINGLES = [torch.float32, torch.bfloat16, torch.float16]


def expm1_minus_x(x: Tensor) -> Tensor:
    """exp(x) - 1 - x in float64: its series where the closed form cancels; the 30th term is below 1e-40."""
    term = torch.ones_like(x)
    series = torch.zeros_like(x)
    for k in range(1, 31):
        term = term * x / k
        if k > 1:
            series = series + term
    return torch.where(x.abs() < 1, series, torch.expm1(x) - x)


def exact_kl(mu: Tensor, logvar: Tensor, prior: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    d = logvar.double() - prior[1]
    return 0.5 * (expm1_minus_x(d) + (mu.double() - prior[0]) ** 2 * math.exp(-prior[1]))


def exact_rec(recon: Tensor, target: Tensor, kind: str) -> Tensor:
    r, t = recon.double(), target.double()
    if kind == "mse":
        return (r - t) ** 2
    if kind == "l1":
        return (r - t).abs()
    if kind == "bce":
        return -(t * r.log().clamp(min=-100) + (1 - t) * torch.log1p(-r).clamp(min=-100))
    return torch.where(r > 0, r * (1 - t), -r * t) + torch.log1p(torch.exp(-r.abs()))


def eager_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp())).flatten(1).sum(1)


def eager_rec(recon: Tensor, target: Tensor, kind: str) -> Tensor:
    loss = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "bce": F.binary_cross_entropy,
        "bce_with_logits": F.binary_cross_entropy_with_logits,
    }[kind]
    return loss(recon, target, reduction="none").flatten(1).sum(1)


def worst(actual: Tensor, exact: Tensor, size: Tensor | None = None) -> float:
    """The largest error relative to `size`, the exact value itself if not given; 0 / 0 is no error."""
    size = exact.abs() if size is None else size
    error = (actual.detach().double() - exact).abs()
    assert not (error[size == 0] > 0).any()
    return float((error / size)[size > 0].max()) if size.any() else 0.0


def assert_never_worse(ours: float, eager: float, few: float = FEW_ULP) -> None:
    assert ours <= max(eager, few), f"{ours / U:.1f} u, eager {eager / U:.1f} u"


def rows(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)


def latent_sets(dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    # 0.999 to 1.376: around where the backends' formulas for small logvar end.
    sizes = [1e-8, 1e-6, 1e-3, 0.1, 0.5, 0.999, 1.001, 1.374, 1.376, 30.0, 80.0]
    corners = [0.0, *sizes, *(-size for size in sizes)]
    pairs = torch.tensor(list(itertools.product([0.0, 1e-8, 1e-4, 1.0, -3.0, 1e4], corners))).to(dtype)
    near = 10.0 ** -(torch.rand(2000, 1) * 8) * torch.sign(torch.randn(2000, 1))
    return {
        "random": (torch.randn(500, 128).to(dtype), torch.randn(500, 128).to(dtype)),
        "elements": (torch.randn(20_000, 1).to(dtype), (4 * torch.randn(20_000, 1)).to(dtype)),
        "corners": (pairs[:, :1].contiguous(), pairs[:, 1:].contiguous()),
        "next to the prior": (torch.zeros(2000, 1).to(dtype), near.to(dtype)),
        "wide": (torch.randn(4, 5000).to(dtype), torch.randn(4, 5000).to(dtype)),
    }


LATENT_SETS = list(latent_sets(torch.float32))


@pytest.mark.parametrize("case", LATENT_SETS)
@pytest.mark.parametrize("dtype", SINGLES, ids=str)
class TestLatents:
    def test_gaussian_kl(self, backend, dtype, case):
        mu, logvar = latent_sets(dtype)[case]
        exact = rows(exact_kl(mu, logvar))
        kl = ops.gaussian_kl(mu, logvar, backend=backend)
        assert kl.dtype == torch.float32
        assert_never_worse(worst(kl, exact), worst(eager_kl(mu, logvar), exact))

    def test_gaussian_kl_gradients(self, backend, dtype, case):
        """In the input's dtype, so within half an ulp of that more; half types underflow below their subnormals."""
        mu, logvar = (t.requires_grad_() for t in latent_sets(dtype)[case])
        ours = torch.autograd.grad(ops.gaussian_kl(mu, logvar, backend=backend).sum(), (mu, logvar))
        eager = torch.autograd.grad(eager_kl(mu, logvar).sum(), (mu, logvar))
        exact = mu.detach().double(), 0.5 * torch.expm1(logvar.detach().double())
        info = torch.finfo(dtype)
        for a, e, x in zip(ours, eager, exact, strict=True):
            seen = (x.abs() < info.max) & (x.abs() > info.smallest_normal) | (x == 0)
            few = FEW_ULP if dtype == torch.float32 else info.eps / 2 + FEW_ULP
            assert_never_worse(worst(a[seen], x[seen]), worst(e[seen], x[seen]), few)

    def test_reparameterize(self, backend, dtype, case):
        mu, logvar = latent_sets(dtype)[case]
        eps = torch.randn(mu.shape).to(dtype)
        spread = torch.exp(logvar.double() / 2) * eps.double()
        exact = mu.double() + spread
        seen = exact.abs() < torch.finfo(dtype).max
        size = (mu.double().abs() + spread.abs()).clamp(min=torch.finfo(dtype).tiny)
        ours = ops.reparameterize(mu, logvar, noise=eps, backend=backend)
        eager = mu + torch.exp(logvar / 2) * eps
        few = FEW_ULP if dtype == torch.float32 else torch.finfo(dtype).eps / 2 + FEW_ULP
        assert_never_worse(worst(ours[seen], exact[seen], size[seen]), worst(eager[seen], exact[seen], size[seen]), few)


def test_kl_next_to_the_prior(backend):
    """Down to logvar = 1e-8 with full relative accuracy, where eager's own terms cancel to nothing."""
    magnitudes = 10.0 ** -torch.linspace(0.3, 8, 400, dtype=torch.float64)
    logvar = torch.cat([magnitudes, -magnitudes]).float()[:, None].requires_grad_()
    mu = torch.zeros_like(logvar)
    kl = ops.gaussian_kl(mu, logvar, backend=backend)
    (gradient,) = torch.autograd.grad(kl.sum(), logvar)
    exact = rows(exact_kl(mu, logvar.detach()))
    assert exact.min() < 1e-16
    assert worst(kl, exact) <= FEW_ULP
    assert worst(gradient, 0.5 * torch.expm1(logvar.detach().double())) <= FEW_ULP
    assert worst(eager_kl(mu, logvar), exact) >= 1.0


@pytest.mark.parametrize("prior", [(0.5, -1.25), (-2.0, 3.0)], ids=str)
def test_kl_next_to_another_prior(backend, prior):
    """These priors are float32 numbers; d = logvar - prior_logvar is exact next to them (Sterbenz)."""
    offsets = torch.linspace(-0.4, 0.4, 801)[:, None]
    logvar = (prior[1] + offsets).requires_grad_()
    mu = torch.full_like(offsets, prior[0])
    kl = ops.gaussian_kl(mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], backend=backend)
    (gradient,) = torch.autograd.grad(kl.sum(), logvar)
    assert worst(kl, rows(exact_kl(mu, logvar.detach(), prior))) <= FEW_ULP
    assert worst(gradient, 0.5 * torch.expm1(logvar.detach().double() - prior[1])) <= FEW_ULP


def kl_bound(logvar: Tensor, prior_logvar: float) -> Tensor:
    """The relative error of gaussian_kl in float32: (48 + max|d| + min(d, 1024) / 4) u, d elements of a sample.

    A term: exp (4 u) is squared with two factors (12 u in all) and enlarged at most 3.8 times by exp(x) - 1 - x at
    x = 1; where the prior is not the standard one, d = logvar - prior_logvar is rounded before the exponential (|d| u).
    The sum: terms are not negative, so an order of summation of depth k errs by k u; at least four lanes side by side,
    over at most 1024 elements before float64 takes over (torch's own cascade sum is shallower).
    """
    d = (logvar.double() - prior_logvar).abs().flatten(1).amax(1)
    return (48 + d * (prior_logvar != 0) + min(logvar[0].numel(), 1024) / 4) * U


@pytest.mark.parametrize("prior", [(0.0, 0.0), (0.5, -1.25)], ids=str)
@pytest.mark.parametrize("case", LATENT_SETS)
@pytest.mark.parametrize("dtype", SINGLES, ids=str)
def test_bound_of_gaussian_kl(backend, dtype, case, prior):
    mu, logvar = latent_sets(dtype)[case]
    kl = ops.gaussian_kl(mu, logvar, prior_mu=prior[0], prior_logvar=prior[1], backend=backend)
    exact = rows(exact_kl(mu, logvar, prior))
    assert ((kl.double() - exact).abs() <= kl_bound(logvar, prior[1]) * exact).all()


@pytest.mark.parametrize("case", LATENT_SETS)
def test_bound_of_reparameterize(backend, case):
    """As its docstring says, with Philox noise: 4e-7 (|mu| + |z - mu|) + 1e-6 exp(logvar / 2)."""
    mu, logvar = latent_sets(torch.float32)[case]
    noise = ops.PhiloxNoise(99, 1)
    z = ops.reparameterize(mu, logvar, noise=noise, backend=backend).double()
    both, kl = ops.reparameterize_kl(mu, logvar, noise=noise, backend=backend)
    eps = ops.philox_normal(99, mu.shape, offset=1, device=mu.device, dtype=torch.float64, backend="reference")
    std = torch.exp(logvar.double() / 2)
    exact = mu.double() + std * eps
    bound = 4e-7 * (mu.double().abs() + (exact - mu.double()).abs()) + 1e-6 * std
    assert ((z - exact).abs() <= bound).all()
    assert ((both.double() - exact).abs() <= bound).all()
    exact_sums = rows(exact_kl(mu, logvar))
    assert ((kl.double() - exact_sums).abs() <= kl_bound(logvar, 0.0) * exact_sums).all()


def image_sets(kind: str, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    pixels = torch.randint(0, 256, (64, 3, 16, 16)) / 255
    recon = torch.rand(64, 3, 16, 16) * 0.998 + 0.001
    bright, dark = 1 - torch.randint(0, 4, (5000, 1)) / 255, torch.randint(0, 4, (5000, 1)) / 255
    confident = torch.rand(5000, 1)
    if kind == "bce_with_logits":
        recon = 4 * torch.randn(64, 3, 16, 16)
        high, low = 20 * confident, -20 * confident
    else:
        high, low = 1 - confident / 100, confident / 100
    if kind == "bce":  # away from 1, which the half types would round to
        high = high.clamp(max=0.99)
    sets = {
        "images": (recon, pixels),
        "elements": (recon.reshape(-1, 1), pixels.reshape(-1, 1)),
        "bright and right": (high, bright),
        "dark and right": (low, dark),
    }
    return {name: (r.to(dtype), t.to(dtype)) for name, (r, t) in sets.items()}


IMAGE_SETS = list(image_sets("mse", torch.float32))


@pytest.mark.parametrize("case", IMAGE_SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", SINGLES, ids=str)
class TestReconstruction:
    def test_value(self, backend, dtype, kind, case):
        recon, target = image_sets(kind, dtype)[case]
        exact = rows(exact_rec(recon, target, kind))
        rec = ops.reconstruction_error(recon, target, kind=kind, backend=backend)
        assert rec.dtype == torch.float32
        assert_never_worse(worst(rec, exact), worst(eager_rec(recon, target, kind), exact))

    def test_gradient(self, backend, dtype, kind, case):
        recon, target = image_sets(kind, dtype)[case]
        recon.requires_grad_()
        ours = torch.autograd.grad(ops.reconstruction_error(recon, target, kind=kind, backend=backend).sum(), recon)[0]
        eager = torch.autograd.grad(eager_rec(recon, target, kind).sum(), recon)[0]
        r, t = recon.detach().double(), target.double()
        exact = {
            "mse": lambda: 2 * (r - t),
            "l1": lambda: torch.sign(r - t),
            "bce": lambda: (r - t) / (r * (1 - r)).clamp(min=1e-12),
            "bce_with_logits": lambda: torch.sigmoid(r) - t,
        }[kind]()
        # sigmoid(r) - t is a difference of numbers up to 1, and eager's error is taken the same way.
        size = torch.ones_like(r) if kind == "bce_with_logits" else exact.abs()
        few = FEW_ULP if dtype == torch.float32 else torch.finfo(dtype).eps / 2 + FEW_ULP
        seen = exact.abs() < torch.finfo(dtype).max
        assert_never_worse(worst(ours[seen], exact[seen], size[seen]), worst(eager[seen], exact[seen], size[seen]), few)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", IMAGE_SETS)
def test_bound_of_reconstruction_error(backend, kind, case):
    """Relative error in float32 (16 + min(n, 1024) / 4) u, n elements of a sample: at most 12 u of a term (two
    logarithms of 4 u, their products and the sum; 3 u for mse) and the depth of the sum, as in `kl_bound`. The terms of
    bce_with_logits are differences, which adds 2 u sum(|r| + |r t|)."""
    recon, target = image_sets(kind, torch.float32)[case]
    rec = ops.reconstruction_error(recon, target, kind=kind, backend=backend)
    exact = rows(exact_rec(recon, target, kind))
    bound = (16 + min(recon[0].numel(), 1024) / 4) * U * exact
    if kind == "bce_with_logits":
        r, t = recon.double(), target.double()
        bound = bound + 2 * U * rows(r.abs() + (r * t).abs())
    assert ((rec.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_megapixel_image(backend, kind, dtype):
    """3 * 1024^2 elements of one sample: the sum stays as accurate as its terms, far within its bound."""
    recon = torch.rand(1, 3, 1024, 1024) * 0.9 + 0.05
    if kind == "bce_with_logits":
        recon = 8 * (recon - 0.5)
    recon, target = recon.to(dtype), (torch.rand(1, 3, 1024, 1024) * 0.9 + 0.05).to(dtype)
    exact = rows(exact_rec(recon, target, kind))
    rec = ops.reconstruction_error(recon, target, kind=kind, backend=backend)
    eager = eager_rec(recon, target, kind)
    assert_never_worse(worst(rec, exact), worst(eager, exact))
    mean = ops.reconstruction_error(recon, target, kind=kind, reduction="mean", backend=backend)
    assert worst(mean[None], exact) <= worst(rec, exact) + 2 * U


def test_a_sum_of_equal_terms_does_not_drift(backend):
    """Naive float32 summation of 3 * 2^20 ones thirds loses three digits; its own order of summation keeps them."""
    recon, target = torch.full((1, 3 * 2**20), 1 / 3), torch.zeros(1, 3 * 2**20)
    rec = ops.reconstruction_error(recon, target, kind="l1", backend=backend)
    assert worst(rec, rows(recon.double())) <= FEW_ULP


class TestIdenticalImages:
    @pytest.mark.parametrize("kind", ["mse", "l1"])
    @pytest.mark.parametrize("dtype", [torch.float64, *SINGLES], ids=str)
    def test_distance_is_exactly_zero(self, backend, kind, dtype):
        image = torch.rand(3, 3, 32, 32).to(dtype).requires_grad_()
        rec = ops.reconstruction_error(image, image.detach().clone(), kind=kind, backend=backend)
        assert rec.tolist() == [0.0] * 3
        (gradient,) = torch.autograd.grad(rec.sum(), image)
        assert not gradient.any()

    @pytest.mark.parametrize("kind", ["bce"])
    def test_cross_entropy_is_the_entropy(self, backend, kind):
        image = torch.rand(3, 200) * 0.9 + 0.05
        exact = rows(exact_rec(image, image, kind))
        rec = ops.reconstruction_error(image, image.clone(), kind=kind, backend=backend)
        assert_never_worse(worst(rec, exact), worst(eager_rec(image, image, kind), exact))


def exp_elbo_inputs(settings: dict[str, float]) -> tuple[Tensor, Tensor, Tensor]:
    """rec and kl in all proportions with t down the normal numbers, and t in float64."""
    t = torch.cat([-torch.rand(50_000, dtype=torch.float64) * 85, torch.linspace(-1, 0, 1001, dtype=torch.float64)])
    share = torch.rand(len(t), dtype=torch.float64)
    per_t = settings["alpha"] * settings["scale"]
    rec = (-t * share / (per_t * settings["beta_rec"])).float()
    kl = (-t * (1 - share) / (per_t * settings["beta_kl"])).float()
    return rec, kl, -per_t * (settings["beta_rec"] * rec.double() + settings["beta_kl"] * kl.double())


EXP_ELBO_SETTINGS = [
    {"scale": 1 / (3 * 256**2), "beta_rec": 1.0, "beta_kl": 256.0, "alpha": 2.0},
    {"scale": 0.5, "beta_rec": 0.3, "beta_kl": 0.7, "alpha": 2.0},
    *(
        {"scale": 0.01 / (k + 1), "beta_rec": 0.1 + 0.37 * k, "beta_kl": 1.1 + 31.3 * k, "alpha": 0.3 + k / 3}
        for k in range(8)
    ),
]


@pytest.mark.parametrize("settings", EXP_ELBO_SETTINGS, ids=str)
class TestExpElbo:
    def test_never_worse_than_eager(self, backend, settings):
        rec, kl, t = exp_elbo_inputs(settings)
        exact = t.exp() / settings["alpha"]
        ours = ops.exp_elbo(rec, kl, **settings, reduction="none", backend=backend)
        elbo = settings["scale"] * (settings["beta_rec"] * rec + settings["beta_kl"] * kl)
        eager = torch.exp(-settings["alpha"] * elbo) / settings["alpha"]
        # Where t is -85 an ulp of t is 128 u of the result.
        assert_never_worse(worst(ours, exact), worst(eager, exact))

    def test_stated_bound(self, backend, settings):
        """As its docstring says: (|t| + 8) * 1.2e-7, relative, in float32."""
        rec, kl, t = exp_elbo_inputs(settings)
        exact = t.exp() / settings["alpha"]
        ours = ops.exp_elbo(rec, kl, **settings, reduction="none", backend=backend).double()
        ratio = (ours - exact).abs() / (exact * (t.abs() + 8) * 1.2e-7)
        assert float(ratio.max()) <= 1

    def test_gradients(self, backend, settings):
        """The slope times a weight: three more roundings than the value."""
        rec, kl, t = exp_elbo_inputs(settings)
        rec.requires_grad_()
        kl.requires_grad_()
        ours = ops.exp_elbo(rec, kl, **settings, reduction="sum", backend=backend)
        elbo = settings["scale"] * (settings["beta_rec"] * rec + settings["beta_kl"] * kl)
        eager = (torch.exp(-settings["alpha"] * elbo) / settings["alpha"]).sum()
        for name, a, e in zip(
            ("beta_rec", "beta_kl"),
            torch.autograd.grad(ours, (rec, kl)),
            torch.autograd.grad(eager, (rec, kl)),
            strict=True,
        ):
            exact = -settings["scale"] * settings[name] * t.exp()
            seen = exact.abs() > 1e-37
            assert_never_worse(worst(a[seen], exact[seen]), worst(e[seen], exact[seen]))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_exp_elbo_beyond_its_joint(backend, alpha):
    """Exactly exp(32) (1 + t - 32) / alpha, where t = -rec is exact."""
    t = torch.tensor([32.0, 32.5, 40.0, 1e4, 1e10, 1e20])
    out = ops.exp_elbo(-t, torch.zeros(6), scale=1 / alpha, alpha=alpha, reduction="none", backend=backend)
    exact = math.exp(32.0) * (1 + (t.double() - 32)) / alpha
    assert worst(out, exact) <= FEW_ULP


def test_exp_elbo_underflows_to_an_exact_zero(backend):
    rec = torch.tensor([104.1, 200.0, 1e20], requires_grad=True)
    out = ops.exp_elbo(rec, torch.zeros(3), scale=1.0, alpha=1.0, reduction="none", backend=backend)
    assert out.tolist() == [0.0] * 3
    assert torch.autograd.grad(out.sum(), rec)[0].tolist() == [0.0] * 3


def test_log_exp_elbo_never_underflows():
    """ln mean exp(t) / alpha by hand: t = -300 and -3000 are far apart, and both 0 in exp_elbo. float32, t exact."""
    for error in (300.0, 3000.0):
        value = ops.log_exp_elbo(torch.full((4,), error), torch.zeros(4), scale=0.5, alpha=2.0)
        assert abs(float(value) - (-error - math.log(2.0))) <= 4 * U * error
    mixed = ops.log_exp_elbo(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25]), scale=1.0, beta_kl=2.0, alpha=1.0)
    assert abs(float(mixed) - math.log((math.exp(-2.0) + math.exp(-2.5)) / 2)) <= 8 * U * 2.5


def test_elbo_is_minus_the_weighted_sum(backend):
    recon, target = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    mu, logvar = torch.randn(5, 7), torch.randn(5, 7)
    elbo, rec, kl = ops.elbo(recon, target, mu, logvar, beta_rec=0.5, beta_kl=3.0, backend=backend)
    exact_parts = rows(exact_rec(recon, target, "mse")), rows(exact_kl(mu, logvar))
    exact = -(0.5 * exact_parts[0] + 3.0 * exact_parts[1])
    # The parts' own bounds (48 + 192 / 4 at most, see above) and three roundings of the weighted sum.
    assert worst(elbo, exact) <= 100 * U
    assert worst(rec, exact_parts[0]) <= (16 + 48) * U
    assert worst(kl, exact_parts[1]) <= (48 + 2) * U


class TestFloat64:
    """Corners against decimal arithmetic of many digits. 2e-14 is 90 times 2^-52: `kl_bound` in float64."""

    def test_gaussian_kl(self, backend):
        logvars = [1e-8, -1e-8, 1e-12, 1e-3, 0.5, -0.5, 0.9999, 1.0001, -1.0001, 30.0, -30.0, 80.0, -80.0]
        for mu, logvar in itertools.product([0.0, 1e-8, 1.0, 1e4], logvars):
            with localcontext() as context:
                context.prec = 60
                d, m = Decimal(logvar), Decimal(mu)
                exact = (d.exp() - 1 - d + m * m) / 2
                slope = (d.exp() - 1) / 2
            v = torch.tensor([[logvar]], dtype=torch.float64, requires_grad=True)
            kl = ops.gaussian_kl(torch.tensor([[mu]], dtype=torch.float64), v, backend=backend)
            (gradient,) = torch.autograd.grad(kl.sum(), v)
            assert abs(Decimal(kl.item()) - exact) <= Decimal("2e-14") * exact
            assert abs(Decimal(gradient.item()) - slope) <= Decimal("2e-14") * abs(slope)

    def test_exp_elbo(self, backend):
        for t in (-700.0, -100.0, -1.0, -1e-8, 0.0, 1.0, 31.9, 32.0, 32.1, 1e20):
            with localcontext() as context:
                context.prec = 60
                exact = Decimal(t).exp() if t <= 32 else Decimal(32).exp() * (1 + Decimal(t) - 32)
            value = ops.exp_elbo(
                torch.tensor([-t], dtype=torch.float64),
                torch.zeros(1, dtype=torch.float64),
                scale=1.0,
                alpha=1.0,
                backend=backend,
            )
            # t is exact, so only the exponential and its constant err: a few units of 2^-53.
            assert abs(Decimal(float(value)) - exact) <= Decimal("1e-15") * exact

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_reductions_over_a_large_batch(self, backend, reduction):
        """(8 + 14 + 1) 2^-53: up to 8 numbers in turn, then 14 levels of pairs of 100,000, and the division."""
        values = torch.rand(100_000, dtype=torch.float64)
        zeros = torch.zeros_like(values)
        settings = {"reduction": reduction, "backend": backend}
        latents, images = (zeros[:, None], values[:, None]), (values[:, None], zeros[:, None])
        for samples, reduced in (
            (
                ops.exp_elbo(values, zeros, scale=1.0, reduction="none", backend=backend),
                ops.exp_elbo(values, zeros, scale=1.0, **settings),
            ),
            (ops.gaussian_kl(*latents, backend=backend), ops.gaussian_kl(*latents, **settings)),
            (ops.reconstruction_error(*images, backend=backend), ops.reconstruction_error(*images, **settings)),
        ):
            exact = math.fsum(samples.tolist()) / (len(samples) if reduction == "mean" else 1)
            assert abs(reduced.item() - exact) <= 23 * 2.0**-53 * exact

    def test_bce_with_logits(self, backend):
        for logit, target in itertools.product([0.0, 1e-8, 3.0, 30.0, -30.0, 700.0], [0.0, 0.25, 1.0]):
            with localcontext() as context:
                context.prec = 400  # exp(-700) is 1e-304 beside 1
                r, t = Decimal(logit), Decimal(target)
                exact = max(r, Decimal(0)) - r * t + (1 + (-abs(r)).exp()).ln()
            value = ops.reconstruction_error(
                torch.tensor([[logit]], dtype=torch.float64),
                torch.tensor([[target]], dtype=torch.float64),
                kind="bce_with_logits",
                backend=backend,
            )
            # These products are exact, so the difference is; the logarithm adds its own few units.
            assert abs(Decimal(float(value)) - exact) <= Decimal("1e-15") * exact
