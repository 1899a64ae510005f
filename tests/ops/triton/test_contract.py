"""Test the Triton backend except for its values: noise, determinism, registration, autograd, empty inputs, choice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sivae import ops
from tests.ops.samples import ALL_OPS, DTYPES, FORWARD, low_level, samples, wrong_operands

interpreted = pytest.mark.usefixtures("interpreter")
SEED, OFFSET = 0x7EDC_BA98_7654_3210, 0x0123_4567_89AB_CDEF


@interpreted
class TestNoise:
    @pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
    @pytest.mark.parametrize(("seed", "offset"), [(0, 0), (2**32, 2**32 - 1), (SEED, OFFSET), (2**63 - 1, 2**63 - 1)])
    def test_normals(self, dtype, bound, seed, offset):
        """The random integers are equal: a single different bit would change a normal by far more than the bound."""
        a = ops.philox_normal(seed, (4099,), offset=offset, dtype=dtype, backend="triton")
        b = ops.philox_normal(seed, (4099,), offset=offset, dtype=dtype, backend="reference")
        assert (a.double() - b.double()).abs().max() <= bound

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_types_round_the_float32_normals(self, dtype):
        half = ops.philox_normal(5, (1027,), dtype=dtype, backend="triton")
        assert torch.equal(half, ops.philox_normal(5, (1027,), backend="triton").to(dtype))

    @pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 33), (9, 2), (2, 3, 5), (2, 16)], ids=str)
    def test_the_index_is_logical(self, small_blocks, shape):
        """At mu = logvar = 0 a sample is its normal, in any block and row."""
        zeros = torch.zeros(shape)
        z = ops.reparameterize(zeros, zeros, noise=ops.PhiloxNoise(SEED, OFFSET), backend="triton")
        assert torch.equal(z, ops.philox_normal(SEED, shape, offset=OFFSET, backend="triton"))

    def test_scalars_and_empty_shapes(self):
        first = ops.philox_normal(3, (1,), backend="triton")
        assert ops.philox_normal(torch.tensor(3), (), backend="triton") == first[0]
        assert ops.philox_normal(3, (0, 4), backend="triton").shape == (0, 4)

    def test_backward_computes_it_again(self):
        """At mu = logvar = 0 the gradient by logvar is eps / 2, exactly."""
        logvar = torch.zeros(3, 7, requires_grad=True)
        z = ops.reparameterize(torch.zeros(3, 7), logvar, noise=ops.PhiloxNoise(1, 2), backend="triton")
        z.sum().backward()
        assert torch.equal(logvar.grad, z.detach() / 2)


def calls(backend: str = "triton") -> dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[Tensor]]]:
    noise = ops.PhiloxNoise(3, 1)
    a, b = (torch.rand(3, 37) for _ in range(2))
    rec, kl = torch.rand(21), torch.rand(21)
    styled = [torch.rand(2, 3, 5, 4), torch.rand(3), torch.rand(3), torch.rand(2, 6)]
    map_of_noise = torch.rand(2, 1, 5, 4)

    def styled_norm(x: Tensor, weight: Tensor, bias: Tensor, styles: Tensor) -> tuple[Tensor, ...]:
        scale, shift = styles.chunk(2, dim=1)
        return ops.styled_instance_norm(
            x, noise=map_of_noise, noise_weight=weight, bias=bias, scale=scale, shift=shift, statistics=True,
            backend=backend,
        )  # fmt: skip

    return {
        "reparameterize": (lambda m, v: ops.reparameterize(m, v, noise=noise, backend=backend), [a, b]),
        "gaussian_kl": (lambda m, v: ops.gaussian_kl(m, v, reduction="mean", backend=backend), [a, b]),
        "reparameterize_kl": (lambda m, v: ops.reparameterize_kl(m, v, noise=noise, backend=backend), [a, b]),
        "reconstruction_error": (lambda r, t: ops.reconstruction_error(r, t, backend=backend), [a, b]),
        "exp_elbo": (lambda r, k: ops.exp_elbo(r, k, scale=0.5, backend=backend), [rec, kl]),
        "styled_instance_norm": (styled_norm, styled),
        "group_norm_silu": (
            lambda x, w, b: ops.group_norm_silu(x, 2, w, b, backend=backend),
            [torch.rand(2, 4, 3, 5), torch.rand(4), torch.rand(4)],
        ),
        "chamfer_distance": (
            lambda p, t: ops.chamfer_distance(p, t, backend=backend),
            [torch.rand(2, 5, 3), torch.rand(2, 7, 3)],
        ),
        "mixture_log_prob": (
            lambda z, w, m, v: ops.mixture_log_prob(z, w, m, v, backend=backend),
            [torch.rand(4, 3), torch.rand(5), torch.rand(5, 3), torch.rand(5, 3)],
        ),
    }


def values_and_gradients(
    call: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], create_graph: bool = False
) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = call(*leaves)
    outputs = out if isinstance(out, tuple) else (out,)
    loss = sum((k + 1) * o.square().sum() for k, o in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(loss, leaves, create_graph=create_graph)]


def leaves_of(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


OPS = list(calls())
# Under create_graph the gradients of group norm are those of the reference, which can be differentiated again.
DIFFERENTIABLE_ONCE = [op for op in OPS if op != "group_norm_silu"]


@pytest.mark.parametrize("op", OPS)
class TestEveryOp:
    def test_same_bits_every_time(self, small_blocks, op):
        call, inputs = calls()[op]
        first, second = values_and_gradients(call, inputs), values_and_gradients(call, inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    @interpreted
    def test_second_derivatives_are_refused_by_name(self, op):
        if op not in DIFFERENTIABLE_ONCE:
            return
        call, inputs = calls()[op]
        gradient = values_and_gradients(call, inputs, create_graph=True)[-1]
        with pytest.raises(RuntimeError) as caught:
            gradient.square().sum().backward()
        assert str(caught.value) == (
            f"sivae.ops.{op}: no second derivative on this backend; "
            'pass backend="reference" where you differentiate twice'
        )

    @interpreted
    def test_create_graph_alone_is_no_error(self, op):
        if op not in DIFFERENTIABLE_ONCE:
            return
        call, inputs = calls()[op]
        plain, graphed = (values_and_gradients(call, inputs, create_graph=graph) for graph in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(plain, graphed, strict=True))

    @interpreted
    def test_compile_without_graph_breaks(self, op):
        """aot_eager runs the same kernels; the loss around them may be added in another order (a few times 2^-24)."""
        torch._dynamo.reset()
        call, inputs = calls()[op]
        eager = values_and_gradients(call, inputs)
        compiled = values_and_gradients(torch.compile(call, fullgraph=True, backend="aot_eager"), inputs)
        for e, c in zip(eager, compiled, strict=True):
            assert ((e - c).abs() <= 32 * 2.0**-24 * (1 + e.abs())).all()
        torch._dynamo.reset()

    @interpreted
    def test_transforms_run_the_reference(self, op):
        def jacobians(backend: str) -> tuple[Tensor, ...]:
            torch.manual_seed(5)  # the same inputs
            call, inputs = calls(backend)[op]
            return leaves_of(torch.func.jacrev(call)(*inputs))

        assert all(torch.equal(*pair) for pair in zip(jacobians("triton"), jacobians("reference"), strict=True))

    @interpreted
    def test_batched_gradients_of_a_recorded_graph(self, op):
        """One backward pass for both gradients gives the bits of one pass for each."""
        call, inputs = calls()[op]
        x = inputs[0].clone().requires_grad_()
        out = leaves_of(call(x, *inputs[1:]))[0]
        grads = torch.rand(2, *out.shape)
        (batched,) = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)
        single = [torch.autograd.grad(out, x, grad, retain_graph=True)[0] for grad in grads]
        assert torch.equal(batched, torch.stack(single))


@interpreted
@pytest.mark.parametrize("op", OPS)
def test_mixed_dtypes(op):
    """Outputs are those of widened tensors; each gradient has the dtype of its own tensor."""
    call, inputs = calls()[op]
    inputs[0] = inputs[0].bfloat16()
    mixed, wide = values_and_gradients(call, inputs), values_and_gradients(call, [x.float() for x in inputs])
    count = len(mixed) - len(inputs)
    for ours, expected in zip(mixed[:count], wide[:count], strict=True):
        assert torch.equal(ours, expected.to(ours.dtype))
    assert [gradient.dtype for gradient in mixed[count:]] == [x.dtype for x in inputs]


@interpreted
class TestRegistration:
    @pytest.mark.parametrize("name", ALL_OPS)
    def test_opcheck(self, name):
        op = low_level(name, "triton")
        cases = samples(name, "chunk", torch.float32, grad=name in FORWARD and name != "philox_normal")
        assert set(torch.library.opcheck(op, cases[0]).values()) == {"SUCCESS"}

    @pytest.mark.parametrize("layout", ["channels last", "expanded", "empty"])
    @pytest.mark.parametrize("name", ALL_OPS)
    def test_fake_kernels(self, name, layout):
        """They return the shape, strides, dtype and device of the real kernels' results."""
        op = low_level(name, "triton")
        for dtype, arguments in [(dtype, samples(name, layout, dtype)[-1]) for dtype in DTYPES]:
            real = op(*arguments)
            with FakeTensorMode() as mode:
                fake = op(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments))
            for r, f in zip(*(x if isinstance(x, tuple) else (x,) for x in (real, fake)), strict=True):
                assert (f.shape, f.dtype, f.device) == (r.shape, r.dtype, r.device), dtype
                # Strides of empty tensors mean nothing, and torch's own operators do not set them consistently.
                assert f.stride() == r.stride() or r.numel() == 0

    @pytest.mark.parametrize("name", ALL_OPS)
    def test_direct_calls_never_read_outside_an_operand(self, name):
        for arguments in wrong_operands(name):
            with pytest.raises((TypeError, ValueError), match="sivae: "):
                low_level(name, "triton")(*arguments)

    def test_only_needed_gradients(self):
        """A gradient that is not needed is an empty tensor; one without any source is zero."""
        a, b = torch.rand(2, 3, 5)
        backward = low_level("latent_backward", "triton")
        settings = (0, 0.0, 0.0, 0)
        seed = torch.tensor([5])
        by_mu, by_logvar, by_noise = backward(a, None, a, b, seed, *settings, False, True, False)
        assert (by_mu.shape, by_logvar.shape, by_noise.shape) == ((0,), (3, 5), (0,))
        for gradient in backward(None, None, a, b, a, *settings, True, True, True):
            assert torch.equal(gradient, torch.zeros(3, 5))
        *_, by_noise = backward(None, torch.rand(3), a, b, a, *settings, True, True, True)
        assert torch.equal(by_noise, torch.zeros(3, 5))

    @pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ on the CPU and no g++ is found")
    def test_inductor(self):
        """The custom op in the middle of generated code; its neighbours may be fused, with other roundings."""

        def call(head: Tensor) -> Tensor:
            z, kl = ops.reparameterize_kl(*(2 * head).chunk(2, dim=1), noise=ops.PhiloxNoise(5, 1), backend="triton")
            return z.tanh().square().sum(1) + kl

        torch._dynamo.reset()
        inputs = [torch.randn(4, 12)]
        eager = values_and_gradients(call, inputs)
        compiled = values_and_gradients(torch.compile(call, fullgraph=True), inputs)
        for e, c in zip(eager, compiled, strict=True):
            assert ((e - c).abs() <= 64 * 2.0**-24 * (1 + e.abs())).all()
        torch._dynamo.reset()


@interpreted
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=str)
@pytest.mark.parametrize(
    "op",
    ["reparameterize", "gaussian_kl", "reparameterize_kl", "reconstruction_error"],
)
def test_empty(op, shape):
    """As in the reference: nothing, zeros, or NaN for the mean of no samples."""
    for backend in ("triton", "reference"):
        results = values_and_gradients(calls(backend)[op][0], [torch.zeros(shape), torch.zeros(shape)])
        if backend == "triton":
            ours = results
    for a, e in zip(ours, results, strict=True):
        assert torch.equal(a.isnan(), e.isnan())
        assert torch.equal(a.nan_to_num(), e.nan_to_num())


@interpreted
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_exp_elbo_of_no_samples(reduction):
    empty = torch.zeros(0)
    ours, expected = (
        ops.exp_elbo(empty, empty, scale=1.0, reduction=reduction, backend=backend)
        for backend in ("triton", "reference")
    )
    assert ours.shape == expected.shape
    assert torch.equal(ours.isnan(), expected.isnan())
    assert torch.equal(ours.nan_to_num(), expected.nan_to_num())


def run(program: str, interpret: str | None) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret is not None:
        environment["TRITON_INTERPRET"] = interpret
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class TestChoice:
    @interpreted
    def test_on_the_cpu_it_runs_only_where_it_is_named(self):
        assert ops.available_backends("cpu")[-1] == "triton"
        assert ops.available_backends("cpu")[0] != "triton"

    @interpreted
    def test_use_backend(self):
        mu = torch.randn(2, 3)
        with ops.use_backend("triton"):
            inside = ops.gaussian_kl(mu, mu)
        assert torch.equal(inside, ops.gaussian_kl(mu, mu, backend="triton"))

    def test_without_the_interpreter(self):
        lines = run(
            "import sys, torch\nfrom sivae import ops\n"
            "print(ops.backend_status()['triton']['cpu'])\nprint('triton' in ops.available_backends())\n"
            "print('triton' in ops.available_backends('cuda'))\n"
            "try:\n    ops.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3), backend='triton')\n"
            "except RuntimeError as error:\n    print(error)\nprint('triton' in sys.modules)\n",
            None,
        )
        reason = (
            "on the CPU it runs only in Triton's interpreter: set TRITON_INTERPRET=1 before triton is first imported"
        )
        if "pip install" in lines[0]:
            pytest.skip("triton is not installed")
        message = f"gaussian_kl: backend 'triton' is not available on cpu: {reason}"
        assert lines == [reason, "False", "True", message, "False"]

    @interpreted
    def test_an_interpreter_asked_for_too_late(self):
        lines = run(
            "import os, triton.language\nos.environ['TRITON_INTERPRET'] = '1'\n"
            "from sivae import ops\nprint(ops.backend_status()['triton']['cpu'])\n",
            None,
        )
        assert lines == ["triton was imported before TRITON_INTERPRET=1 was set, so its functions are not interpreted"]

    @interpreted
    def test_the_first_use_may_be_traced(self):
        """torch.compile runs the import that the first call makes; and sivae.ops alone imports no triton."""
        lines = run(
            "import sys, torch\nfrom sivae import ops\nprint('triton' in sys.modules)\n"
            "call = lambda m, v: ops.gaussian_kl(m, v, backend='triton')\n"
            "kl = torch.compile(call, fullgraph=True, backend='eager')\n"
            "print(kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist())\n",
            "1",
        )
        assert lines == ["False", "[0.0, 0.0]"]
