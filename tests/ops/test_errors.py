"""Test the message for each wrong argument, raised before anything runs, and the smallest valid inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sivae import ops

A = torch.zeros(2, 3)
REC = torch.zeros(4)
PAIR_OPS: dict[str, tuple[str, str, Callable[..., object]]] = {
    "reparameterize": ("mu", "logvar", ops.reparameterize),
    "gaussian_kl": ("mu", "logvar", ops.gaussian_kl),
    "reparameterize_kl": ("mu", "logvar", ops.reparameterize_kl),
    "reconstruction_error": ("recon", "target", ops.reconstruction_error),
    "exp_elbo": ("rec", "kl", lambda a, b: ops.exp_elbo(a, b, scale=1.0)),
    "log_exp_elbo": ("rec", "kl", lambda a, b: ops.log_exp_elbo(a, b, scale=1.0)),
}
FLOATING = "expected float64, float32, bfloat16 or float16"


def refuses(error: type[Exception], message: str, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.type is error
    assert str(caught.value) == message


@pytest.mark.parametrize("op", PAIR_OPS)
class TestTensors:
    """Each op of two tensors, and each of its two arguments."""

    def test_type(self, op):
        first, second, call = PAIR_OPS[op]
        refuses(TypeError, f"{op}: {first} is list, expected a torch.Tensor", call, [1.0], REC)
        refuses(TypeError, f"{op}: {second} is float, expected a torch.Tensor", call, REC, 1.0)
        refuses(TypeError, f"{op}: {first} is NoneType, expected a torch.Tensor", call, None, REC)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
    def test_dtype(self, op, dtype):
        first, second, call = PAIR_OPS[op]
        refuses(TypeError, f"{op}: {first} has dtype {dtype}, {FLOATING}", call, REC.to(dtype), REC)
        refuses(TypeError, f"{op}: {second} has dtype {dtype}, {FLOATING}", call, REC, REC.to(dtype))

    @pytest.mark.parametrize("layout", ["sparse_coo", "_mkldnn"])
    def test_layout(self, op, layout):
        first, second, call = PAIR_OPS[op]
        dense = torch.zeros(4, 2)
        other = dense.to_mkldnn() if layout == "_mkldnn" else dense.to_sparse()
        for name, tensors in ((first, (other, dense)), (second, (dense, other))):
            message = f"{op}: {name} has layout torch.{layout}, expected torch.strided; call {name}.to_dense()"
            refuses(TypeError, message, call, *tensors)

    @pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
    def test_nested(self, op, layout):
        first, second, call = PAIR_OPS[op]
        dense = torch.zeros(4, 2)
        nested = torch.nested.nested_tensor([dense, dense[:2]], layout=layout)
        expected = "is a nested tensor, expected a dense one; call the op on each tensor of"
        refuses(TypeError, f"{op}: {first} {expected} {first}.unbind()", call, nested, nested)
        refuses(TypeError, f"{op}: {second} {expected} {second}.unbind()", call, dense, nested)

    @pytest.mark.parametrize("shape", [(5,), (1,), (4, 1), (0,), ()], ids=str)
    def test_shape(self, op, shape):
        first, second, call = PAIR_OPS[op]
        message = f"{op}: {second} has shape {list(shape)}, expected [4] as {first}"
        refuses(ValueError, message, call, REC, torch.zeros(shape))

    def test_no_dimensions(self, op):
        first, _, call = PAIR_OPS[op]
        message = f"{op}: {first} has no dimensions, expected the batch first: [B, ...]"
        refuses(ValueError, message, call, torch.tensor(1.0), torch.tensor(1.0))

    def test_device(self, op):
        first, second, call = PAIR_OPS[op]
        refuses(ValueError, f"{op}: {second} is on meta, expected cpu as {first}", call, REC, REC.to("meta"))
        refuses(ValueError, f"{op}: {second} is on cpu, expected meta as {first}", call, REC.to("meta"), REC)


@pytest.mark.parametrize("op", ["exp_elbo", "log_exp_elbo"])
def test_per_sample_inputs(op):
    message = f"{op}: rec has shape [2, 3], expected [B], one value per sample"
    refuses(ValueError, message, PAIR_OPS[op][2], A, A)


class TestChoices:
    @pytest.mark.parametrize("reduction", ["batchmean", "Mean", None, 1])
    def test_reduction(self, reduction):
        expected = f"reduction is {reduction!r}, expected 'none', 'mean' or 'sum'"
        refuses(ValueError, f"gaussian_kl: {expected}", ops.gaussian_kl, A, A, reduction=reduction)
        refuses(ValueError, f"reconstruction_error: {expected}", ops.reconstruction_error, A, A, reduction=reduction)
        refuses(ValueError, f"exp_elbo: {expected}", ops.exp_elbo, REC, REC, scale=1.0, reduction=reduction)

    def test_kind(self):
        kinds = "expected one of 'mse', 'l1', 'bce', 'bce_with_logits'"
        refuses(ValueError, f"reconstruction_error: kind is 'l2', {kinds}", ops.reconstruction_error, A, A, kind="l2")
        refuses(ValueError, f"reconstruction_error: kind is 'MSE', {kinds}", ops.elbo, A, A, A, A, kind="MSE")

    @pytest.mark.parametrize("op", [*PAIR_OPS, "philox_normal", "elbo"])
    def test_backend_name(self, op):
        if op == "log_exp_elbo":  # plain PyTorch everywhere: it takes no backend
            with pytest.raises(TypeError, match="unexpected keyword argument 'backend'"):
                ops.log_exp_elbo(REC, REC, scale=1.0, backend="cuda")
            return
        calls: dict[str, Callable[[], object]] = {
            "philox_normal": lambda: ops.philox_normal(0, (2,), backend="cuda"),
            "elbo": lambda: ops.elbo(A, A, A, A, backend="cuda"),
            "exp_elbo": lambda: ops.exp_elbo(REC, REC, scale=1.0, backend="cuda"),
        }
        with pytest.raises(ValueError, match="backend is") as caught:
            calls[op]() if op in calls else PAIR_OPS[op][2](A, A, backend="cuda")
        name = "reconstruction_error" if op == "elbo" else op
        known = ", ".join(repr(name) for name in reversed(ops.backend_status()))
        assert str(caught.value) == f"{name}: backend is 'cuda', expected one of {known} or None"

    def test_missing_backend(self):
        if "native" in ops.available_backends():
            reason = "it has no kernels for device 'meta'"
        else:
            reason = ops.backend_status()["native"]["cpu"]
        meta = A.to("meta")
        message = f"gaussian_kl: backend 'native' is not available on meta: {reason}"
        refuses(RuntimeError, message, ops.gaussian_kl, meta, meta, backend="native")
        with ops.use_backend("native"), pytest.raises(RuntimeError) as caught:
            ops.gaussian_kl(meta, meta)
        assert str(caught.value) == message


class TestScalars:
    @pytest.mark.parametrize("name", ["prior_mu", "prior_logvar"])
    @pytest.mark.parametrize("op", ["gaussian_kl", "reparameterize_kl"])
    def test_prior(self, op, name):
        call = getattr(ops, op)
        for value, shown in ((math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")):
            refuses(ValueError, f"{op}: {name} is {shown}, expected a finite number", call, A, A, **{name: value})
        for value, kind in ((True, "bool"), ("0", "str"), (None, "NoneType")):
            refuses(TypeError, f"{op}: {name} is {kind}, expected a number", call, A, A, **{name: value})
        for shape in ((2,), (1, 2, 3), (3, 3)):
            message = f"{op}: {name} has shape {list(shape)}, expected one that expands to [2, 3] as mu"
            refuses(ValueError, message, call, A, A, **{name: torch.zeros(shape)})
        message = f"{op}: {name} has dtype torch.int64, {FLOATING}"
        refuses(TypeError, message, call, A, A, **{name: torch.zeros(3, dtype=torch.int64)})
        refuses(ValueError, f"{op}: {name} is on meta, expected cpu as mu", call, A, A, **{name: A.to("meta")})

    @pytest.mark.parametrize("op", ["gaussian_kl", "reparameterize_kl"])
    def test_balance(self, op):
        call = getattr(ops, op)
        for value in (-0.1, 1.5):
            message = f"{op}: kl_balance is {value}, expected a number in [0, 1] or None"
            refuses(ValueError, message, call, A, A, kl_balance=value)
        refuses(TypeError, f"{op}: kl_balance is str, expected a number", call, A, A, kl_balance="1")

    @pytest.mark.parametrize("op", ["exp_elbo", "log_exp_elbo"])
    @pytest.mark.parametrize("name", ["scale", "alpha"])
    def test_positive(self, op, name):
        call = getattr(ops, op)
        for value, shown in ((-2.0, "-2.0"), (0, "0.0"), (math.nan, "nan"), (math.inf, "inf")):
            settings = {"scale": 1.0, name: value}
            message = f"{op}: {name} is {shown}, expected a finite number above 0"
            refuses(ValueError, message, call, REC, REC, **settings)
        refuses(TypeError, f"{op}: {name} is bool, expected a number", call, REC, REC, **{"scale": 1.0, name: True})

    @pytest.mark.parametrize(("dtype", "least"), [(torch.float32, -177.4), (torch.float64, -1419.5)], ids=str)
    @pytest.mark.parametrize("op", ["gaussian_kl", "reparameterize_kl"])
    def test_prior_that_the_arithmetic_cannot_hold(self, backend, op, dtype, least):
        """exp(-prior_logvar / 2) would be infinite, and the KL of mu = prior_mu NaN."""
        call, latents = getattr(ops, op), (A.to(dtype), torch.full_like(A, least, dtype=dtype))
        for value in (least - 0.1, -2000.0):
            with pytest.raises(
                ValueError, match=rf"^{op}: prior_logvar is {value}, expected at least {int(least)}\.\d+ "
            ):
                call(*latents, prior_logvar=value, backend=backend)
        kl = call(*latents, prior_logvar=least, backend=backend)
        assert (kl if op == "gaussian_kl" else kl[1]).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 1e-38), (torch.float64, 1e-307)], ids=str)
    def test_alpha_that_the_arithmetic_cannot_hold(self, backend, dtype, least):
        """1 / alpha would be infinite, and its product with an exponential of 0 NaN."""
        rec, far = torch.zeros(2, dtype=dtype), torch.full((2,), 1e4, dtype=dtype)
        with pytest.raises(ValueError, match=r"^exp_elbo: alpha is 1e-309, expected at least "):
            ops.exp_elbo(far, rec, scale=1.0, alpha=1e-309, backend=backend)
        assert ops.exp_elbo(far, rec, scale=1 / least, alpha=least, backend=backend) == 0.0

    @pytest.mark.parametrize("op", ["exp_elbo", "log_exp_elbo"])
    @pytest.mark.parametrize("name", ["beta_rec", "beta_kl"])
    def test_weights(self, op, name):
        call = getattr(ops, op)
        message = f"{op}: {name} is nan, expected a finite number"
        refuses(ValueError, message, call, REC, REC, scale=1.0, **{name: math.nan})
        refuses(TypeError, f"{op}: {name} is str, expected a number", call, REC, REC, scale=1.0, **{name: "1"})

    @pytest.mark.parametrize("name", ["beta_rec", "beta_kl"])
    def test_weights_of_elbo(self, name):
        refuses(ValueError, f"elbo: {name} is inf, expected a finite number", ops.elbo, A, A, A, A, **{name: math.inf})
        refuses(TypeError, f"elbo: {name} is bool, expected a number", ops.elbo, A, A, A, A, **{name: False})

    def test_integers_are_numbers(self, backend):
        ints = ops.exp_elbo(REC, REC, scale=1, beta_rec=2, beta_kl=0, alpha=3, backend=backend)
        assert ints == ops.exp_elbo(REC, REC, scale=1.0, beta_rec=2.0, beta_kl=0.0, alpha=3.0, backend=backend)


@pytest.mark.parametrize("op", ["reparameterize", "reparameterize_kl"])
class TestNoise:
    def test_type(self, op):
        message = f"{op}: noise is int, expected a torch.Tensor, a PhiloxNoise or None"
        refuses(TypeError, message, getattr(ops, op), A, A, noise=3)
        message = f"{op}: noise is tuple, expected a torch.Tensor, a PhiloxNoise or None"
        refuses(TypeError, message, getattr(ops, op), A, A, noise=(1, 2))

    def test_shape_dtype_device(self, op):
        call = getattr(ops, op)
        refuses(ValueError, f"{op}: noise has shape [3], expected [2, 3] as mu", call, A, A, noise=torch.zeros(3))
        message = f"{op}: noise has dtype torch.int64, {FLOATING}"
        refuses(TypeError, message, call, A, A, noise=torch.zeros(1, dtype=torch.int64))
        refuses(ValueError, f"{op}: noise is on meta, expected cpu as mu", call, A, A, noise=A.to("meta"))

    def test_noise_and_generator(self, op):
        message = f"{op}: both noise and generator are given, expected at most one of them"
        for noise in (A, ops.PhiloxNoise(1)):
            refuses(ValueError, message, getattr(ops, op), A, A, noise=noise, generator=torch.Generator())

    def test_generator_device(self, op):
        message = f"{op}: generator is on cpu, expected meta as mu"
        meta = A.to("meta")
        refuses(ValueError, message, getattr(ops, op), meta, meta, generator=torch.Generator())

    @pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
    def test_seed_range(self, op, seed):
        message = f"{op}: seed is {seed}, expected a number in [0, 2^63)"
        refuses(ValueError, message, getattr(ops, op), A, A, noise=ops.PhiloxNoise(seed))

    @pytest.mark.parametrize("offset", [-1, 2**63])
    def test_offset_range(self, op, offset):
        message = f"{op}: offset is {offset}, expected a number in [0, 2^63)"
        refuses(ValueError, message, getattr(ops, op), A, A, noise=ops.PhiloxNoise(0, offset))

    def test_seed_and_offset_types(self, op):
        call = getattr(ops, op)
        expected = "expected an int or an int64 tensor of one element"
        refuses(TypeError, f"{op}: seed is float, {expected}", call, A, A, noise=ops.PhiloxNoise(1.0))
        refuses(TypeError, f"{op}: seed is bool, {expected}", call, A, A, noise=ops.PhiloxNoise(True))
        refuses(TypeError, f"{op}: offset is float, expected an int", call, A, A, noise=ops.PhiloxNoise(1, 1.0))
        refuses(TypeError, f"{op}: offset is bool, expected an int", call, A, A, noise=ops.PhiloxNoise(1, True))

    def test_seed_tensors(self, op):
        call = getattr(ops, op)
        message = f"{op}: seed has dtype torch.int64 and shape [2], expected int64 of one element"
        refuses(TypeError, message, call, A, A, noise=ops.PhiloxNoise(torch.zeros(2, dtype=torch.int64)))
        message = f"{op}: seed has dtype torch.float32 and shape [1], expected int64 of one element"
        refuses(TypeError, message, call, A, A, noise=ops.PhiloxNoise(torch.zeros(1)))
        message = f"{op}: seed has layout torch.sparse_coo, expected torch.strided; call seed.to_dense()"
        refuses(TypeError, message, call, A, A, noise=ops.PhiloxNoise(torch.zeros(1, dtype=torch.int64).to_sparse()))
        meta = ops.PhiloxNoise(torch.zeros(1, dtype=torch.int64, device="meta"))
        refuses(ValueError, f"{op}: seed is on meta, expected cpu", call, A, A, noise=meta)


class TestPhiloxNormal:
    def test_arguments(self):
        call = ops.philox_normal
        refuses(TypeError, f"philox_normal: dtype is torch.int64, {FLOATING}", call, 0, (2,), dtype=torch.int64)
        refuses(ValueError, "philox_normal: shape is [2, -1], expected sizes of at least 0", call, 0, (2, -1))
        refuses(ValueError, "philox_normal: seed is -1, expected a number in [0, 2^63)", call, -1, (2,))
        refuses(ValueError, f"philox_normal: seed is {2**63}, expected a number in [0, 2^63)", call, 2**63, (2,))
        refuses(ValueError, "philox_normal: offset is -1, expected a number in [0, 2^63)", call, 0, (2,), offset=-1)
        refuses(TypeError, "philox_normal: offset is float, expected an int", call, 0, (2,), offset=0.0)
        expected = "expected an int or an int64 tensor of one element"
        refuses(TypeError, f"philox_normal: seed is str, {expected}", call, "0", (2,))


class TestElbo:
    def test_batches_differ(self):
        message = "elbo: mu has batch size 3, expected 2 as recon"
        refuses(ValueError, message, ops.elbo, A, A, torch.zeros(3, 4), torch.zeros(3, 4))

    def test_devices_differ(self):
        message = "elbo: mu is on meta, expected cpu as recon"
        refuses(ValueError, message, ops.elbo, A, A, A.to("meta"), A.to("meta"))

    def test_each_pair(self):
        refuses(TypeError, "elbo: recon is str, expected a torch.Tensor", ops.elbo, "a", A, A, A)
        refuses(
            ValueError, "elbo: target has shape [2, 4], expected [2, 3] as recon", ops.elbo, A, torch.zeros(2, 4), A, A
        )
        refuses(TypeError, "elbo: mu has dtype torch.int64, " + FLOATING, ops.elbo, A, A, A.long(), A)
        refuses(TypeError, "elbo: logvar has dtype torch.int64, " + FLOATING, ops.elbo, A, A, A, A.long())


def leaves(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.zeros(shape, dtype=dtype, requires_grad=True), torch.zeros(shape, dtype=dtype, requires_grad=True)


EMPTY = [(0, 5), (4, 0), (0,), (0, 0), (0, 3, 8, 8), (4, 3, 0, 8)]


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
class TestEmpty:
    """No samples, or samples without elements: the loss of each is 0, the mean of none is NaN, and backward runs."""

    def check_loss(self, call: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        sums = torch.float64 if dtype == torch.float64 else torch.float32
        for reduction in ("none", "mean", "sum"):
            a, b = leaves(shape, dtype)
            out = call(a, b, reduction=reduction)
            assert out.dtype == sums
            assert out.shape == ((shape[0],) if reduction == "none" else ())
            if reduction == "mean" and shape[0] == 0:
                assert out.isnan()
            else:
                assert not out.any()
            out.sum().backward()
            for tensor in (a, b):
                assert tensor.grad.shape == tensor.shape
                assert tensor.grad.dtype == dtype

    def test_gaussian_kl(self, backend, shape, dtype):
        self.check_loss(lambda a, b, **kw: ops.gaussian_kl(a, b, **kw, backend=backend), shape, dtype)

    @pytest.mark.parametrize("kind", ["mse", "l1", "bce", "bce_with_logits"])
    def test_reconstruction_error(self, backend, shape, dtype, kind):
        self.check_loss(
            lambda a, b, **kw: ops.reconstruction_error(a, b, kind=kind, **kw, backend=backend), shape, dtype
        )

    def test_sampling(self, backend, shape, dtype):
        for noise in (None, ops.PhiloxNoise(1), torch.zeros(shape, dtype=dtype)):
            mu, logvar = leaves(shape, dtype)
            z, kl = ops.reparameterize_kl(mu, logvar, noise=noise, backend=backend)
            assert z.shape == shape
            assert z.dtype == dtype
            assert kl.tolist() == [0.0] * shape[0]
            (z.float().sum() + kl.sum()).backward()
            assert mu.grad.shape == logvar.grad.shape == shape
            z = ops.reparameterize(mu, logvar, noise=noise, backend=backend)
            assert z.shape == shape
            z.float().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_exp_elbo_of_no_samples(backend, dtype):
    for reduction in ("none", "mean", "sum"):
        rec, kl = leaves((0,), dtype)
        out = ops.exp_elbo(rec, kl, scale=1.0, reduction=reduction, backend=backend)
        assert out.shape == ((0,) if reduction == "none" else ())
        assert bool(out.isnan().any()) == (reduction == "mean")
        out.sum().backward()
        assert rec.grad.shape == kl.grad.shape == (0,)


def test_log_exp_elbo_of_no_samples():
    assert ops.log_exp_elbo(torch.zeros(0), torch.zeros(0), scale=1.0).isnan()
    assert ops.log_exp_elbo(torch.zeros(0).double(), torch.zeros(0).double(), scale=1.0).dtype == torch.float64


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1, 1)], ids=str)
def test_one_element(backend, shape):
    """Computed by hand; 4 units of float32 for the exponentials and sums."""
    mu, logvar = torch.full(shape, 3.0, requires_grad=True), torch.full(shape, 2 * math.log(2.0), requires_grad=True)
    z, kl = ops.reparameterize_kl(mu, logvar, noise=torch.full(shape, 0.5), backend=backend)
    assert z.shape == shape
    assert kl.shape == (1,)
    assert abs(z.item() - 4.0) <= 4 * 2.0**-22
    assert abs(kl.item() - 0.5 * (4 - 1 - 2 * math.log(2.0) + 9)) <= 16 * 2.0**-22
    (z.sum() + kl.sum()).backward()
    assert mu.grad.item() == 4.0
    assert abs(logvar.grad.item() - (0.5 + 1.5)) <= 8 * 2.0**-22
    rec = ops.reconstruction_error(torch.full(shape, 3.0), torch.full(shape, 1.0), backend=backend)
    assert rec.tolist() == [4.0]
    assert ops.exp_elbo(torch.zeros(1), torch.zeros(1), scale=1.0, backend=backend).item() == 0.5
