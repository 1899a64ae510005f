"""What a person sees on stderr of a long task: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from sivae import progress
from sivae.progress import Progress, clock, counting, naming


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that goes on when it is told to."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_line_now_and_then_says_count_state_and_time_left(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 1_000) as display:
        for step in (100, 200, 300, 1_000):
            time.now += 6.0
            display.update(step, status="17 it/s", detail="rec 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "run  100/1,000  rec 0.5  17 it/s  ETA 0:54",  # the first state at once
        "run  300/1,000  rec 0.5  17 it/s  ETA 0:42",  # 12 seconds later; the one between is passed over
        "run  1,000/1,000  rec 0.5  17 it/s",
    ]


def test_what_an_earlier_process_did_says_nothing_of_the_speed(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 100, done=50) as display:
        time.now += 10.0
        display.update(60)
    assert "ETA 0:40" in capsys.readouterr().err


def test_a_short_task_shows_nothing(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with counting("reading", 30) as display:
        for _ in range(30):
            time.now += 0.03
            display.advance()
    assert capsys.readouterr().err == ""


def test_a_long_count_shows_its_rate(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with counting("reading", 3_600) as display:
        for _ in range(12):
            time.now += 1.0
            display.advance(100)
    assert capsys.readouterr().err == "reading  1,000/3,600  100 images/s  ETA 0:26\n"


def test_a_named_task_has_a_line_for_each_thing(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with naming("bench", 2) as display:
        for name in ("one", "two"):
            display.begin(name)
            time.now += 20.0
            display.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:3] for line in lines[:2]] == [["bench", "0/2", "one"], ["bench", "1/2", "two"]]


def test_shares_are_shown_in_percent(time: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("experiment", 4, percent=True) as display:
        time.now += 60.0
        display.update(1.0, status="1/4 trainings")
    assert capsys.readouterr().err == "experiment  25%  1/4 trainings  ETA 3:00\n"


def test_a_disabled_display_shows_only_notices(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("run", 10, enabled=False) as display:
        display.update(5)
        display.notice("a checkpoint is damaged")
    assert capsys.readouterr().err == "a checkpoint is damaged\n"


def test_no_count_of_several_threads_is_lost() -> None:
    with Progress("reading", 4_000, enabled=False) as display:

        def work() -> None:
            for _ in range(1_000):
                display.advance()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert display._done == 4_000


def test_a_terminal_shows_a_bar_with_the_state_below(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("run", 10) as display:
        display.update(4, status="17 it/s", detail="rec 0.5")
        display.notice("a notice [not markup]")
    shown = terminal.getvalue()
    for words in ("run", "4/10", "17 it/s", "rec 0.5", "a notice [not markup]"):
        assert words in shown


def test_without_rich_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "rich", None)
    with Progress("run", 10) as display:
        display.update(4)
    assert terminal.getvalue().startswith("run  4/10")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3_661, "1:01:01")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert clock(seconds) == text
