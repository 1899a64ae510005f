"""Tables, the page and the plots, from rows."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from benchmarks import report
from benchmarks.rows import Row, RowFile, group_rows, read_rows, spread_of
from benchmarks.tables import Table, format_bytes, format_seconds, markdown, print_tables, tables, with_quartiles
from benchmarks.timing import Spread
from sivae.errors import ConfigError
from tests.benchmarks.small import FACTS
from tests.benchmarks.test_rows import COPY_SPEED, group


@pytest.fixture
def rows() -> list[Row]:
    return group_rows(group(cold=True), FACTS, COPY_SPEED)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real_import = builtins.__import__

    def importing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize(("seconds", "text"), [(2.5e-6, "2.5 µs"), (1.234e-3, "1.23 ms"), (2.0, "2 s")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(4, "4 B"), (1536, "1.54 kB"), (25_165_824, "25.2 MB"), (3e9, "3 GB")])
def test_format_bytes(count, text):
    assert format_bytes(count) == text


def test_a_table_has_a_line_for_each_shape_dtype_and_mode(rows):
    (table,) = tables(rows, ratio=with_quartiles)
    assert table.title == "gaussian_kl"
    assert list(table.headings) == [
        *("shape", "dtype", "mode", "eager", "torch.compile"),
        *("native", "x eager", "x compile", "of copy", "memory"),
    ]
    (line,) = table.lines
    assert list(line) == [
        *("1x5", "float32", "forward", "4 s", ""),
        *("1 s", "4.00 [4.00, 4.00]", "", "0.50 [0.50, 0.50]", "4 B"),
    ]
    for text in markdown(table):
        assert text.count("|") == len(table.headings) + 1


def test_tables_are_printed_in_aligned_columns():
    stream = io.StringIO()
    print_tables(
        [Table("a title", ["", "time", "x eager"], [["plain loop", "2 s", ""], ["ours", "10 ms", "4.00"]], 1)], stream
    )
    assert stream.getvalue() == (
        "a title\n"  #
        "               time  x eager\n"
        "  plain loop    2 s\n"
        "  ours        10 ms     4.00\n"
        "\n"
    )


class TestReport:
    def test_a_page_and_plots_beside_the_rows(self, tmp_path, rows):
        RowFile(tmp_path, "cpu", FACTS).append(rows)
        (folder,) = report.device_folders(tmp_path)
        assert report.device_folders(folder) == [folder]
        written, notices = report.write_report(folder)
        assert notices == []
        assert {path.name for path in written} == {"report.md", "speedup.png", "share-of-copy.png"}
        for path in written:
            assert path.parent == folder
            assert path.suffix != ".png" or path.read_bytes().startswith(b"\x89PNG")
        page = (folder / "report.md").read_text()
        for word in (FACTS["device"], FACTS["torch"], "0.50 [0.50, 0.50]", "speedup.png", "RuntimeError: no compiler"):
            assert word in page
        assert "quick" not in page
        for line in page.splitlines():
            assert not line.startswith("|") or line.endswith("|")

    def test_rows_stay_and_the_report_is_drawn_anew(self, tmp_path, rows):
        file = RowFile(tmp_path, "cpu", FACTS)
        file.append(rows)
        before = file.path.read_bytes()
        report.write_report(tmp_path / "cpu")
        report.write_report(tmp_path / "cpu")
        assert file.path.read_bytes() == before

    def test_the_page_says_that_a_run_was_quick(self, rows):
        assert "quick runs" in report.page([row | {"quick": True} for row in rows])

    def test_without_matplotlib_there_is_a_page(self, tmp_path, rows, monkeypatch):
        RowFile(tmp_path, "cpu", FACTS).append(rows)
        without(monkeypatch, "matplotlib")
        written, notices = report.write_report(tmp_path / "cpu")
        assert [path.name for path in written] == ["report.md"]
        assert "no plots" in notices[0] and "pip install matplotlib" in notices[0]
        assert ".png" not in written[0].read_text()

    def test_the_summary_is_of_forward_and_backward_on_the_fastest_backend(self, rows):
        both = [row | {"mode": "forward+backward"} for row in rows]
        slower = both[1] | {"variant": "triton", "seconds": 3.0}
        (line,) = report.summary_table([*both, slower, *rows]).lines
        assert list(line) == ["`gaussian_kl` [1, 5] float32", "native", "4.00 [4.00, 4.00]", "", "0.50 [0.50, 0.50]"]

    def test_a_folder_without_results_is_an_error(self, tmp_path):
        with pytest.raises(ConfigError, match="there is no such folder"):
            report.device_folders(tmp_path / "nowhere")
        with pytest.raises(ConfigError, match=r"it holds no results .* measures some"):
            report.device_folders(tmp_path)
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "2026.jsonl").write_text("not a row\n")
        with pytest.raises(ConfigError, match="no line of its"):
            report.write_report(tmp_path / "cpu")

    def test_rows_are_read_as_they_were_written(self, tmp_path, rows):
        file = RowFile(tmp_path, "cpu", FACTS)
        file.append(rows)
        read, _ = read_rows(file.path.parent)
        assert read == rows
        assert spread_of(read[1], "share_of_copy") == Spread(0.5, 0.5, 0.5)
