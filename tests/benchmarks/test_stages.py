"""Stages: how each fares, that one does not stop the others, and the command line around them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import pytest

from benchmarks.stages import MINUTES_LEFT, Stage, perform, perform_plan, run_stage, show_reports


def perform_by_words(stages: Sequence[Stage], *arguments: str) -> int:
    return perform_plan(argparse.ArgumentParser(), lambda out, _: stages, lambda _: 5.0, arguments, show_reports)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


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

    def test_nothing_begins_with_less_than_it_needs(self, tmp_path):
        outcome = run_stage(Stage("long", python("print('ran')"), 600, least=100), tmp_path, 50)
        assert (outcome.result, outcome.remark) == ("too slow", "50 s were left")

    def test_those_before_leave_time_to_those_after(self, tmp_path):
        stages = [
            Stage("slow", python("import time; time.sleep(60)"), 60),
            Stage("report", python("print('written')"), 60, reserved=30),
        ]
        begin = time.monotonic()
        slow, report = perform(stages, tmp_path, 31 / 60)
        assert (slow.result, report.result) == ("too slow", "passed")
        assert time.monotonic() - begin < 30

    def test_a_tool_that_is_missing_is_no_failure(self, tmp_path):
        outcome = run_stage(Stage("tool", [], 60, missing="there is no tool"), tmp_path, 60)
        assert (outcome.result, outcome.remark) == ("left out", "there is no tool")

    def test_the_suite_is_told_what_time_it_has(self, tmp_path):
        stage = Stage("suite", [*python("import sys; print(sys.argv[1])"), MINUTES_LEFT], 400)
        run_stage(stage, tmp_path, 160)
        assert (tmp_path / "suite.log").read_text().splitlines()[-1] == "2.00"


def test_a_failure_does_not_stop_the_others_and_decides_the_exit_code(tmp_path, capsys):
    stages = [
        Stage("build", python("raise SystemExit('no compiler')"), 60),
        Stage("machine", python("print('fine')"), 60),
        Stage("tests", [], 60, missing="no tool"),
    ]
    assert perform_by_words(stages, str(tmp_path / "out")) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [["build", "failed"], ["machine", "passed"], ["tests", "left"]]
    assert out[-1] == "failed: build"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["result"] for entry in summary] == ["failed", "passed", "left out"]
    assert perform_by_words(stages, str(tmp_path / "out"), "--only", "machine") == 0


def test_the_summary_of_the_report_is_printed(tmp_path, capsys):
    page = "# Throughput\n\n## Forward and backward\n\n| op |\n\n## The rest\n\nlong\n"
    write = f"import pathlib; d = pathlib.Path(r'{tmp_path}', 'results', 'gpu'); d.mkdir(parents=True); "
    write += f"(d / 'report.md').write_text({page!r})"
    assert perform_by_words([Stage("report", python(write), 60)], str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "| op |" in out
    assert "long" not in out


def test_a_file_in_the_folder_s_place(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        perform_by_words([], str(taken))
    assert stop.value.code == 2
    assert "name a folder" in capsys.readouterr().err


def test_a_stage_that_is_not_in_the_plan(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        perform_by_words([Stage("build", python("pass"), 60)], str(tmp_path), "--only", "biuld")
    assert stop.value.code == 2
    assert "there is no stage 'biuld'; there are build" in capsys.readouterr().err
