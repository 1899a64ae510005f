"""Rows: their fields, and that none is lost once written."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks import environment
from benchmarks.iterations.base import IterationResult
from benchmarks.iterations.points import CASE
from benchmarks.op_cases import OPERATIONS, Case
from benchmarks.op_timing import COPY, EMPTY, Contender, GroupResult
from benchmarks.rows import RowFile, group_rows, iteration_rows, newest, read_rows, spread_of
from benchmarks.timing import Measurement, Spread
from sivae.errors import ConfigError
from tests.benchmarks.small import FACTS

COPY_SPEED = Spread(100.0, 90.0, 110.0)  # bytes per second


def group(*, cold: bool = False) -> GroupResult:
    """A case that moves 40 bytes: eager takes 4 s, native 1 s, in every round; a copy moves 80 bytes in 1 s."""
    eager, native, compiled = (Contender(name, "call") for name in ("eager", "native", "torch.compile"))
    seconds = {eager.name: [4.0, 8.0, 2.0], native.name: [1.0, 2.0, 0.5]} | ({COPY: [1.0, 2.0, 0.5]} if cold else {})
    return GroupResult(
        case=Case(OPERATIONS["gaussian_kl"], (1, 5)),
        mode="forward",
        contenders=(eager, native),
        measurement=Measurement(seconds, dict.fromkeys(seconds, 1)),
        peak_extra_bytes={eager.name: 24, native.name: 4},
        copy_moved=80 if cold else None,
        input_bytes=1000,
        cold=cold,
        skipped={compiled: "RuntimeError: no compiler"},
    )


def test_fields_of_a_row():
    eager, native, compiled = group_rows(group(), FACTS, COPY_SPEED)
    assert (native["op"], native["shape"], native["dtype"], native["mode"]) == (
        "gaussian_kl",
        [1, 5],
        "float32",
        "forward",
    )
    assert native["group"] == "gaussian_kl [1, 5] float32 forward"
    assert (native["variant"], native["launch"], native["rounds"]) == ("native", "call", 3)
    assert (native["seconds"], native["seconds_q1"], native["seconds_q3"]) == (1.0, 0.75, 1.5)
    assert (native["bytes"], native["bytes_per_second"], native["peak_extra_bytes"]) == (40, 40.0, 4)
    assert spread_of(native, "speedup_over_eager") == Spread(4.0, 4.0, 4.0)
    assert spread_of(eager, "speedup_over_eager") is None
    assert spread_of(native, "speedup_over_compile") is None
    assert compiled["skipped"] == "RuntimeError: no compiler" and compiled["seconds"] is None
    for key in ("device", "commit", "torch", "sivae", "python", "run", "quick", "threads", "command"):
        assert native[key] == FACTS[key]
    assert set(eager) == set(native) == set(compiled)  # one schema
    json.dumps([eager, native, compiled], allow_nan=False)


def test_the_copy_speed_is_that_of_the_same_rounds_if_they_have_a_copy():
    _, native, _ = group_rows(group(cold=True), FACTS, COPY_SPEED)
    assert spread_of(native, "share_of_copy") == Spread(0.5, 0.5, 0.5)  # 40 of 80 bytes in the same time
    assert native["copy_bytes_per_second"] == 80.0 and native["copy_in_rounds"] is True
    _, native, _ = group_rows(group(), FACTS, COPY_SPEED)
    assert native["share_of_copy"] == 0.4  # 40 of 100 bytes per second
    assert native["copy_bytes_per_second"] == 100.0 and native["copy_in_rounds"] is False


def test_graphs_are_compared_with_graphs_and_with_an_empty_one():
    names = [Contender(variant, launch) for launch in ("stream", "graph") for variant in ("eager", "triton")]
    times = dict(zip([name.name for name in names], ([9.0], [3.0], [4.0], [2.0]), strict=True)) | {EMPTY: [1.6]}
    result = GroupResult(
        Case(OPERATIONS["exp_elbo"], (32,)),
        "forward",
        names,
        Measurement(times, dict.fromkeys(times, 1)),
        {},
        None,
        1,
        False,
    )
    rows = {(row["variant"], row["launch"]): row for row in group_rows(result, FACTS, COPY_SPEED)}
    assert rows["triton", "stream"]["speedup_over_eager"] == 3.0
    assert rows["triton", "graph"]["speedup_over_eager"] == 2.0
    assert rows["triton", "graph"]["time_over_empty_graph"] == 1.25
    assert rows["triton", "stream"]["time_over_empty_graph"] is None


def test_rows_of_an_iteration_have_iterations_and_the_same_schema():
    measurement = Measurement({"eager": [0.5], "native": [0.25]}, {"eager": 1, "native": 1})
    result = IterationResult(CASE, ("eager", "native"), measurement, {"eager": 10, "native": None})
    eager, native = iteration_rows(result, FACTS)
    assert (eager["iterations_per_second"], native["iterations_per_second"]) == (2.0, 4.0)
    assert native["speedup_over_eager"] == 2.0 and eager["speedup_over_eager"] is None
    assert (eager["peak_extra_bytes"], native["peak_extra_bytes"]) == (10, None)
    assert set(native) == set(group_rows(group(), FACTS, COPY_SPEED)[0])


class TestRowFile:
    def test_its_name_is_the_device_the_date_and_the_commit(self, tmp_path):
        facts = {"run": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef0123"}
        assert RowFile(tmp_path, "gpu", facts).path == tmp_path / "gpu" / "2026-01-02-0123456789ab.jsonl"
        changed = RowFile(tmp_path, "gpu", facts | {"commit": facts["commit"] + "+changes"}).path
        assert changed.name == "2026-01-02-0123456789ab-changes.jsonl"
        assert RowFile(tmp_path, "gpu", facts | {"commit": None}).path.name == "2026-01-02-no-commit.jsonl"

    def test_rows_are_appended_run_after_run(self, tmp_path):
        for value in range(3):
            RowFile(tmp_path, "cpu", FACTS).append([{"schema": 1, "value": value}, {"schema": 1, "value": -value}])
        rows, complaints = read_rows(tmp_path / "cpu")
        assert [row["value"] for row in rows] == [0, 0, 1, -1, 2, -2]
        assert not complaints

    def test_an_unfinished_line_does_not_join_the_next_one(self, tmp_path):
        file = RowFile(tmp_path, "cpu", FACTS)
        file.append([{"schema": 1, "value": 1}])
        with file.path.open("a") as broken:
            broken.write('{"schema": 1, "val')
        file.append([{"schema": 1, "value": 2}])
        rows, complaints = read_rows(tmp_path / "cpu")
        assert [row["value"] for row in rows] == [1, 2]
        assert complaints == [f"{file.path}, line 2: not a row of schema 1; left out"]

    def test_rows_of_another_schema_are_left_out(self, tmp_path):
        file = RowFile(tmp_path, "cpu", FACTS)
        file.append([{"schema": 0}, {}, {"schema": 1, "value": 1}, {"schema": [1]}])
        with file.path.open("a") as broken:
            broken.write("[" * 10_000 + "\n[1]\n")
        rows, complaints = read_rows(tmp_path / "cpu")
        assert len(rows) == 1 and len(complaints) == 5

    def test_nan_is_refused_before_anything_is_written(self, tmp_path):
        file = RowFile(tmp_path, "cpu", FACTS)
        with pytest.raises(ValueError, match="JSON"):
            file.append([{"value": 1.0}, {"value": float("nan")}])
        assert not file.path.exists()

    @pytest.mark.parametrize("inside", ["", "below"])
    def test_a_file_instead_of_the_folder(self, tmp_path, inside):
        taken = tmp_path / "taken"
        taken.write_text("mine")
        with pytest.raises(ConfigError, match="name a folder for the results"):
            RowFile(taken / inside, "cpu", FACTS)
        assert taken.read_text() == "mine"


def test_the_newest_row_is_taken_and_a_quick_one_only_if_there_is_no_other():
    def row(run: str, quick: bool, variant: str = "native") -> dict[str, Any]:
        return {"group": "g", "variant": variant, "launch": "call", "run": run, "quick": quick}

    old, new, quick = row("2026-01-01", False), row("2026-01-02", False), row("2026-01-03", True)
    assert newest([new, quick, old]) == [new]
    other = row("2026-01-03", True, variant="triton")
    assert newest([quick, old, other]) == [old, other]


class TestEnvironment:
    def test_the_commit_of_a_copy_without_git_comes_from_a_variable(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("SIVAE_COMMIT", "abc")
        assert environment.git_commit() == "abc"
        monkeypatch.delenv("SIVAE_COMMIT")
        assert environment.git_commit() is None

    def test_a_device_as_a_folder_s_name(self, monkeypatch):
        monkeypatch.setattr(environment, "cpu_model", lambda: "AMD EPYC, family 25 model 17")
        monkeypatch.setattr(environment.os, "cpu_count", lambda: 2)
        assert environment.device_slug(torch.device("cpu")) == "amd-epyc-family-25-model-17-2-cores"
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
        assert environment.device_slug(torch.device("cuda", 0)) == "nvidia-h100-80gb-hbm3"

    def test_a_missing_backend_has_a_reason(self):
        missing = environment.missing_backends(torch.device("cpu"))
        assert set(missing) | set(FACTS["backends"]) >= {"native", "reference"}
        assert all(missing.values())
