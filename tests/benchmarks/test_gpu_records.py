"""The plans of `make gpu-speed` and `make gpu-train`; the stages that need no GPU are run."""

from __future__ import annotations

import sys

import pytest

from benchmarks import gpu_speed, gpu_train, image_step_suite, style_step_suite
from benchmarks.options import parse
from benchmarks.stages import groups


@pytest.mark.parametrize("stages", ["speed", "train"])
def test_every_stage_runs_alone_and_by_this_python(stages, tmp_path):
    planned = gpu_speed.plan(tmp_path) if stages == "speed" else gpu_train.plan(tmp_path, "cifar.tar")
    assert [stage.name for stage in planned][:2] == ["build", "machine"]
    assert all(len(group) == 1 for group in groups(planned))
    assert all(stage.command[0] == sys.executable for stage in planned)


def test_the_suite_understands_its_options(tmp_path):
    commands = [stage.command for stage in gpu_speed.plan(tmp_path) if list(stage.command[1:3]) == ["-m", "benchmarks"]]
    assert len(commands) == 5
    for command in commands:
        words = ["1" if word == gpu_speed.MINUTES_LEFT else word for word in command[3:]]
        options = parse(words, "bench")
        assert options.verb == "report" or options.device == "cuda"


def test_both_processes_have_half_of_the_minutes_and_the_same_folder(tmp_path):
    first, second = gpu_train.plan(tmp_path, "cifar.tar", minutes=6.0)[2:]
    assert first.seconds == second.seconds > 3 * 60
    assert list(first.command[3:]) == ["first", str(tmp_path / "training"), "--data", "cifar.tar", "--minutes", "6"]
    assert list(second.command[3:]) == ["second", str(tmp_path / "training")]


def test_the_sides_are_there_on_a_gpu():
    sides = {case.side for suite in (image_step_suite, style_step_suite) for case in suite.CUDA_CASES}
    assert {int(side) for side in (*gpu_speed.COMPILED_SIDES, *gpu_speed.PROFILED_SIDES)} <= sides


def test_a_report_is_written_however_long_the_others_take(tmp_path):
    speed = {stage.name: stage for stage in gpu_speed.plan(tmp_path)}
    assert speed["report"].reserved >= speed["report"].seconds
    assert speed["compiled"].least > 60  # compiling alone takes that long


def test_a_dry_run_needs_no_gpu(tmp_path, capsys):
    assert gpu_speed.main([str(tmp_path / "out"), "--dry-run"]) == 0
    assert gpu_train.main([str(tmp_path / "out"), "--data", "cifar.tar", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "--no-compile" in printed and "timed_training first" in printed
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        gpu_train.main([str(tmp_path / "out"), "--dry-run"])
    assert "--data" in capsys.readouterr().err
