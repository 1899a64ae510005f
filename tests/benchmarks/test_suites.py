"""The contenders of a case compute the same thing, and every case can be measured. No time decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ops_suite, step_suite
from benchmarks.baselines.mlp_networks import PlainMLPVAE
from benchmarks.cases import DEFAULT_NAMES, MODES, NAMES, OPERATIONS, STEP, Case, cases
from benchmarks.measure import CopyProbe, Effort
from sivae import ops
from sivae.models import MLPVAE

TINY_EFFORT = Effort(rounds=3, sample_seconds=1e-4, warmup_calls=1, warmup_seconds=0.0)
TINY_SHAPES = {
    "reconstruction_error": (3, 2, 5, 7),
    "reparameterize_kl": (6, 2, 5),
    "reparameterize": (9, 2),
    "gaussian_kl": (6, 5),
    "exp_elbo": (11,),
    "styled_instance_norm": (2, 3, 4, 5),
    "styled_instance_norm_channels_last": (2, 3, 4, 5),
    "loss": (3, 2, 4, 4),
}
TINY = [Case(OPERATIONS[name], shape) for name, shape in TINY_SHAPES.items()]
TINY += [Case(OPERATIONS[name], TINY_SHAPES[name], "bfloat16") for name in ("reconstruction_error", "loss")]
RANDOM = ("reparameterize_kl", "reparameterize", "loss")  # z is drawn by each contender for itself


def tiny(name: str) -> Case:
    return next(case for case in TINY if case.operation.name == name)


def fused(case: Case, backend: str) -> ops_suite.Function:
    if backend not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[backend]["cpu"]))
    return case.operation.fused(backend, None)


def test_every_op_has_a_tiny_case_here():
    assert set(TINY_SHAPES) == set(OPERATIONS)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("case", [c for c in TINY if c.dtype == "float32"], ids=lambda c: c.name)
def test_same_values_and_gradients(case, backend):
    inputs = ops_suite.input_sets(case, most=1)[0]
    expected, _ = ops_suite.results_of(case.operation.eager, inputs)
    outputs, _ = ops_suite.results_of(fused(case, backend), inputs)
    start = 1 if case.operation.name in RANDOM else 0
    torch.testing.assert_close(outputs[start:], expected[start:])
    if start == 0:
        torch.testing.assert_close(
            ops_suite.forward_backward(fused(case, backend), inputs),
            ops_suite.forward_backward(case.operation.eager, inputs),
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
    inputs = ops_suite.input_sets(case, most=1)[0]
    (z, _), _ = ops_suite.results_of(function, inputs)
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
    first, second = ops_suite.input_sets(case, most=2)
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
    monkeypatch.setattr(ops_suite, "last_level_cache_bytes", lambda device: 10_000)
    case = Case(OPERATIONS["reparameterize_kl"], (16, 32))
    sets = ops_suite.input_sets(case)
    assert sum(inputs.nbytes for inputs in sets) >= 20_000
    seen = []
    calls = ops_suite.timed_calls(lambda mu, logvar: seen.append(mu.data_ptr()) or mu * 1.0, sets, "forward")
    call = ops_suite.in_turn(calls)
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

    (call,) = ops_suite.timed_calls(function, ops_suite.input_sets(case, most=1), "backward")
    first, second = call(), call()
    assert len(forwards) == 1
    assert [g.shape for g in first] == [leaf.shape for leaf in ops_suite.input_sets(case, most=1)[0].leaves]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_moved_bytes():
    """By hand: float32 has 4 bytes, bfloat16 2; see the table in `cases`."""
    image, latent = Case(OPERATIONS["reconstruction_error"], (2, 5)), Case(OPERATIONS["reparameterize_kl"], (2, 5))
    assert [image.moved_bytes(mode) for mode in MODES] == [80, 120, 200]
    assert [latent.moved_bytes(mode) for mode in MODES] == [120, 200, 320]
    half = Case(OPERATIONS["reconstruction_error"], (2, 5), "bfloat16")
    assert half.moved_bytes("forward") == 40
    loss = Case(OPERATIONS["loss"], (2, 5))
    assert loss.moved_bytes("forward+backward") == 4 * (5 * 10 + 8 * 2 * 512)


class TestCases:
    def test_those_promised_are_there(self):
        names = {case.name for case in cases()}
        for dtype in ("float32", "bfloat16"):
            for shape in ([512, 2], [32, 128], [32, 512], [4096, 512], [8, 4, 128, 128]):
                assert f"reparameterize_kl {shape} {dtype}" in names
            for shape in ([32, 3, 32, 32], [32, 3, 256, 256], [4, 3, 1024, 1024], [16, 3, 512, 512]):
                assert f"reconstruction_error {shape} {dtype}" in names
            assert f"loss [32, 3, 256, 256] {dtype}" in names
        assert {"exp_elbo [512] float32", "exp_elbo [32] float32"} <= names
        assert step_suite.CASE.batch == 512

    def test_large_ones_are_for_a_gpu(self):
        more = {case.name for case in cases(large=True)} - {case.name for case in cases()}
        assert "reparameterize_kl [65536, 512] float32" in more
        biggest = max(case.moved_bytes("forward") for case in cases(["reconstruction_error"], large=True))
        assert biggest >= 64 << 20

    def test_quick_ones_are_real_but_fewer(self):
        everything = {case.name for case in cases()}
        quick = [case.name for case in cases(quick=True)]
        assert quick and set(quick) < everything
        assert {case.operation.name for case in cases(quick=True)} == set(DEFAULT_NAMES) - {STEP}

    def test_a_choice_of_ops_and_dtypes(self):
        chosen = cases(["gaussian_kl", STEP], dtypes=["float16"])
        assert {case.operation.name for case in chosen} == {"gaussian_kl"}
        assert {case.dtype for case in chosen} == {"float16"}
        assert set(NAMES) > set(DEFAULT_NAMES)
        assert not cases(["exp_elbo"], dtypes=["bfloat16"])  # rec and kl come in float32


@pytest.mark.parametrize("case", TINY, ids=lambda c: c.name)
def test_every_mode_of_every_op_can_be_timed(case):
    results = list(ops_suite.run(case, effort=TINY_EFFORT, with_compile=False, log=pytest.fail))
    assert [result.mode for result in results] == list(MODES)
    for result in results:
        variants = [contender.variant for contender in result.contenders]
        assert variants == ["eager", *ops_suite.backends_for(torch.device("cpu"))]
        assert not result.skipped
        for contender in result.contenders:
            assert len(result.measurement.seconds[contender.name]) == 3
            assert result.peak_extra_bytes[contender.name] > 0


def test_a_cold_case_has_a_copy_in_its_rounds(monkeypatch):
    probe = CopyProbe(1 << 10)
    (warm, *_) = ops_suite.run(tiny("gaussian_kl"), effort=TINY_EFFORT, with_compile=False, probe=probe, log=print)
    assert not warm.cold and warm.copy_moved is None
    monkeypatch.setattr(ops_suite, "last_level_cache_bytes", lambda device: 100)
    (cold, *_) = ops_suite.run(tiny("gaussian_kl"), effort=TINY_EFFORT, with_compile=False, probe=probe, log=print)
    assert cold.cold and cold.copy_moved == 2 << 10
    assert len(cold.measurement.seconds[ops_suite.COPY]) == 3


def test_the_interpreter_takes_no_part_and_the_reference_only_alone(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(ops, "available_backends", lambda device: ["native", "triton", "reference"])
    assert ops_suite.backends_for(cpu) == ["native"]
    assert ops_suite.backends_for(cuda) == ["native", "triton"]
    monkeypatch.setattr(ops, "available_backends", lambda device: ["reference"])
    assert ops_suite.backends_for(cpu) == ["reference"]


def test_a_compiler_that_fails_is_reported_once(monkeypatch):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler here\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    told: list[str] = []
    results = list(ops_suite.run(tiny("exp_elbo"), effort=TINY_EFFORT, log=told.append))
    assert told == ["exp_elbo [11] float32: without torch.compile: RuntimeError: no compiler here"]
    for result in results:
        assert result.skipped == {
            ops_suite.Contender("torch.compile", "call"): "RuntimeError: no compiler here",
        }


def test_a_variant_that_fails_in_one_mode_leaves_the_others_alone():
    def fails_backward(rec: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        return (rec + kl).sum().detach()

    runner = ops_suite.CaseRunner(tiny("exp_elbo"), effort=TINY_EFFORT, with_compile=False)
    runner._functions["native"] = fails_backward
    assert "native" in [contender.variant for contender in runner.run("forward").contenders]
    backward = runner.run("backward")
    assert backward.contenders[0].variant == "eager"
    assert [contender.variant for contender in backward.skipped] == ["native"]


def test_compiled_contender_takes_part(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    (result, *_) = ops_suite.run(tiny("exp_elbo"), effort=TINY_EFFORT, log=pytest.fail)
    assert [contender.variant for contender in result.contenders][:2] == ["eager", "torch.compile"]


class TestStep:
    def test_contenders_start_alike_and_move_alike(self):
        """Same weights, same data, same optimizer's rule; only the noise differs, so the losses agree roughly."""
        case = step_suite.StepCase(batch=2048, hidden=16, layers=2)
        plain, shared = step_suite.plain_step(case), step_suite.shared_step(case)
        before = [parameter.detach().clone() for parameter in plain.model.parameters()]
        for one, other in zip(before, shared.model.parameters(), strict=True):
            assert torch.equal(one, other)
        torch.manual_seed(0)
        batch = step_suite.batches(case)[0]
        theirs, ours = plain(batch), shared(batch)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert ours[name].item() == pytest.approx(value, rel=0.1), name
        moved = [(a - b).abs().max().item() for a, b in zip(before, plain.model.parameters(), strict=True)]
        assert max(moved) == pytest.approx(step_suite.RATE, rel=0.05)  # Adam's first step

    def test_floor_counts_13_encoder_and_11_decoder_passes(self):
        case = step_suite.StepCase(batch=6, hidden=8, layers=3)
        model = step_suite.build_model(case, PlainMLPVAE)
        passes = {}
        for name, width, network in (("encoder", 2, model.encoder), ("decoder", 2, model.decoder)):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.randn(case.batch, width))
            passes[name] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            step_suite.MatrixProducts(case, model)()
        assert counter.get_total_flops() == 13 * passes["encoder"] + 11 * passes["decoder"]

    def test_steps_do_the_passes_that_the_floor_assumes(self):
        """Floating-point operations of the linear layers: 13 E + 19 D plain, 13 E + 11 D shared.

        Both steps leave out some input gradients of first layers; those layers are small against the hidden ones.
        """
        case = step_suite.StepCase(batch=4, hidden=64, layers=4)
        model = step_suite.build_model(case, PlainMLPVAE)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.decoder(torch.randn(case.batch, 2))
        one = counter.get_total_flops()
        batch = step_suite.batches(case)[0]
        for step, expected in ((step_suite.plain_step(case), 13 + 19), (step_suite.shared_step(case), 13 + 11)):
            with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
                step(batch)
            assert counter.get_total_flops() / one == pytest.approx(expected, rel=0.03)

    def test_the_baseline_runs_on_plain_modules(self):
        model = step_suite.plain_step(step_suite.CASE).model
        assert isinstance(model, PlainMLPVAE)
        modules = {type(module) for network in (model.encoder, model.decoder) for module in network.modules()}
        assert modules == {nn.Sequential, nn.Linear, nn.ReLU}

    @pytest.mark.parametrize("kind", [MLPVAE, PlainMLPVAE])
    def test_models_have_the_paper_shape(self, kind):
        model = step_suite.build_model(step_suite.CASE, kind)
        sizes = [tuple(layer.weight.shape) for layer in model.encoder if isinstance(layer, nn.Linear)]
        assert sizes == [(256, 2), (256, 256), (256, 256), (256, 256), (4, 256)]

    def test_variants(self):
        result = step_suite.run(case=step_suite.StepCase(batch=8, hidden=8, layers=2), effort=TINY_EFFORT)
        backends = ops_suite.backends_for(torch.device("cpu"))
        steps = dict.fromkeys([*backends, "reference"])
        assert result.variants == ("eager", step_suite.EAGER_FUSED_ADAM, *steps, step_suite.PRODUCTS)
        assert all(len(result.measurement.seconds[name]) == 3 for name in result.variants)
        assert all(result.peak_extra_bytes[name] > 0 for name in result.variants)


class TestLaunchesOnCuda:
    """Which contenders there are and how they are counted, with the device's own part replaced: no GPU is needed."""

    @pytest.fixture
    def runner(self, monkeypatch: pytest.MonkeyPatch) -> ops_suite.CaseRunner:
        cpu, cuda = torch.device("cpu"), torch.device("cuda")
        real = {name: getattr(ops_suite, name) for name in ("input_sets", "functions", "measure")}

        def on_the_cpu(name: str):
            return lambda case, device, *rest, **more: real[name](case, cpu, *rest, **more)

        def captured(make, device):
            calls = make()
            return lambda: [call() for call in calls]

        monkeypatch.setattr(ops_suite, "input_sets", on_the_cpu("input_sets"))
        monkeypatch.setattr(ops_suite, "functions", on_the_cpu("functions"))
        monkeypatch.setattr(ops_suite, "measure", lambda calls, effort, device, repeats: real["measure"](
            calls, effort, device=cpu, repeats=repeats
        ))  # fmt: skip
        monkeypatch.setattr(ops_suite, "last_level_cache_bytes", lambda device: 1 << 30)
        monkeypatch.setattr(ops_suite, "peak_extra_bytes", lambda call, device: 5)
        monkeypatch.setattr(ops_suite, "synchronize", lambda device: None)
        monkeypatch.setattr(ops_suite, "_empty_kernel", lambda: None)
        monkeypatch.setattr(ops_suite, "captured", captured)
        seed = torch.tensor([1])
        monkeypatch.setattr(ops, "draw_seed", lambda device, generator=None: seed)
        return ops_suite.CaseRunner(tiny("reparameterize_kl"), device=cuda, effort=TINY_EFFORT, with_compile=False)

    def test_each_variant_is_launched_one_by_one_and_as_a_graph(self, runner):
        result = runner.run("forward+backward")
        variants = [ops_suite.EAGER, *ops_suite.backends_for(torch.device("cpu"))]
        assert [(c.variant, c.launch) for c in result.contenders] == [
            (variant, launch) for launch in ("stream", "graph") for variant in variants
        ]
        assert not result.skipped
        graph = ops_suite.Contender("eager", "graph").name
        assert result.measurement.calls_per_sample[graph] % 16 == 0  # a replay goes once round the sets
        assert result.measurement.calls_per_sample[ops_suite.EMPTY] % 16 == 0
        assert set(result.peak_extra_bytes) == {f"{variant}, stream" for variant in variants}

    def test_a_capture_that_fails_leaves_the_rest_alone(self, runner, monkeypatch):
        captured = ops_suite.captured
        asked = []

        def fails_once(make, device):
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("operation not permitted when stream is capturing")
            return captured(make, device)

        monkeypatch.setattr(ops_suite, "captured", fails_once)
        result = runner.run("forward")
        assert result.skipped == {
            ops_suite.Contender("eager", "graph"): "RuntimeError: operation not permitted when stream is capturing"
        }
        assert ops_suite.Contender("eager", "stream") in result.contenders
        assert any(contender.launch == "graph" for contender in result.contenders)
