"""`python -m benchmarks.gpu`: its options, its table of outcomes and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.gpu.command import PROGRAM, main, run
from benchmarks.gpu.plans import Plan
from benchmarks.gpu.stages import ROOT, Stage
from tests.benchmarks.gpu.test_stages import python


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("check", ["compile_extension", "-m gpu tests/gpu", "SIVAE_TEST_PART=7/8", "--device cuda", "out/results"]),
        ("speed", ["--no-compile --ops style_step", "profile --device cuda", "--sides 32 64", "out/results"]),
        ("train --data cifar.tar --minutes 8", ["timed_training first", "out/training", "cifar.tar --minutes 8"]),
    ],
)
def test_a_dry_run_prints_the_plan_and_does_nothing(words, expected, tmp_path, capsys):
    plan, *options = words.split()
    assert main([plan, str(tmp_path / "out"), "--dry-run", *options]) == 0
    printed = capsys.readouterr().out
    for text in expected:
        assert text in printed
    assert not (tmp_path / "out").exists()


def test_nothing_but_the_standard_library_is_needed(tmp_path):
    """`-I -S` hides every installed package, torch too."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.gpu.command import main; "
    script += "sys.exit(main(sys.argv[1:]))"
    words = ["train", str(tmp_path), "--data", "cifar.tar", "--dry-run"]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "build (at most" in done.stdout


def test_some_stages_can_be_chosen(tmp_path, capsys):
    assert main(["speed", str(tmp_path), "--dry-run", "--only", "report", "machine"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("machine (at most") < printed.index("report (at most") and printed.count("(at most") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name a plan: check, speed or train"),
        ("check", "name a folder for logs and results"),
        ("chek out", "invalid choice: 'chek'"),
        ("check taken", "taken is a file; name a folder"),
        ("check out --only biuld", "there is no stage 'biuld'; check has build, machine, tests,"),
        ("check out --minutes 3", "--minutes is an option of train, not of check"),
        ("train out", "train needs --data PATH"),
        ("train out --data cifar.tar --minutes 0", "'0' is not a number above 0"),
    ],
)
def test_a_mistake_is_named_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    assert main(words.split()) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith(f"{PROGRAM}: ") and error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_stage_that_fails_does_not_stop_the_others_and_decides_the_exit_code(tmp_path, capsys):
    stages = [
        Stage("build", python("raise SystemExit('no compiler')"), 60),
        Stage("machine", python("print('fine')"), 60),
        Stage("tests", [], 60, missing="no tool"),
    ]
    plan = Plan(stages, minutes=5.0)
    assert run(plan, tmp_path / "out") == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [["build", "failed"], ["machine", "passed"], ["tests", "left"]]
    assert out[-1] == "failed: build"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["result"] for entry in summary] == ["failed", "passed", "left out"]
    assert run(plan.only(["machine"]), tmp_path / "out") == 0


@pytest.mark.parametrize("page", ["| op |\n", "# Throughput\n\n## Forward and backward\n\n| op |\n\n## Rest\n\nlong\n"])
def test_pages_are_printed_up_to_their_second_section(page, tmp_path, capsys):
    write = f"import pathlib; d = pathlib.Path(r'{tmp_path}', 'results', 'gpu'); d.mkdir(parents=True); "
    write += f"(d / 'report.md').write_text({page!r})"
    assert run(Plan([Stage("report", python(write), 60)], minutes=5.0), tmp_path) == 0
    out = capsys.readouterr().out
    assert "| op |" in out
    assert "long" not in out
