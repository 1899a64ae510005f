"""Test calls of mixed dtypes, as under autocast: values are widened, never rounded; gradients have their own dtypes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from sivae import ops

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
MIXES = list(itertools.permutations(DTYPES, 2))
NOISE = ops.PhiloxNoise(2**33 + 5, 2)
U = 2.0**-24
Results = tuple[Tensor, ...]


def pair_calls(backend: str | None) -> dict[str, Callable[[Tensor, Tensor], Tensor | Results]]:
    """Every op of two tensors, on values in (0, 1)."""
    kinds: dict[str, Callable[[Tensor, Tensor], Tensor | Results]] = {
        f"reconstruction_error {kind}": lambda a, b, kind=kind: ops.reconstruction_error(
            a, b, kind=kind, backend=backend
        )
        for kind in ("mse", "l1", "bce", "bce_with_logits")
    }
    return kinds | {
        "gaussian_kl": lambda a, b: ops.gaussian_kl(a, b, backend=backend),
        "reparameterize": lambda a, b: ops.reparameterize(a, b, noise=NOISE, backend=backend),
        "reparameterize_kl": lambda a, b: ops.reparameterize_kl(a, b, noise=NOISE, backend=backend),
        "exp_elbo": lambda a, b: ops.exp_elbo(a[:, 0], b[:, 0], scale=0.5, reduction="none", backend=backend),
        "chamfer_distance": lambda a, b: ops.chamfer_distance(a[:, :, None], b[:, :, None], backend=backend),
        "log_exp_elbo": lambda a, b: ops.log_exp_elbo(a[:, 0], b[:, 0], scale=0.5),
        "elbo": lambda a, b: ops.elbo(a, b, a, b, kind="bce", backend=backend),
    }


def with_gradients(
    call: Callable[..., Tensor | Results], tensors: list[Tensor], by_hand: Callable[[Tensor], Tensor] | None = None
) -> tuple[list[Tensor], Results]:
    """Outputs and gradients; `by_hand` converts the leaves before the call."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = call(*(leaves if by_hand is None else map(by_hand, leaves)))
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum((k + 1) * o.double().square().sum() for k, o in enumerate(outputs))
    return [o.detach() for o in outputs], torch.autograd.grad(loss, leaves)


def sums(*dtypes: torch.dtype) -> torch.dtype:
    return torch.float64 if torch.float64 in dtypes else torch.float32


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("name", pair_calls(None))
def test_it_is_the_call_on_the_widened_tensors(backend, name, mix):
    """The same bits as by hand; a gradient is that of the widened tensor, rounded to its own tensor's dtype."""
    tensors = [(torch.rand(3, 5) * 0.98 + 0.01).to(dtype) for dtype in mix]
    common = torch.promote_types(*mix)
    call = pair_calls(backend)[name]
    outputs, gradients = with_gradients(call, tensors)
    wide_outputs, wide_gradients = with_gradients(call, [tensor.to(common) for tensor in tensors])
    for mine, wide in zip(outputs, wide_outputs, strict=True):
        assert mine.dtype == (common if mine.shape == (3, 5) else sums(*mix))
        assert torch.equal(mine, wide)
    for gradient, wide, dtype in zip(gradients, wide_gradients, mix, strict=True):
        assert gradient.dtype == dtype
        if name != "elbo":  # its tensors take part twice: the parts' gradients are rounded before they are added
            assert torch.equal(gradient, wide.to(dtype))


@pytest.mark.parametrize("eps", DTYPES, ids=str)
@pytest.mark.parametrize("latents", [(torch.bfloat16, torch.float32), (torch.float16, torch.float16)], ids=str)
def test_an_explicit_eps_of_another_dtype(backend, latents, eps):
    tensors = [torch.randn(3, 5).to(dtype) for dtype in (*latents, eps)]
    common = torch.promote_types(torch.promote_types(*latents), eps)

    def call(mu: Tensor, logvar: Tensor, noise: Tensor) -> Results:
        z = ops.reparameterize(mu, logvar, noise=noise, backend=backend)
        return z, *ops.reparameterize_kl(mu, logvar, noise=noise, backend=backend)

    outputs, gradients = with_gradients(call, tensors)
    wide_outputs, _ = with_gradients(call, [tensor.to(common) for tensor in tensors])
    assert [out.dtype for out in outputs] == [common, common, sums(common)]
    assert all(torch.equal(a, b) for a, b in zip(outputs, wide_outputs, strict=True))
    assert [gradient.dtype for gradient in gradients] == [*latents, eps]


@pytest.mark.parametrize("parameters", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parameters_of_the_styled_norm(backend, dtype, parameters):
    """y keeps x's dtype, and the statistics show what the arithmetic ran in."""
    shapes = [(2, 3, 4, 5), (3,), (3,), (2, 3), (2, 3)]
    tensors = [torch.randn(shape).to(parameters if k else dtype) for k, shape in enumerate(shapes)]
    noise = torch.randn(2, 1, 4, 5).to(parameters)

    def call(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Results:
        out: Results = ops.styled_instance_norm(
            x, noise=noise, noise_weight=weight, bias=bias, scale=scale, shift=shift, eps=0.1, statistics=True,
            backend=backend,
        )  # fmt: skip
        return out

    outputs, gradients = with_gradients(call, tensors)
    arithmetic = sums(dtype, parameters)
    assert [out.dtype for out in outputs] == [dtype, arithmetic, arithmetic]
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in tensors]
    noise = noise.to(arithmetic)
    wide_outputs, _ = with_gradients(call, [tensor.to(arithmetic) for tensor in tensors])
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(outputs, wide_outputs, strict=True))


def test_the_target_is_not_rounded(backend):
    """1 + 2^-12 in float32 is 1 in bfloat16. Its square's terms are exact in float32, and so is their sum."""
    recon = torch.zeros(2, 16, dtype=torch.bfloat16)
    rec = ops.reconstruction_error(recon, torch.full((2, 16), 1 + 2**-12), kind="l1", backend=backend)
    assert rec.tolist() == [16 + 2**-8] * 2


def test_gradcheck(backend):
    """In float64, with a target and a logvar in other dtypes."""
    recon, mu = (torch.rand(3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    target, logvar = torch.rand(3, 4), torch.rand(3, 4).bfloat16()

    def call(recon: Tensor, mu: Tensor) -> Results:
        z, kl = ops.reparameterize_kl(mu, logvar, noise=NOISE, backend=backend)
        return ops.reconstruction_error(recon, target, backend=backend), z, kl

    assert gradcheck(call, (recon, mu))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
class TestAutocast:
    def step(self, dtype: torch.dtype, backend: str, x: Tensor, head: torch.nn.Module) -> Results:
        with torch.autocast("cpu", dtype):
            recon = head(x)
            assert recon.dtype == dtype
            rec = ops.reconstruction_error(recon, x, kind="mse", backend=backend)
            z, kl = ops.reparameterize_kl(recon, x, noise=NOISE, backend=backend)
            return rec, kl, ops.exp_elbo(rec, kl, scale=0.1, backend=backend), z

    def test_a_loss_is_torchs_own(self, backend, dtype):
        """Within its bound, (16 + 6 / 4) u, and torch's: a term of 3 roundings and a sum of 6."""
        x, head = torch.randn(5, 6), torch.nn.Linear(6, 6)
        rec = self.step(dtype, backend, x, head)[0]
        ours = torch.autograd.grad(rec.sum(), head.weight)[0]
        with torch.autocast("cpu", dtype):
            expected = F.mse_loss(head(x), x, reduction="none").sum(1)
        assert rec.dtype == expected.dtype == torch.float32
        assert ((rec - expected).abs() <= (18 + 9) * U * expected).all()
        theirs = torch.autograd.grad(expected.sum(), head.weight)[0]
        # 2 (r - t) differs by 4 u between the two, and may then round to the half type's next number: in each of the
        # 5 products with x that a weight's gradient adds in that type, one step of |2 (r - t) x|.
        step, size = torch.finfo(dtype).eps, 2 * (x.abs().max() + head(x).abs().max()) * x.abs().max()
        assert ((ours - theirs).abs() <= 5 * 2 * step * size).all()

    def test_compiled(self, backend, dtype):
        """aot_eager runs the same kernels; the reference's traced backward may add in another order."""
        torch._dynamo.reset()
        x, head = torch.randn(5, 6), torch.nn.Linear(6, 6)
        compiled = torch.compile(self.step, fullgraph=True, backend="aot_eager")
        for mine, eager in zip(compiled(dtype, backend, x, head), self.step(dtype, backend, x, head), strict=True):
            assert mine.dtype == eager.dtype
            assert ((mine - eager).abs() <= 32 * U * (1 + eager.abs())).all()
        rec, kl, *_ = compiled(dtype, backend, x, head)
        (rec.sum() + kl.sum()).backward()
        assert head.weight.grad.isfinite().all()
        assert head.weight.grad.dtype == torch.float32
        torch._dynamo.reset()
