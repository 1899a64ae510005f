"""The plan of `make gpu-check`, and how its stages fare; none of them needs the GPU here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import exercise, gpu_check
from benchmarks.gpu_check import Stage, groups, plan, run_stage
from sivae import ops

TESTS = ["tests", "tests-large", *(f"tests-triton-{part}" for part in range(8))]
NAMES = ["build", "machine", *TESTS, "memcheck", "racecheck", "suite", "report"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu_check", str(out), "--dry-run"]
    done = subprocess.run(command, cwd=gpu_check.ROOT, capture_output=True, text=True, check=True)
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
                path = gpu_check.ROOT / module.replace(".", "/")
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


class TestStages:
    def test_output_and_command_are_in_the_log(self, tmp_path):
        stage = Stage("hello", python("import os; print(os.environ['WORD'])"), 60, {"WORD": "moin"})
        outcome = run_stage(stage, tmp_path, 60)
        assert (outcome.stage, outcome.result, outcome.remark) == ("hello", "passed", "")
        log = (tmp_path / "hello.log").read_text()
        assert log.startswith("$ WORD=moin ") and log.endswith("\nmoin\n")

    def test_a_failure_says_its_last_word(self, tmp_path):
        outcome = run_stage(Stage("bad", python("print('first'); raise SystemExit('the reason')"), 60), tmp_path, 60)
        assert (outcome.result, outcome.remark) == ("failed", "the reason")

    def test_a_program_that_does_not_start_is_a_failure_of_its_stage_only(self, tmp_path):
        outcome = run_stage(Stage("none", [str(tmp_path / "no such program")], 60), tmp_path, 60)
        assert outcome.result == "failed"
        assert "no such program" in outcome.remark

    @pytest.mark.parametrize(("own", "left"), [(0.5, 60), (60, 0.5)])
    def test_one_that_takes_too_long_is_ended_with_what_it_started(self, tmp_path, own, left):
        child = "import time; time.sleep(60)"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        outcome = run_stage(Stage("slow", python(code), own), tmp_path, left)
        assert outcome.result == "too slow"
        assert outcome.seconds < 30

    def test_nothing_begins_when_no_time_is_left(self, tmp_path):
        outcome = run_stage(Stage("late", python("print('ran')"), 60), tmp_path, -1)
        assert outcome.result == "too slow"
        assert "ran" not in (tmp_path / "late.log").read_text()

    def test_a_tool_that_is_missing_is_no_failure(self, tmp_path):
        outcome = run_stage(Stage("tool", [], 60, missing="there is no tool"), tmp_path, 60)
        assert (outcome.result, outcome.remark) == ("left out", "there is no tool")

    def test_the_suite_is_told_what_time_it_has(self, tmp_path):
        stage = Stage("suite", [*python("import sys; print(sys.argv[1])"), gpu_check.MINUTES_LEFT], 400)
        run_stage(stage, tmp_path, 160)
        assert (tmp_path / "suite.log").read_text().splitlines()[-1] == "2.00"


def test_a_failure_does_not_stop_the_others_and_decides_the_exit_code(tmp_path, monkeypatch, capsys):
    stages = [
        Stage("build", python("raise SystemExit('no compiler')"), 60),
        Stage("machine", python("print('fine')"), 60),
        Stage("tests", [], 60, missing="no tool"),
    ]
    monkeypatch.setattr(gpu_check, "plan", lambda out: stages)
    assert gpu_check.main([str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [["build", "failed"], ["machine", "passed"], ["tests", "left"]]
    assert out[-1] == "failed: build"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["result"] for entry in summary] == ["failed", "passed", "left out"]
    assert gpu_check.main([str(tmp_path / "out"), "--only", "machine"]) == 0


def test_the_summary_of_the_report_is_printed(tmp_path, monkeypatch, capsys):
    page = "# Throughput\n\n## Forward and backward\n\n| op |\n\n## The rest\n\nlong\n"
    write = f"import pathlib; d = pathlib.Path(r'{tmp_path}', 'results', 'gpu'); d.mkdir(parents=True); "
    write += f"(d / 'report.md').write_text({page!r})"
    monkeypatch.setattr(gpu_check, "plan", lambda out: [Stage("report", python(write), 60)])
    assert gpu_check.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| op |" in out
    assert "long" not in out


def test_a_file_in_the_folder_s_place(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        gpu_check.main([str(taken)])
    assert stop.value.code == 2
    assert "name a folder" in capsys.readouterr().err


def test_the_exercise_runs_every_op_forward_and_backward(monkeypatch):
    backend = next(name for name in ops.available_backends() if name != "triton")  # not in its interpreter
    called: set[str] = set()
    for name in (
        "reparameterize",
        "gaussian_kl",
        "reparameterize_kl",
        "reconstruction_error",
        "exp_elbo",
        "philox_normal",
    ):
        real = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, name=name, real=real, **k: (called.add(name), real(*a, **k))[1])
    assert exercise.exercise(backend, torch.device("cpu")) > 100
    assert called == set(ops.__all__) & called and len(called) == 6


def test_the_gpu_s_tests_can_be_collected_and_are_not_among_the_usual_ones():
    """Also where neither tyro nor tensorboard is installed, as on many machines with a GPU."""
    script = (
        "import sys, pytest; sys.modules.update(dict.fromkeys(('tyro', 'tensorboard', 'ruff', 'mypy'))); "
        "sys.exit(pytest.main(['tests/gpu', '--collect-only', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    found = {}
    for marker in ("gpu", "not slow and not gpu"):
        command = [sys.executable, "-c", script, "-m", marker]
        done = subprocess.run(command, cwd=gpu_check.ROOT, capture_output=True, text=True, check=False)
        found[marker] = [line for line in done.stdout.splitlines() if "::" in line]
    for file in Path(gpu_check.ROOT, "tests", "gpu").glob("test_*.py"):
        assert any(f"gpu/{file.name}::" in line for line in found["gpu"]), file.name
    assert found["not slow and not gpu"] == []
