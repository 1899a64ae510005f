"""The contenders of an op compute the same, and every mode of every op can be timed. No test depends on a time."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import op_timing
from benchmarks.environment import compared_backends
from benchmarks.names import EAGER, MODES
from benchmarks.op_cases import OPERATIONS, Case, Function
from benchmarks.probes import CopyProbe
from benchmarks.timing import CPU
from sivae import ops
from tests.benchmarks import small

TINY_SHAPES = {
    "reconstruction_error": (3, 2, 5, 7),
    "reparameterize_kl": (6, 2, 5),
    "reparameterize": (9, 2),
    "gaussian_kl": (6, 5),
    "exp_elbo": (11,),
    "styled_instance_norm": (2, 3, 4, 5),
    "styled_instance_norm_channels_last": (2, 3, 4, 5),
    "group_norm_silu": (2, 6, 4, 5),
    "group_norm_silu_channels_last": (2, 6, 4, 5),
    "batch_norm_leaky_relu": (2, 3, 4, 5),
    "chamfer_distance": (2, 7, 3),
    "chamfer_distance_over_cdist": (2, 7, 3),
    "mixture_log_prob": (5, 3, 2),
    "mixture_log_prob_over_products": (5, 3, 2),
    "loss": (3, 2, 4, 4),
}
TINY = [Case(OPERATIONS[name], shape) for name, shape in TINY_SHAPES.items()]
TINY += [Case(OPERATIONS[name], TINY_SHAPES[name], "bfloat16") for name in ("reconstruction_error", "loss")]
RANDOM = ("reparameterize_kl", "reparameterize", "loss")  # z is drawn by each contender for itself


def tiny(name: str) -> Case:
    return next(case for case in TINY if case.operation.name == name)


def fused(case: Case, backend: str) -> Function:
    if backend not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[backend]["cpu"]))
    return case.operation.fused(backend, None)


def test_every_op_has_a_tiny_case_here():
    assert set(TINY_SHAPES) == set(OPERATIONS)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("case", [c for c in TINY if c.dtype == "float32"], ids=lambda c: c.name)
def test_same_values_and_gradients(case, backend):
    inputs = op_timing.input_sets(case, most=1)[0]
    expected, _ = op_timing.results_of(case.operation.eager, inputs)
    outputs, _ = op_timing.results_of(fused(case, backend), inputs)
    start = 1 if case.operation.name in RANDOM else 0
    torch.testing.assert_close(outputs[start:], expected[start:])
    if start == 0:
        torch.testing.assert_close(
            op_timing.forward_backward(fused(case, backend), inputs),
            op_timing.forward_backward(case.operation.eager, inputs),
        )
    elif len(outputs) > 1:
        upstream = inputs.upstream[1:]
        torch.testing.assert_close(
            torch.autograd.grad(outputs[1:], inputs.leaves, upstream),
            torch.autograd.grad(expected[1:], inputs.leaves, upstream),
        )


@pytest.mark.parametrize("variant", ["eager", "reference", "native"])
def test_latent_contenders_sample_the_posterior(variant):
    case = Case(OPERATIONS["reparameterize_kl"], (400, 50))
    function = case.operation.eager if variant == "eager" else fused(case, variant)
    torch.manual_seed(0)
    inputs = op_timing.input_sets(case, most=1)[0]
    (z, _), _ = op_timing.results_of(function, inputs)
    mu, logvar = inputs.leaves
    eps = ((z - mu) / torch.exp(0.5 * logvar)).detach().double()
    count = eps.numel()
    assert abs(eps.mean().item()) < 5 / math.sqrt(count)
    assert abs(eps.var().item() - 1) < 5 * math.sqrt(2 / count)
    assert abs((eps**4).mean().item() - 3) < 5 * math.sqrt(96 / count)
    # z's gradient to mu is upstream, to logvar half of upstream times z - mu.
    upstream = inputs.upstream[0]
    grad_mu, grad_logvar = torch.autograd.grad(z, inputs.leaves, upstream)
    torch.testing.assert_close(grad_mu, upstream)
    torch.testing.assert_close(grad_logvar, 0.5 * upstream * (z - mu).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", TINY, ids=lambda c: c.name)
def test_inputs_are_random_and_gradients_go_where_a_step_needs_them(case):
    first, second = op_timing.input_sets(case, most=2)
    for tensor, other in zip((*first.arguments, *first.upstream), (*second.arguments, *second.upstream), strict=True):
        assert str(tensor.dtype) == f"torch.{case.dtype}"
        assert tensor.count_nonzero() > 0
        assert not torch.equal(tensor, other)
    assert [tensor.requires_grad for tensor in first.arguments] == [
        any(tensor is leaf for leaf in first.leaves) for tensor in first.arguments
    ]
    # A target, or the noise of the styled norm.
    without_gradient = case.operation.name in ("reconstruction_error", "loss") or "styled" in case.operation.name
    assert len(first.leaves) == len(first.arguments) - int(without_gradient)


def test_sets_outgrow_the_cache_and_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(op_timing, "last_level_cache_bytes", lambda device: 10_000)
    case = Case(OPERATIONS["reparameterize_kl"], (16, 32))
    sets = op_timing.input_sets(case)
    assert sum(inputs.nbytes for inputs in sets) >= 20_000
    seen = []
    calls = op_timing.timed_calls(lambda mu, logvar: seen.append(mu.data_ptr()) or mu * 1.0, sets, "forward")
    call = op_timing.in_turn(calls)
    for _ in range(2 * len(sets)):
        call()
    assert seen == [inputs.arguments[0].data_ptr() for inputs in sets] * 2


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_backward_runs_again_and_again_without_a_forward(name):
    case = tiny(name)
    forwards = []

    def function(*arguments: torch.Tensor) -> object:
        forwards.append(1)
        return case.operation.eager(*arguments)

    (call,) = op_timing.timed_calls(function, op_timing.input_sets(case, most=1), "backward")
    first, second = call(), call()
    assert len(forwards) == 1
    assert [g.shape for g in first] == [leaf.shape for leaf in op_timing.input_sets(case, most=1)[0].leaves]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("case", TINY, ids=lambda c: c.name)
def test_every_mode_of_every_op_can_be_timed(case):
    results = list(op_timing.run(case, small.EFFORT, with_compile=False, log=pytest.fail))
    assert [result.mode for result in results] == list(MODES)
    for result in results:
        variants = [contender.variant for contender in result.contenders]
        assert variants == ["eager", *compared_backends(CPU)]
        assert not result.skipped
        for contender in result.contenders:
            assert len(result.measurement.seconds[contender.name]) == 3
            assert result.peak_extra_bytes[contender.name] > 0


def test_a_cold_case_has_a_copy_in_its_rounds(monkeypatch):
    probe = CopyProbe(1 << 10)
    (warm, *_) = op_timing.run(tiny("gaussian_kl"), small.EFFORT, with_compile=False, probe=probe, log=print)
    assert not warm.cold and warm.copy_moved is None
    monkeypatch.setattr(op_timing, "last_level_cache_bytes", lambda device: 100)
    (cold, *_) = op_timing.run(tiny("gaussian_kl"), small.EFFORT, with_compile=False, probe=probe, log=print)
    assert cold.cold and cold.copy_moved == 2 << 10
    assert len(cold.measurement.seconds[op_timing.COPY]) == 3


def test_triton_is_not_measured_on_a_cpu_and_the_reference_only_alone(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(ops, "available_backends", lambda device: ["native", "triton", "reference"])
    assert compared_backends(cpu) == ["native"]
    assert compared_backends(cuda) == ["native", "triton"]
    monkeypatch.setattr(ops, "available_backends", lambda device: ["reference"])
    assert compared_backends(cpu) == ["reference"]


def test_a_compiler_that_fails_is_reported_once(monkeypatch):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler here\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    lines: list[str] = []
    results = list(op_timing.run(tiny("exp_elbo"), small.EFFORT, log=lines.append))
    assert lines == ["exp_elbo [11] float32: without torch.compile: RuntimeError: no compiler here"]
    for result in results:
        assert result.skipped == {
            op_timing.Contender("torch.compile", "call"): "RuntimeError: no compiler here",
        }


def test_a_variant_that_fails_in_one_mode_leaves_the_others_alone():
    def fails_backward(rec: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        return (rec + kl).sum().detach()

    runner = op_timing.CaseRunner(tiny("exp_elbo"), small.EFFORT, with_compile=False)
    runner._functions["native"] = fails_backward
    assert "native" in [contender.variant for contender in runner.run("forward").contenders]
    backward = runner.run("backward")
    assert backward.contenders[0].variant == "eager"
    assert [contender.variant for contender in backward.skipped] == ["native"]


def test_torch_compile_is_a_contender(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    (result, *_) = op_timing.run(tiny("exp_elbo"), small.EFFORT, log=pytest.fail)
    assert [contender.variant for contender in result.contenders][:2] == ["eager", "torch.compile"]


class TestLaunchesOnCuda:
    """Which contenders there are and how they are counted, with the device's own part replaced: no GPU is needed."""

    @pytest.fixture
    def runner(self, monkeypatch: pytest.MonkeyPatch) -> op_timing.CaseRunner:
        cpu, cuda = torch.device("cpu"), torch.device("cuda")
        real = {name: getattr(op_timing, name) for name in ("input_sets", "functions", "measure")}

        def on_the_cpu(name: str):
            return lambda case, device, *rest, **more: real[name](case, cpu, *rest, **more)

        def captured(make, device):
            calls = make()
            return lambda: [call() for call in calls]

        monkeypatch.setattr(op_timing, "input_sets", on_the_cpu("input_sets"))
        monkeypatch.setattr(op_timing, "functions", on_the_cpu("functions"))
        monkeypatch.setattr(op_timing, "measure", lambda calls, effort, device, repeats: real["measure"](
            calls, effort, device=cpu, repeats=repeats
        ))  # fmt: skip
        monkeypatch.setattr(op_timing, "last_level_cache_bytes", lambda device: 1 << 30)
        monkeypatch.setattr(op_timing, "peak_extra_bytes", lambda call, device: 5)
        monkeypatch.setattr(op_timing, "synchronize", lambda device: None)
        monkeypatch.setattr(op_timing, "_empty_kernel", lambda: None)
        monkeypatch.setattr(op_timing, "captured", captured)
        seed = torch.tensor([1])
        monkeypatch.setattr(ops, "draw_seed", lambda device, generator=None: seed)
        return op_timing.CaseRunner(tiny("reparameterize_kl"), small.EFFORT, device=cuda, with_compile=False)

    def test_each_variant_is_launched_one_by_one_and_as_a_graph(self, runner):
        result = runner.run("forward+backward")
        variants = [EAGER, *compared_backends(CPU)]
        assert [(c.variant, c.launch) for c in result.contenders] == [
            (variant, launch) for launch in ("stream", "graph") for variant in variants
        ]
        assert not result.skipped
        graph = op_timing.Contender("eager", "graph").name
        assert result.measurement.calls_per_sample[graph] % 16 == 0  # a replay goes once round the sets
        assert result.measurement.calls_per_sample[op_timing.EMPTY] % 16 == 0
        assert set(result.peak_extra_bytes) == {f"{variant}, stream" for variant in variants}

    def test_a_capture_that_fails_leaves_the_rest_alone(self, runner, monkeypatch):
        captured = op_timing.captured
        asked = []

        def fails_once(make, device):
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("operation not permitted when stream is capturing")
            return captured(make, device)

        monkeypatch.setattr(op_timing, "captured", fails_once)
        result = runner.run("forward")
        assert result.skipped == {
            op_timing.Contender("eager", "graph"): "RuntimeError: operation not permitted when stream is capturing"
        }
        assert op_timing.Contender("eager", "stream") in result.contenders
        assert any(contender.launch == "graph" for contender in result.contenders)
