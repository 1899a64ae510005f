"""The contenders of a case compute the same thing, and the suites run from end to end. No time decides."""

from __future__ import annotations

import builtins
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__, ops_suite, report, step_suite
from benchmarks.measure import QUICK
from sivae import ops

TINY = [
    ops_suite.OpCase("reconstruction_error", (3, 2, 5, 7)),
    ops_suite.OpCase("reparameterize_kl", (6, 5)),
    ops_suite.OpCase("reparameterize_kl", (9, 2)),
    ops_suite.OpCase("exp_elbo", (11,)),
]
BACKENDS = ["reference", "native"]


def contender(case: ops_suite.OpCase, backend: str) -> ops_suite.Function:
    if backend not in ops.available_backends():
        pytest.skip(str(ops.backend_status()[backend]["cpu"]))
    return ops_suite.functions(case)[backend]


def evaluate(case: ops_suite.OpCase, function: ops_suite.Function):
    inputs = ops_suite.input_sets(case)[0]
    outputs = function(*inputs.arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return inputs, outputs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in TINY if case.operation != "reparameterize_kl"], ids=lambda c: c.name)
def test_same_values_and_gradients(case, backend):
    _, expected = evaluate(case, ops_suite.functions(case)[ops_suite.EAGER])
    inputs, outputs = evaluate(case, contender(case, backend))
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(
        ops_suite.forward_backward(contender(case, backend), inputs),
        ops_suite.forward_backward(ops_suite.functions(case)[ops_suite.EAGER], inputs),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in TINY if case.operation == "reparameterize_kl"], ids=lambda c: c.name)
def test_same_kl_and_kl_gradients(case, backend):
    """z is drawn by each contender for itself."""
    results = []
    for function in (ops_suite.functions(case)[ops_suite.EAGER], contender(case, backend)):
        inputs, (z, kl) = evaluate(case, function)
        assert z.shape == inputs.leaves[0].shape
        results.append((kl, *torch.autograd.grad(kl, inputs.leaves, inputs.upstream[1])))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", [ops_suite.EAGER, *BACKENDS])
def test_latent_contenders_sample_the_posterior(name):
    case = ops_suite.OpCase("reparameterize_kl", (400, 50))
    function = ops_suite.functions(case)[name] if name == ops_suite.EAGER else contender(case, name)
    torch.manual_seed(0)
    inputs, (z, _) = evaluate(case, function)
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
    inputs = ops_suite.input_sets(case)[0]
    for tensor in (*inputs.arguments, *inputs.upstream):
        assert tensor.dtype is torch.float32
        assert tensor.count_nonzero() == tensor.numel()
    assert [tensor.requires_grad for tensor in inputs.arguments] == [
        any(tensor is leaf for leaf in inputs.leaves) for tensor in inputs.arguments
    ]
    assert len(inputs.leaves) == (1 if case.operation == "reconstruction_error" else 2)


def test_cold_cases_rotate_more_than_the_cache(monkeypatch):
    monkeypatch.setattr(ops_suite, "last_level_cache_bytes", lambda: 10_000)
    case = ops_suite.OpCase("reparameterize_kl", (16, 32), cold=True)
    sets = ops_suite.input_sets(case)
    assert sum(inputs.nbytes for inputs in sets) >= 20_000
    seen = []
    call = ops_suite.timed_call(lambda mu, logvar: seen.append(mu.data_ptr()) or (mu * 1.0, logvar.sum(1)), sets)
    for _ in range(2 * len(sets)):
        call()
    assert seen == [inputs.arguments[0].data_ptr() for inputs in sets] * 2


def test_cases_are_those_promised():
    assert {case.name for case in ops_suite.CASES} >= {
        "reconstruction_error [32, 3, 256, 256]",
        "reconstruction_error [4, 3, 1024, 1024]",
        "reparameterize_kl [4096, 512]",
        "reparameterize_kl [32, 512]",
        "reparameterize_kl [512, 2]",
        "exp_elbo [32]",
        "exp_elbo [4096]",
    }
    assert step_suite.CASE.batch == 512


def test_a_compiler_that_fails_is_reported(monkeypatch):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no compiler here\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    result = ops_suite.run_case(TINY[-1], effort=QUICK)
    assert result.skipped[ops_suite.COMPILED] == "RuntimeError: no compiler here"
    assert ops_suite.COMPILED not in result.contenders


def test_compiled_contender_takes_part(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    result = ops_suite.run_case(TINY[-1], effort=QUICK)
    assert result.contenders[:2] == (ops_suite.EAGER, ops_suite.COMPILED)


def test_step_contenders_start_alike_and_move_alike():
    """Same weights, same data, same optimiser's rule; only the noise differs, so the losses agree roughly."""
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


def test_floor_counts_13_encoder_and_11_decoder_passes():
    case = step_suite.StepCase(batch=6, hidden=8, layers=3)
    model = step_suite.build_model(case)
    passes = {}
    for name, width, network in (("encoder", 2, model.encoder), ("decoder", model.z_dim, model.decoder)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(case.batch, width))
        passes[name] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        step_suite.MatrixProducts(case, model)()
    assert counter.get_total_flops() == 13 * passes["encoder"] + 11 * passes["decoder"]


def test_steps_do_the_passes_that_the_floor_assumes():
    """Floating-point operations of the linear layers: 13 E + 19 D plain, 13 E + 11 D shared.

    Both steps leave out some input gradients of first layers; those layers are small against the hidden ones.
    """
    case = step_suite.StepCase(batch=4, hidden=64, layers=4)
    model = step_suite.build_model(case)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.decoder(torch.randn(case.batch, 2))
    one = counter.get_total_flops()
    batch = step_suite.batches(case)[0]
    for step, expected in ((step_suite.plain_step(case), 13 + 19), (step_suite.shared_step(case), 13 + 11)):
        with ops.use_backend("reference"), FlopCounterMode(display=False) as counter:
            step(batch)
        assert counter.get_total_flops() / one == pytest.approx(expected, rel=0.03)


def test_step_suite_models_have_the_paper_shape():
    model = step_suite.build_model(step_suite.CASE)
    sizes = [tuple(layer.weight.shape) for layer in model.encoder if isinstance(layer, nn.Linear)]
    assert sizes == [(256, 2), (256, 256), (256, 256), (256, 256), (4, 256)]


@pytest.mark.parametrize("suite", ["ops", "step", "all"])
def test_quick_run_writes_json_and_markdown(suite, tmp_path, capsys):
    before = torch.get_num_threads()
    json_file, page_file = tmp_path / "new" / "speed.json", tmp_path / "new" / "speed.md"
    __main__.main([suite, "--quick", "--threads", "1", "--json", str(json_file), "--markdown", str(page_file)])
    assert torch.get_num_threads() == before

    found = json.loads(json_file.read_text(encoding="utf-8"))
    environment = found["environment"]
    assert environment["quick"] is True and environment["threads"] == 1 and environment["device"]
    assert set(environment["versions"]) == {"sivae", "torch", "python"}
    assert {"commit", "date"} <= set(environment)
    assert set(found["bytes_per_second"]) == {"copy", "read"}
    suites = {"ops": {"ops"}, "step": {"step"}, "all": {"ops", "step"}}[suite]
    assert {case["suite"] for case in found["cases"]} == suites
    for case in found["cases"]:
        assert case["dtype"] == "float32" and case["shapes"]
        for name, contender_ in case["contenders"].items():
            assert contender_["seconds"]["q10"] <= contender_["seconds"]["median"] <= contender_["seconds"]["q90"]
            assert set(contender_["time_over"]) == set(case["contenders"]) - {name}
            probes = set() if case["minimum_bytes"] is None else {"copy", "read"}
            assert set(contender_["share_of_memory_speed"]) == probes

    page = page_file.read_text(encoding="utf-8")
    assert all(case["case"] in page for case in found["cases"])
    assert "say nothing about speed" in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    printed = capsys.readouterr()
    assert all(case["case"] in printed.out for case in found["cases"])
    assert "memory" in printed.err and "memory" not in printed.out


def test_tables_without_rich(monkeypatch):
    real_import = builtins.__import__

    def without_rich(name, *arguments, **keywords):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    result = ops_suite.run_case(TINY[-1], effort=QUICK, with_compile=False)
    monkeypatch.setattr(builtins, "__import__", without_rich)
    stream = io.StringIO()
    report.print_tables([result], stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == result.name
    assert [line.split()[0] for line in lines[2:4]] == list(result.contenders[:2])


@pytest.mark.parametrize("wrong", [["nothing"], ["--threads", "0"], ["--rounds", "-1"]])
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(wrong)
    assert stop.value.code == 2
    assert wrong[-1] in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(2.5e-6, "2.5 µs"), (1.234e-3, "1.23 ms"), (2.0, "2 s")])
def test_format_seconds(seconds, text):
    assert report.format_seconds(seconds) == text


def test_benchmarks_import_no_more_than_torch_and_sivae_itself():
    """The suite has to run where nothing but torch is installed; rich is asked for when the table is printed."""
    script = (
        "import sys; sys.modules.update({name: None for name in "
        "('rich', 'numpy', 'scipy', 'sklearn', 'tyro', 'matplotlib', 'PIL', 'safetensors', 'tensorboard')}); "
        "from benchmarks.__main__ import main; main(['--quick'])"
    )
    root = Path(report.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "exp_elbo" in done.stdout
