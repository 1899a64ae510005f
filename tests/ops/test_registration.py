"""Test the registration of the ops: schemas, fake kernels, opcheck, torch.compile without graph breaks, autocast."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sivae import ops
from tests.ops.samples import ALL_OPS, DTYPES, FORWARD, LAYOUTS, SEED, low_level, samples, wrong_operands


@pytest.mark.parametrize("name", ALL_OPS)
def test_schema(compiled_backend, name):
    """No defaults, no optional results, nothing aliased or written."""
    schema = low_level(name, compiled_backend)._schema
    assert not any(argument.has_default_value() for argument in schema.arguments)
    assert not any(argument.kwarg_only for argument in schema.arguments)
    assert [str(result.type) for result in schema.returns] == ["Tensor"] * len(schema.returns)
    assert not any(part.alias_info for part in [*schema.arguments, *schema.returns])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ALL_OPS)
def test_fake_kernels(compiled_backend, name, layout, dtype):
    """They return the shape, strides, dtype and device of the real kernels' results."""
    op = low_level(name, compiled_backend)
    for arguments in samples(name, layout, dtype):
        real = op(*arguments)
        with FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments))
        reals, fakes = (x if isinstance(x, tuple) else (x,) for x in (real, fake))
        for r, f in zip(reals, fakes, strict=True):
            assert (f.shape, f.dtype, f.device) == (r.shape, r.dtype, r.device)
            # Strides of empty tensors mean nothing, and torch's own operators do not set them consistently.
            assert f.stride() == r.stride() or r.numel() == 0


@pytest.mark.parametrize("name", ALL_OPS)
def test_direct_calls_never_read_outside_an_operand(compiled_backend, name):
    for arguments in wrong_operands(name):
        with pytest.raises((TypeError, ValueError), match="sivae: "):
            low_level(name, compiled_backend)(*arguments)


@pytest.mark.parametrize("layout", ["contiguous", "chunk"])
@pytest.mark.parametrize("name", ALL_OPS)
def test_opcheck(compiled_backend, name, layout):
    """torch's own check of schema, fake kernel, autograd registration and tracing, over a spread of settings."""
    op = low_level(name, compiled_backend)
    differentiable = name in FORWARD and name != "philox_normal"
    cases = samples(name, layout, torch.float32, grad=differentiable)
    for arguments in cases[:: max(1, len(cases) // 3)]:
        results = torch.library.opcheck(op, arguments)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ALL_OPS)
def test_opcheck_other_dtypes(compiled_backend, name, dtype):
    arguments = samples(name, "channels last" if "elbo" not in name else "contiguous", dtype)[-1]
    # aot_dispatch compares values computed twice, which test_fake_kernels and test_parity do more sharply.
    results = torch.library.opcheck(
        low_level(name, compiled_backend), arguments, test_utils=("test_schema", "test_faketensor")
    )
    assert set(results.values()) == {"SUCCESS"}


def public_calls(backend: str) -> dict[str, tuple[Callable[..., object], int]]:
    """Each public op with explicit or named noise, and how many [4, 6] tensors it takes."""
    noise = ops.PhiloxNoise(2**35 + 7, 3)
    return {
        "reparameterize": (lambda m, v: ops.reparameterize(m, v, noise=noise, backend=backend), 2),
        "reparameterize explicit": (lambda m, v, e: ops.reparameterize(m, v, noise=e, backend=backend), 3),
        "gaussian_kl": (lambda m, v: ops.gaussian_kl(m, v, prior_mu=0.5, reduction="mean", backend=backend), 2),
        "reparameterize_kl": (lambda m, v: ops.reparameterize_kl(m, v, noise=noise, backend=backend), 2),
        "reconstruction_error": (lambda r, t: ops.reconstruction_error(r, t, kind="l1", backend=backend), 2),
        "exp_elbo": (lambda r, k: ops.exp_elbo(r[:, 0], k[:, 1], scale=0.5, backend=backend), 2),
        "styled_instance_norm": (
            lambda x, s: ops.styled_instance_norm(
                x.view(2, 3, 2, 2), bias=s[0, :3], scale=s[:2, :3], shift=s[2:, 3:], statistics=True, backend=backend
            ),
            2,
        ),
        "group_norm_silu": (
            lambda x, p: ops.group_norm_silu(x.view(2, 4, 3), 2, p[0, :4], p[1, :4], backend=backend),
            2,
        ),
        "log_exp_elbo": (lambda r, k: ops.log_exp_elbo(r[:, 0], k[:, 1], scale=0.5), 2),
        "elbo": (lambda r, t, m, v: ops.elbo(r, t, m, v, beta_kl=3.0, backend=backend), 4),
        "chunked": (lambda h: ops.reparameterize_kl(*h.chunk(2, dim=1), noise=noise, backend=backend), 1),
    }


def values_and_gradients(call: Callable[..., object], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = call(*leaves)
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum((k + 1) * o.square().sum() for k, o in enumerate(outputs))
    return [*(o.detach() for o in outputs), *torch.autograd.grad(loss, leaves)]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_agrees(call: Callable[..., object], inputs: list[Tensor], compiler: str, bound: float) -> None:
    eager = values_and_gradients(call, inputs)
    compiled = values_and_gradients(torch.compile(call, fullgraph=True, backend=compiler), inputs)
    for e, c in zip(eager, compiled, strict=True):
        assert e.dtype == c.dtype
        assert e.shape == c.shape
        assert ((e - c).abs() <= bound * (1 + e.abs())).all()


@pytest.mark.parametrize("name", list(public_calls("reference")))
def test_compile_without_graph_breaks(backend, name):
    """aot_eager runs the same kernels; the reference's traced backward may add in another order (a few times 2^-24)."""
    call, count = public_calls(backend)[name]
    inputs = [torch.rand(4, 6) + 0.1 * i for i in range(count)]
    assert_compiled_agrees(call, inputs, "aot_eager", 32 * 2.0**-24)


class TestCompiledNoise:
    def test_fresh_at_every_call(self, backend):
        compiled = torch.compile(
            lambda m, v: ops.reparameterize_kl(m, v, backend=backend), fullgraph=True, backend="aot_eager"
        )
        mu, logvar = torch.zeros(3, 8), torch.zeros(3, 8)
        draws = [compiled(mu, logvar)[0] for _ in range(3)]
        assert not torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[1], draws[2])

    def test_backward_uses_the_forward_noise(self, backend):
        """At mu = logvar = 0 the gradient by logvar is eps / 2, exactly."""
        compiled = torch.compile(
            lambda m, v: ops.reparameterize(m, v, backend=backend), fullgraph=True, backend="aot_eager"
        )
        logvar = torch.zeros(3, 8, requires_grad=True)
        z = compiled(torch.zeros(3, 8), logvar)
        z.sum().backward()
        assert torch.equal(logvar.grad, z.detach() / 2)

    @pytest.mark.parametrize("seed", [2**45 + 1, torch.tensor([2**45 + 1])], ids=["int", "tensor"])
    def test_philox_noise_as_an_argument(self, backend, seed):
        def call(mu: Tensor, logvar: Tensor, noise: ops.PhiloxNoise) -> Tensor:
            return ops.reparameterize(mu, logvar, noise=noise, backend=backend)

        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        mu, logvar = torch.randn(3, 8), torch.randn(3, 8)
        for offset in (0, 1, 2):
            noise = ops.PhiloxNoise(seed, offset)
            eager = call(mu, logvar, noise)
            assert ((compiled(mu, logvar, noise) - eager).abs() <= 1e-6 * (1 + eager.abs())).all()

    def test_philox_normal(self, backend):
        compiled = torch.compile(
            lambda s: ops.philox_normal(s, (3, 7), offset=2, backend=backend), fullgraph=True, backend="aot_eager"
        )
        assert (compiled(SEED) - ops.philox_normal(SEED, (3, 7), offset=2, backend=backend)).abs().max() <= 1e-6


def test_dynamic_shapes(backend):
    """One graph serves other batch sizes."""
    call = torch.compile(
        lambda m, v: ops.gaussian_kl(m, v, backend=backend), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for batch in (2, 3, 7):
        mu, logvar = torch.randn(batch, 5), torch.randn(batch, 5)
        expected = ops.gaussian_kl(mu, logvar, backend=backend)
        assert ((call(mu, logvar) - expected).abs() <= 32 * 2.0**-24 * expected).all()


def test_weights_that_change(backend):
    """A schedule of beta_kl: torch.compile turns a Python float that changes into a symbol."""
    rec, kl = torch.rand(5), torch.rand(5)
    mu, logvar = torch.randn(5, 3), torch.randn(5, 3)

    def call(beta: float) -> tuple[Tensor, Tensor]:
        first = ops.exp_elbo(rec, kl, scale=0.5, beta_kl=beta, backend=backend)
        return first, ops.gaussian_kl(mu, logvar, prior_mu=beta, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for beta in (0.25, 0.5, 0.75):
        for c, e in zip(compiled(beta), call(beta), strict=True):
            assert ((c - e).abs() <= 64 * 2.0**-24 * e.abs()).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ on the CPU and no g++ is found")
def test_inductor(compiled_backend):
    """The custom op in the middle of generated code; its neighbours may be fused with other roundings (32 units)."""

    def call(head: Tensor) -> Tensor:
        z, kl = ops.reparameterize_kl(
            *(2 * head).chunk(2, dim=1), noise=ops.PhiloxNoise(5, 1), backend=compiled_backend
        )
        return z.tanh().square().sum(1) + kl

    assert_compiled_agrees(call, [torch.randn(4, 12)], "inductor", 64 * 2.0**-24)


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_losses_are_float32(self, backend, dtype):
        head, weight = torch.nn.Linear(6, 8), torch.randn(5, 6)
        with torch.autocast("cpu", dtype=dtype):
            mu, logvar = head(weight).chunk(2, dim=1)
            assert mu.dtype == dtype
            z, kl = ops.reparameterize_kl(mu, logvar, backend=backend)
            rec = ops.reconstruction_error(mu, logvar, backend=backend)
            loss = ops.exp_elbo(rec, kl, scale=0.1, backend=backend)
        assert z.dtype == dtype
        assert {kl.dtype, rec.dtype, loss.dtype} == {torch.float32}
        (loss + z.float().sum()).backward()
        assert head.weight.grad.isfinite().all()

    def test_float32_stays_float32(self, backend):
        """Autocast lowers matrix products, not these: the same bits with and without it."""
        mu, logvar = torch.randn(5, 4), torch.randn(5, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = ops.gaussian_kl(mu, logvar, backend=backend)
        assert torch.equal(inside, ops.gaussian_kl(mu, logvar, backend=backend))


@pytest.mark.parametrize("name", FORWARD)
def test_results_do_not_alias_inputs(backend, name):
    """Writing into a result must not change an input, nor the other result."""
    calls = {
        "reparameterize": lambda a, b: ops.reparameterize(a, b, backend=backend),
        "gaussian_kl": lambda a, b: ops.gaussian_kl(a, b, backend=backend),
        "reparameterize_kl": lambda a, b: ops.reparameterize_kl(a, b, backend=backend),
        "reconstruction_error": lambda a, b: ops.reconstruction_error(a, b, backend=backend),
        "exp_elbo": lambda a, b: ops.exp_elbo(a[:, 0], b[:, 0], scale=1.0, reduction="none", backend=backend),
        "styled_instance_norm": lambda a, b: ops.styled_instance_norm(
            a[:, :, None, None], scale=a, shift=b, statistics=True, backend=backend
        ),
        "group_norm_silu": lambda a, b: ops.group_norm_silu(a, 2, b[0], b[1], backend=backend),
        "chamfer_distance": lambda a, b: ops.chamfer_distance(a[None], b[None], backend=backend),
        "mixture_log_prob": lambda a, b: ops.mixture_log_prob(a, b[:, 0], b, b, backend=backend),
        "philox_normal": lambda a, b: ops.philox_normal(SEED, (3, 4), backend=backend),
    }
    a, b = torch.rand(3, 4), torch.rand(3, 4)
    before = a.clone(), b.clone(), SEED.clone()
    out = calls[name](a, b)
    for tensor in out if isinstance(out, tuple) else (out,):
        tensor.fill_(7.0)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert torch.equal(SEED, before[2])
