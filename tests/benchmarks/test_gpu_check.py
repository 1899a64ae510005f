"""The plan of `make gpu-check`, and what its stages run; none of it needs the GPU here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import exercise
from benchmarks.gpu_check import plan
from benchmarks.stages import ROOT, groups
from sivae import ops
from sivae.ops import library

TESTS = ["tests", "tests-large", *(f"tests-triton-{part}" for part in range(8))]
NAMES = ["build", "machine", *TESTS, "memcheck", "racecheck", "suite", "report"]


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu_check", str(out), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for word in ("compile_extension", "-m gpu tests/gpu", "SIVAE_TEST_PART=7/8", "--device cuda", str(out / "results")):
        assert word in done.stdout
    assert not out.exists()


def test_the_plan_uses_this_python_and_modules_that_are_there(tmp_path):
    stages = plan(tmp_path)
    assert [stage.name for stage in stages] == NAMES
    for stage in stages:
        assert stage.missing or sys.executable in stage.command
        for flag, module in zip(stage.command, list(stage.command)[1:], strict=False):
            if flag == "-m" and module.startswith("benchmarks"):
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_a_sanitizer_on_the_path_is_used(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    stages = {stage.name: stage for stage in plan(tmp_path)}
    for name in ("memcheck", "racecheck"):
        assert list(stages[name].command)[:3] == [str(tool), "--tool", name]


def test_only_what_measures_runs_alone(tmp_path):
    together = [[stage.name for stage in group] for group in groups(plan(tmp_path))]
    assert ["suite"] in together
    assert [*TESTS, "memcheck", "racecheck"] in together


def test_the_exercise_runs_every_op_forward_and_backward(monkeypatch):
    backend = next(name for name in ops.available_backends() if name != "triton")  # not in its interpreter
    called: set[str] = set()
    assert set(library.OP_NAMES) <= set(ops.__all__)
    for name in library.OP_NAMES:
        real = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, name=name, real=real, **k: (called.add(name), real(*a, **k))[1])
    assert exercise.exercise(backend, torch.device("cpu")) > 100
    assert called == set(library.OP_NAMES)


def test_the_gpu_s_tests_can_be_collected_and_are_not_among_the_usual_ones():
    """Also where tensorboard is not installed, as on many machines with a GPU."""
    script = (
        "import sys, pytest; sys.modules.update(dict.fromkeys(('tensorboard', 'ruff', 'mypy'))); "
        "sys.exit(pytest.main(['tests/gpu', '--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    found = {}
    for marker in ("gpu", "not slow and not gpu"):
        command = [sys.executable, "-c", script, "-m", marker]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found[marker] = [line for line in done.stdout.splitlines() if "::" in line]
    for file in Path(ROOT, "tests", "gpu").glob("test_*.py"):
        assert any(f"gpu/{file.name}::" in line for line in found["gpu"]), file.name
    assert found["not slow and not gpu"] == []
