"""The fully connected network: values, gradients, what is computed at all, errors, and torch's view of it.

Where all numbers are small whole ones, every sum is exact in any order, so the backends must agree to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from sivae import ops
from sivae.ops import backends, library
from tests.ops.samples import low_level
from tests.ops.test_gradients import CallRecorder

OPS = [name for name in library._FAKES if name.startswith("relu_mlp")]
NATIVE = "native" in ops.available_backends()
native = pytest.mark.skipif(not NATIVE, reason="the extension is not built")
# Few features and many at either side of a layer, odd sizes, one layer, and weights too large for a cache.
SIZES = [
    [2, 256, 256, 4],
    [2, 256, 256, 2],
    [5, 3, 7, 1],
    [4, 16, 2, 16, 4],
    [1, 9, 9, 6],
    [37, 300, 5],
    [3, 5],
    [8, 8],
    [600, 1024, 600],
]


class Case:
    """x [B, in], weights and biases of `sizes`, and the gradient of y; all leaves."""

    def __init__(self, sizes: Sequence[int], batch: int, values: Callable[..., Tensor]) -> None:
        pairs = list(itertools.pairwise(sizes))
        self.x = values(batch, sizes[0]).requires_grad_()
        self.weights = [values(fan_out, fan_in).requires_grad_() for fan_in, fan_out in pairs]
        self.biases = [values(fan_out).requires_grad_() for _, fan_out in pairs]
        self.grad = values(batch, sizes[-1])

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, *self.weights, *self.biases]

    def y(self, backend: str | None = None) -> Tensor:
        return ops.relu_mlp(self.x, self.weights, self.biases, backend=backend)

    def results(self, backend: str | None = None) -> list[Tensor]:
        """y and every gradient."""
        y = self.y(backend)
        return [y.detach(), *torch.autograd.grad(y, self.leaves, self.grad)]


def whole(dtype: torch.dtype) -> Callable[..., Tensor]:
    """-1, 0 and 1, mostly 0."""

    def values(*shape: int) -> Tensor:
        return (torch.randint(-1, 2, shape) * (torch.rand(shape) < 0.25)).to(dtype)

    return values


def normal(dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *shape: torch.randn(shape, dtype=torch.float64).to(dtype) / max(shape[-1], 1) ** 0.5


def assert_same(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 7, 130, 1500])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_parity(compiled_backend, sizes, batch, dtype):
    case = Case(sizes, batch, whole(dtype))
    assert_same(case.results(compiled_backend), case.results("reference"))
    with torch.no_grad():
        assert torch.equal(case.y(compiled_backend), case.y("reference"))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(compiled_backend, restore_threads, threads):
    case = Case([2, 64, 64, 3], 700, whole(torch.float32))
    expected = case.results("reference")
    torch.set_num_threads(threads)
    assert_same(case.results(compiled_backend), expected)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_accuracy(backend, sizes):
    """The docstring's bound: a layer's own rounding, and what its inputs' error comes to."""
    case, u = Case(sizes, 33, normal(torch.float32)), 2.0**-24
    exact = case.x.detach().double()
    error = torch.zeros_like(exact)
    for layer, (weight, bias) in enumerate(zip(case.weights, case.biases, strict=True)):
        w, b = weight.detach().double(), bias.detach().double()
        carried = error @ w.abs().t()
        error = carried + (w.shape[1] + 2) * u * (exact.abs() @ w.abs().t() + b.abs() + carried)
        exact = exact @ w.t() + b
        if layer + 1 < len(case.weights):
            exact = exact.relu()
    assert ((case.y(backend).detach().double() - exact).abs() <= error).all()


@pytest.mark.parametrize("sizes", [[2, 256, 4], [256, 256, 256], [5, 3], [600, 1024, 600]], ids=str)
def test_accuracy_of_gradients(backend, sizes):
    """The docstring's bound, of the last layer: B terms, beside what its input's error comes to; that input is exact.

    So are the others' inputs where the layer below makes whole numbers of whole numbers, with no more than 24 bits.
    """
    batch, u = 1500, 2.0**-24
    case = Case(sizes, batch, whole(torch.float32))
    case.grad = normal(torch.float32)(batch, sizes[-1])
    results = case.results(backend)
    by_weight, by_bias = results[1 + len(case.weights)], results[-1]
    below = case.x.detach().double()
    for weight, bias in zip(case.weights[:-1], case.biases[:-1], strict=True):
        below = (below @ weight.detach().double().t() + bias.detach().double()).relu()
    grad = case.grad.double()
    bound = (batch + 2) * u
    assert ((by_weight.double() - grad.t() @ below).abs() <= bound * (grad.abs().t() @ below.abs())).all()
    assert ((by_bias.double() - grad.sum(0)).abs() <= bound * grad.abs().sum(0)).all()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_no_less_accurate_than_eager(compiled_backend, sizes):
    """The worst relative L2 error of y and the gradients, against float64; a few ulp where eager's is less.

    Eight: a bias's gradient may be a single sum, which the 300 terms of either sign leave smaller than they are.
    """
    case = Case(sizes, 300, normal(torch.float32))
    exact = Case(sizes, 300, normal(torch.float64))
    exact.x, exact.grad = case.x.detach().double().requires_grad_(), case.grad.double()
    exact.weights = [weight.detach().double().requires_grad_() for weight in case.weights]
    exact.biases = [bias.detach().double().requires_grad_() for bias in case.biases]
    truth = exact.results("reference")

    def worst(results: Sequence[Tensor]) -> float:
        return max(((r.double() - t).norm() / t.norm()).item() for r, t in zip(results, truth, strict=True))

    assert worst(case.results(compiled_backend)) <= max(worst(case.results("reference")), 8 * 2.0**-23)


@pytest.mark.parametrize("sizes", [[2, 6, 5, 4], [5, 6, 3], [3, 2], [6, 7]], ids=str)
def test_gradcheck(backend, sizes):
    """Random activations lie further from ReLU's kink than the step of the differences, at this seed."""
    case = Case(sizes, 3, normal(torch.float64))
    count = len(case.weights)

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return ops.relu_mlp(x, parameters[:count], parameters[count:], backend=backend)

    assert gradcheck(call, tuple(case.leaves))


def test_float64_gradients_to_rounding(compiled_backend):
    """Ten layers' worth of sums, forward and back, of up to 512 terms; a sum of n rounds to about sqrt(n) 2^-53.

    Were the errors as large and all of one sign, that is 10 * 23 * 1.1e-16 = 2.5e-14; four times it for a bad seed.
    """
    case = Case([2, 256, 256, 256, 256, 4], 512, normal(torch.float64))
    for ours, theirs in zip(case.results(compiled_backend), case.results("reference"), strict=True):
        assert (ours - theirs).norm() <= 1e-13 * theirs.norm()


@pytest.mark.parametrize("sizes", [[3, 40, 2], [3, 2]], ids=str)
def test_an_empty_batch(backend, sizes):
    y, grad_x, *gradients = Case(sizes, 0, whole(torch.float32)).results(backend)
    assert y.shape == (0, 2)
    assert grad_x.shape == (0, 3)
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


def test_strided_operands(backend):
    case = Case([6, 20, 20, 3], 140, whole(torch.float32))
    expected = case.results("reference")
    wide = torch.zeros(140, 12)
    wide[:, 6:] = case.x.detach()
    strided = Case([6, 20, 20, 3], 140, whole(torch.float32))
    strided.x = wide[:, 6:].requires_grad_()
    strided.weights = [w.detach().t().contiguous().t().requires_grad_() for w in case.weights]
    strided.biases = [torch.stack([b.detach(), b.detach()], 1)[:, 1].requires_grad_() for b in case.biases]
    strided.grad = case.grad.t().contiguous().t()
    assert not any(t.is_contiguous() for t in [*strided.leaves, strided.grad])
    assert_same(strided.results(backend), expected)


@native
def test_what_is_only_read_is_never_copied():
    """torch's copy-on-write tensors stay unwritten views of the original."""
    case = Case([2, 20, 20, 3], 9, whole(torch.float32))
    lazy = [torch._lazy_clone(t.detach()) for t in (case.x, *case.weights, *case.biases, case.grad)]
    x, grad = lazy[0], lazy[-1]
    weights, biases = lazy[1:4], lazy[4:7]
    _, hidden = low_level("relu_mlp_with_hidden", "native")(x, weights, biases)
    kept = torch._lazy_clone(hidden)
    low_level("relu_mlp_backward", "native")(grad, x, weights, kept, True, [True] * 3, [True] * 3)
    assert all(torch._C._is_cow_tensor(tensor) for tensor in [*lazy, kept])


def test_an_expanded_gradient(backend):
    case = Case([2, 20, 3], 5, whole(torch.float32))
    case.grad = torch.ones(())
    leaves = case.leaves
    assert_same(
        torch.autograd.grad(case.y(backend).sum(), leaves), torch.autograd.grad(case.y("reference").sum(), leaves)
    )


class TestNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("where", ["x", "first weight", "middle weight", "bias", "gradient"])
    @pytest.mark.parametrize("sizes", [[2, 40, 40, 3], [6, 40, 40, 9]], ids=str)
    def test_as_the_reference(self, compiled_backend, sizes, where, value):
        case = Case(sizes, 9, whole(torch.float32))
        tensors = {
            "x": case.x,
            "first weight": case.weights[0],
            "middle weight": case.weights[1],
            "bias": case.biases[0][None],
            "gradient": case.grad,
        }
        with torch.no_grad():
            tensors[where][0, 1] = value
        assert_same(case.results(compiled_backend), case.results("reference"))

    def test_the_gradient_passes_where_an_activation_is_nan(self, backend):
        x, one = torch.tensor([[float("nan")]], requires_grad=True), torch.ones(1, 1)
        y = ops.relu_mlp(x, [one, 3 * one], [torch.zeros(1), torch.zeros(1)], backend=backend)
        y.sum().backward()
        assert x.grad.item() == 3.0


def needs(recorder: CallRecorder) -> list[tuple[bool, list[bool], list[bool]]]:
    return [
        (arguments["need_x"], list(arguments["need_weights"]), list(arguments["need_biases"]))
        for name, arguments in recorder.calls
        if name == "relu_mlp_backward"
    ]


@native
class TestOnlyWhatIsNeeded:
    @pytest.mark.parametrize("frozen", [[0], [1, 2, 3], [1, 4], [0, 3, 6], [0, 1, 2, 4, 5], [4, 5, 6], []], ids=str)
    def test_frozen_leaves(self, frozen):
        """Of x, three weights and three biases, by number."""
        case = Case([2, 20, 20, 3], 9, whole(torch.float32))
        expected = case.results("reference")[1:]
        for index in frozen:
            case.leaves[index].requires_grad_(False)
        with CallRecorder() as recorder:
            case.y("native").backward(case.grad)
        wanted = [index not in frozen for index in range(7)]
        assert needs(recorder) == [(wanted[0], wanted[1:4], wanted[4:])]
        for leaf, gradient, is_wanted in zip(case.leaves, expected, wanted, strict=True):
            assert (leaf.grad is not None) == is_wanted
            assert not is_wanted or torch.equal(leaf.grad, gradient)

    def test_pruned_by_inputs(self):
        """The weights require a gradient, and none is computed."""
        case = Case([2, 20, 20, 3], 9, whole(torch.float32))
        y = case.y("native")
        for inputs, wanted in (
            ([case.x], (True, [False] * 3, [False] * 3)),
            ([case.weights[1], case.biases[2]], (False, [False, True, False], [False, False, True])),
        ):
            with CallRecorder() as recorder:
                torch.autograd.grad(y, inputs, case.grad, retain_graph=True)
            assert needs(recorder) == [wanted]

    def test_without_gradients_nothing_is_kept(self):
        case = Case([2, 20, 20, 3], 9, whole(torch.float32))
        with CallRecorder() as recorder:
            with torch.no_grad():
                assert not case.y("native").requires_grad
            plain = [[t.detach() for t in tensors] for tensors in (case.weights, case.biases)]
            assert not ops.relu_mlp(case.x.detach(), *plain, backend="native").requires_grad
            assert case.y("native").requires_grad
        assert [name for name, _ in recorder.calls] == ["relu_mlp", "relu_mlp", "relu_mlp_with_hidden"]


def test_backward_twice(backend):
    """What is kept for backward is not written to, and gradients add up."""
    case = Case([2, 20, 20, 3], 300, whole(torch.float32))
    y = case.y(backend)
    first = torch.autograd.grad(y, case.leaves, case.grad, retain_graph=True)
    assert_same(torch.autograd.grad(y, case.leaves, case.grad), first)


def test_a_weight_changed_before_backward_is_refused(backend):
    case = Case([2, 20, 3], 4, whole(torch.float32))
    y = case.y(backend)
    with torch.no_grad():
        case.weights[1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_every_time(backend, restore_threads, threads):
    torch.set_num_threads(threads)
    case = Case([2, 256, 256, 4], 700, normal(torch.float32))
    first = case.results(backend)
    for _ in range(3):
        assert_same(case.results(backend), first)


def refusals() -> dict[str, tuple[type[Exception], str, Callable[[], object]]]:
    x, weight, bias = torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(3)
    op = ops.relu_mlp
    return {
        "x's type": (TypeError, "x is list, expected a torch.Tensor", lambda: op([1.0], [weight], [bias])),
        "x's dtype": (
            TypeError,
            "x has dtype torch.int64, expected float64, float32, bfloat16 or float16",
            lambda: op(x.long(), [weight], [bias]),
        ),
        "x's dimensions": (
            ValueError, "x has shape [4, 2, 1], expected [B, features]", lambda: op(x[..., None], [weight], [bias])
        ),
        "weights' type": (
            TypeError, "weights is Tensor, expected a list of torch.Tensor", lambda: op(x, weight, [bias])
        ),
        "biases' type": (
            TypeError, "biases is NoneType, expected a list of torch.Tensor", lambda: op(x, [weight], None)
        ),
        "no layer": (
            ValueError, "got 0 weights and 0 biases, expected one of each for every layer", lambda: op(x, [], [])
        ),
        "a bias missing": (
            ValueError, "got 1 weights and 0 biases, expected one of each for every layer", lambda: op(x, [weight], [])
        ),
        "weight's type": (
            TypeError, "weights[0] is NoneType, expected a torch.Tensor", lambda: op(x, [None], [bias])
        ),
        "weight's shape": (
            ValueError,
            "weights[1] has shape [3, 2], expected [features, 3]",
            lambda: op(x, [weight, weight], [bias, bias]),
        ),
        "weight's dimensions": (
            ValueError, "weights[0] has shape [3], expected [features, 2]", lambda: op(x, [bias], [bias])
        ),
        "weight's dtype": (
            TypeError,
            "weights[0] has dtype torch.float64, expected torch.float32 as x",
            lambda: op(x, [weight.double()], [bias]),
        ),
        "bias's shape": (ValueError, "biases[0] has shape [4], expected [3]", lambda: op(x, [weight], [x[:, 0]])),
        "bias's device": (
            ValueError, "biases[0] is on meta, expected cpu as x", lambda: op(x, [weight], [bias.to("meta")])
        ),
        "backend": (
            ValueError,
            "backend is 'fast', expected one of 'native', 'triton', 'reference' or None",
            lambda: op(x, [weight], [bias], backend="fast"),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", refusals())
def test_refuses(what):
    error, message, call = refusals()[what]
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert str(caught.value) == f"relu_mlp: {message}"


@native
def test_low_level_refusals():
    """Whoever calls the registered op itself is stopped before memory is read out of bounds."""
    forward, backward = (low_level(name, "native") for name in ("relu_mlp", "relu_mlp_backward"))
    x, weight, bias, hidden = torch.zeros(4, 2), torch.zeros(3, 2), torch.zeros(3), torch.zeros(0)
    for arguments in (
        (x[0], [weight], [bias]),
        (x, [], []),
        (x, [weight], []),
        (x, [weight.t()], [bias]),
        (x, [weight], [x[0]]),
        (x, [weight, weight], [bias, bias]),
    ):
        with pytest.raises(ValueError, match="sivae: "):
            forward(*arguments)
    with pytest.raises(TypeError, match="sivae: "):
        forward(x.bfloat16(), [weight], [bias])
    with pytest.raises(TypeError, match="sivae: "):
        forward(x, [weight.double()], [bias])
    grad = torch.zeros(4, 3)
    for arguments in (
        (grad[:3], x, [weight], hidden, True, [True], [True]),
        (grad, x, [weight], torch.zeros(1), True, [True], [True]),
        (grad, x, [weight], hidden, True, [], [True]),
        (grad, x, [weight], hidden, True, [True], []),
    ):
        with pytest.raises(ValueError, match="sivae: "):
            backward(*arguments)


@native
@pytest.mark.parametrize("frozen", [False, True])
def test_forward_mode_derivatives_are_refused(frozen):
    """With and without a gradient to compute: a tangent is never lost."""
    case = Case([2, 6, 3], 4, normal(torch.float64))
    for leaf in case.leaves:
        leaf.requires_grad_(not frozen)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(case.x, torch.ones_like(case.x))
        with pytest.raises(RuntimeError, match="jvp is not implemented"):
            ops.relu_mlp(x, case.weights, case.biases, backend="native")


@pytest.mark.parametrize("sizes", [[2, 260_000, 2], [3, 1024, 1024, 4]], ids=str)
def test_a_network_that_is_not_cut(compiled_backend, restore_threads, sizes):
    """From 2^20 parameters on all threads share each layer."""
    torch.set_num_threads(2)
    case = Case(sizes, 70, whole(torch.float32))
    assert sum(parameter.numel() for parameter in (*case.weights, *case.biases)) >= 2**20
    assert_same(case.results(compiled_backend), case.results("reference"))


class TestSecondDerivatives:
    def test_the_native_backend_refuses_by_name(self, compiled_backend):
        case = Case([2, 6, 3], 4, normal(torch.float64))
        gradients = torch.autograd.grad(case.y(compiled_backend).square().sum(), case.leaves, create_graph=True)
        with pytest.raises(RuntimeError) as caught:
            sum(g.square().sum() for g in gradients).backward()
        assert str(caught.value).startswith(
            "sivae.ops.relu_mlp: no second derivative on this backend; "
            'pass backend="reference" where you differentiate twice'
        )

    def test_create_graph_alone_is_no_error(self, compiled_backend):
        case = Case([2, 6, 3], 4, normal(torch.float64))
        graphed = torch.autograd.grad(case.y(compiled_backend), case.leaves, case.grad, create_graph=True)
        assert_same([g.detach() for g in graphed], case.results(compiled_backend)[1:])

    def test_the_reference_has_them(self):
        case = Case([2, 5, 3], 3, normal(torch.float64))
        assert gradgradcheck(
            lambda x, *p: ops.relu_mlp(x, p[:2], p[2:], backend="reference").tanh(), tuple(case.leaves)
        )


class TestChoice:
    @pytest.mark.parametrize(("name", "device"), [("native", "cuda"), ("triton", "cuda"), ("triton", "cpu")])
    def test_backends_without_it(self, monkeypatch, name, device):
        monkeypatch.setattr(backends, "_missing_reason", lambda name, device_type: None)
        with pytest.raises(RuntimeError) as caught:
            backends.select("relu_mlp", name, torch.device(device))
        assert str(caught.value) == (
            f"relu_mlp: backend {name!r} is not available on {device}: it has no kernels for this op there"
        )

    def test_inside_use_backend_the_default_takes_its_place(self):
        case = Case([2, 20, 3], 4, whole(torch.float32))
        with ops.use_backend("triton"):
            assert torch.equal(case.y(), case.y("reference"))

    @native
    def test_native_is_the_default(self):
        case = Case([2, 20, 3], 4, whole(torch.float32))
        with CallRecorder() as recorder:
            case.y()
            with ops.use_backend("reference"):
                case.y()
        assert [name for name, _ in recorder.calls] == ["relu_mlp_with_hidden"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_types(self, dtype):
        case = Case([2, 20, 3], 4, whole(dtype))
        assert_same(case.results(), case.results("reference"))
        if NATIVE:
            with ops.use_backend("native"):
                assert_same(case.results(), case.results("reference"))
            with pytest.raises(TypeError) as caught:
                case.y("native")
            assert str(caught.value) == (
                f"relu_mlp: x has dtype {dtype}, expected float64 or float32 on backend 'native'"
            )

    def test_other_devices_run_the_reference(self):
        case = Case([2, 20, 3], 4, whole(torch.float32))
        x, *parameters = (leaf.detach().to("meta") for leaf in case.leaves)
        assert ops.relu_mlp(x, parameters[:2], parameters[2:]).shape == (4, 3)
        with pytest.raises(RuntimeError, match="relu_mlp: backend 'native' is not available on meta"):
            ops.relu_mlp(x, parameters[:2], parameters[2:], backend="native")

    def test_autocast_picks_the_dtype(self):
        case = Case([2, 20, 3], 4, whole(torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert case.y().dtype == torch.bfloat16


def low_level_samples(name: str, *, grad: bool = False) -> list[tuple]:
    samples = []
    for sizes, batch in (([2, 8, 8, 3], 5), ([5, 7], 4), ([3, 6, 2], 0)):
        case = Case(sizes, batch, normal(torch.float32))
        for leaf in case.leaves:
            leaf.requires_grad_(grad)
        layers = len(case.weights)
        if name != "relu_mlp_backward":
            samples.append((case.x, case.weights, case.biases))
            continue
        _, hidden = low_level("relu_mlp_with_hidden", "native")(case.x, case.weights, case.biases)
        for need_x, flags in (
            (True, [True] * layers),
            (False, [True] + [False] * (layers - 1)),
            (True, [False] * layers),
        ):
            samples.append((case.grad, case.x, case.weights, hidden, need_x, flags, flags[::-1]))
    return samples


def flat(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in flat(output)]


@native
class TestRegistration:
    @pytest.mark.parametrize("name", OPS)
    def test_schema(self, name):
        schema = low_level(name, "native")._schema
        assert not any(argument.has_default_value() or argument.kwarg_only for argument in schema.arguments)
        assert {str(result.type) for result in schema.returns} <= {"Tensor", "List[Tensor]"}
        assert not any(part.alias_info for part in [*schema.arguments, *schema.returns])

    @pytest.mark.parametrize("name", OPS)
    def test_fake_kernels(self, name):
        op = low_level(name, "native")
        for arguments in low_level_samples(name):
            with FakeTensorMode() as mode:
                fakes = flat(op(*torch.utils._pytree.tree_map_only(Tensor, mode.from_tensor, arguments)))
            for r, f in zip(flat(op(*arguments)), fakes, strict=True):
                assert (f.shape, f.dtype, f.device) == (r.shape, r.dtype, r.device)
                assert f.stride() == r.stride() or r.numel() == 0

    @pytest.mark.parametrize("name", OPS)
    def test_opcheck(self, name):
        for arguments in low_level_samples(name, grad=name == "relu_mlp"):
            assert set(torch.library.opcheck(low_level(name, "native"), arguments).values()) == {"SUCCESS"}

    def test_results_do_not_alias_inputs(self):
        x, weight, bias = torch.ones(2, 2), torch.eye(2), torch.zeros(2)
        y, hidden = low_level("relu_mlp_with_hidden", "native")(x, [weight, weight], [bias, bias])
        before = [hidden.clone(), x.clone(), weight.clone()]
        grads = flat(low_level("relu_mlp_backward", "native")(y, x, [weight] * 2, hidden, True, [True] * 2, [True] * 2))
        for tensor in [y, *grads]:
            tensor.fill_(7.0)
        assert_same([hidden, x, weight], before)


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh_dynamo(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_without_graph_breaks(self, backend):
        case = Case([2, 20, 20, 3], 9, whole(torch.float32))
        call = torch.compile(
            lambda x, weights, biases: ops.relu_mlp(x, weights, biases, backend=backend),
            fullgraph=True,
            backend="aot_eager",
        )
        y = call(case.x, case.weights, case.biases)
        compiled = [y.detach(), *torch.autograd.grad(y, case.leaves, case.grad)]
        assert_same(compiled, case.results("reference"))

    def test_dynamic_batch(self, backend):
        call = torch.compile(
            lambda x, w, b: ops.relu_mlp(x, w, b, backend=backend), fullgraph=True, dynamic=True, backend="aot_eager"
        )
        for batch in (2, 3, 7):
            case = Case([2, 20, 3], batch, whole(torch.float32))
            assert torch.equal(call(case.x, case.weights, case.biases), case.y("reference"))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_under_autocast(self, dtype):
        case = Case([2, 20, 3], 4, whole(torch.float32))
        call = torch.compile(lambda *arguments: ops.relu_mlp(*arguments), fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            assert call(case.x, case.weights, case.biases).dtype == dtype
