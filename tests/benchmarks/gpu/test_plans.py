"""The plans of `check`, `speed` and `train`: which stages they have, what these run, and what their times allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import plans
from benchmarks.gpu.plans import Plan
from benchmarks.gpu.stages import MINUTES_LEFT, ROOT, groups
from benchmarks.iterations import conv, style
from benchmarks.options import parse

TESTS = ["tests", "tests-large", *(f"tests-triton-{part}" for part in range(8))]
STAGES = {
    "check": [*TESTS, "memcheck", "racecheck", "throughput", "report"],
    "speed": ["style", "conv", "profile", "compiled", "report"],
    "train": ["first", "second"],
}


@pytest.fixture
def every(tmp_path: Path) -> dict[str, Plan]:
    return {
        "check": plans.check(tmp_path),
        "speed": plans.speed(tmp_path),
        "train": plans.train(tmp_path, "cifar.tar", minutes=6.0),
    }


def test_each_builds_first_and_then_runs_its_stages(every):
    for name, plan in every.items():
        assert [stage.name for stage in plan.stages] == ["build", "machine", *STAGES[name]]


def test_all_commands_use_this_python_and_modules_that_exist(every):
    for stage in (stage for plan in every.values() for stage in plan.stages):
        assert stage.missing or sys.executable in stage.command
        for flag, module in zip(stage.command, list(stage.command)[1:], strict=False):
            if flag == "-m" and module.startswith("benchmarks"):
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_a_stage_that_measures_runs_alone(every):
    together = [[stage.name for stage in group] for plan in every.values() for group in groups(plan.stages)]
    assert [group for group in together if len(group) > 1] == [[*TESTS, "memcheck", "racecheck"]]


def test_the_benchmarks_understand_the_options_of_their_stages(every):
    commands = [stage.command for plan in every.values() for stage in plan.stages]
    ours = [command for command in commands if list(command[1:3]) == ["-m", "benchmarks"]]
    assert len(ours) == 7
    for command in ours:
        options = parse(["1" if word == MINUTES_LEFT else word for word in command[3:]], "bench")
        assert options.verb == "report" or options.device == "cuda"


def test_a_sanitizer_on_the_path_is_used(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    stages = {stage.name: stage for stage in plans.check(tmp_path).stages}
    for name in ("memcheck", "racecheck"):
        assert list(stages[name].command)[:3] == [str(tool), "--tool", name]


def test_the_sides_to_compile_and_to_profile_are_measured_on_a_gpu():
    sides = {case.side for module in (conv, style) for case in module.CASES["cuda"]}
    assert {int(side) for side in (*plans.COMPILED_SIDES, *plans.PROFILED_SIDES)} <= sides


def test_there_is_always_time_for_the_report(every):
    speed = {stage.name: stage for stage in every["speed"].stages}
    assert speed["report"].reserved >= speed["report"].seconds
    assert speed["compiled"].least > 60  # compiling alone takes that long


def test_both_processes_of_a_training_have_half_of_the_minutes_and_the_same_folder(every, tmp_path):
    first, second = every["train"].stages[2:]
    assert first.seconds == second.seconds > 3 * 60
    assert list(first.command[3:]) == ["first", str(tmp_path / "training"), "--data", "cifar.tar", "--minutes", "6"]
    assert list(second.command[3:]) == ["second", str(tmp_path / "training")]


def test_all_tests_for_a_gpu_are_found_and_marked():
    """Also where tensorboard is not installed, as on many machines with a GPU."""
    script = (
        "import sys, pytest\n"
        "sys.modules.update(dict.fromkeys(('tensorboard', 'ruff', 'mypy')))\n"
        "class Collected:\n"
        "    def pytest_collection_finish(self, session):\n"
        "        print('files:', *{item.path.name for item in session.items})\n"
        "options = ['tests/gpu', '--collect-only', '-q', '-p', 'no:cacheprovider', '-m', 'gpu']\n"
        "sys.exit(pytest.main(options, [Collected()]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("files: ")]
    assert set(line.split()[1:]) == {path.name for path in Path(ROOT, "tests", "gpu").glob("test_*.py")}
    assert "deselected" not in done.stdout  # all of them are marked
