"""Stages: how each can end, its log, and its share of the time."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks.gpu.stages import MINUTES_LEFT, Stage, perform, run_stage


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_log_holds_the_command_and_its_output(tmp_path):
    stage = Stage("hello", python("import os; print(os.environ['WORD'])"), 60, {"WORD": "moin"})
    outcome = run_stage(stage, tmp_path, 60)
    assert (outcome.stage, outcome.result, outcome.remark) == ("hello", "passed", "")
    log = (tmp_path / "hello.log").read_text()
    assert log.startswith("$ WORD=moin ") and log.endswith("\nmoin\n")


def test_a_failure_has_the_last_line_of_the_log_as_its_reason(tmp_path):
    outcome = run_stage(Stage("bad", python("print('first'); raise SystemExit('the reason')"), 60), tmp_path, 60)
    assert (outcome.result, outcome.remark) == ("failed", "the reason")


def test_a_program_that_does_not_start_is_a_failure(tmp_path):
    outcome = run_stage(Stage("none", [str(tmp_path / "no such program")], 60), tmp_path, 60)
    assert outcome.result == "failed"
    assert "no such program" in outcome.remark


@pytest.mark.parametrize(("own", "left"), [(0.5, 60), (60, 0.5)])
def test_a_stage_that_takes_too_long_is_killed_with_its_children(tmp_path, own, left):
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = run_stage(Stage("slow", python(code), own), tmp_path, left)
    assert outcome.result == "too slow"
    assert outcome.seconds < 30


def test_nothing_starts_when_no_time_is_left(tmp_path):
    outcome = run_stage(Stage("late", python("print('ran')"), 60), tmp_path, -1)
    assert outcome.result == "too slow"
    assert "ran" not in (tmp_path / "late.log").read_text()


def test_nothing_starts_with_less_time_than_it_needs(tmp_path):
    outcome = run_stage(Stage("long", python("print('ran')"), 600, least=100), tmp_path, 50)
    assert (outcome.result, outcome.remark) == ("too slow", "50 s were left")


def test_a_stage_leaves_the_time_that_later_ones_reserve(tmp_path):
    stages = [
        Stage("slow", python("import time; time.sleep(60)"), 60),
        Stage("report", python("print('written')"), 60, reserved=30),
    ]
    begin = time.monotonic()
    slow, report = perform(stages, tmp_path, 31 / 60)
    assert (slow.result, report.result) == ("too slow", "passed")
    assert time.monotonic() - begin < 30


def test_a_tool_that_is_missing_is_no_failure(tmp_path):
    outcome = run_stage(Stage("tool", [], 60, missing="there is no tool"), tmp_path, 60)
    assert (outcome.result, outcome.remark) == ("left out", "there is no tool")


def test_the_minutes_left_are_put_into_the_command(tmp_path):
    stage = Stage("suite", [*python("import sys; print(sys.argv[1])"), MINUTES_LEFT], 400)
    run_stage(stage, tmp_path, 160)
    assert (tmp_path / "suite.log").read_text().splitlines()[-1] == "2.00"
