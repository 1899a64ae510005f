"""Numbers as a page has them."""

from __future__ import annotations

import math

import pytest

from sivae.reproduce.markdown import duration, for_json, mean_and_spread, number, over_seeds, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (0.0123456, "0.0123"),
        (123.456, "123"),
        (12_345.6, "12,346"),
        (5.35e-8, "5.35e-8"),
        (1.5e7, "1.50e7"),
        (-2.5, "-2.50"),
        (math.nan, "–"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, 1.2], "1.10 ± 0.14"),
        ([0.0218, 0.0230], "0.0224 ± 0.0008"),
        ([4e-8, 6e-8], "5.00e-8 ± 1.4e-8"),
        ([2.0], "2.00"),
        ([1.0, 1.2, math.nan], "1.10 ± 0.14 (1 not finite)"),
        ([math.nan], "–"),
        ([], "–"),
    ],
)
def test_a_mean_has_its_spread_to_the_same_digits(values: list[float], text: str) -> None:
    assert mean_and_spread(values) == text


def test_words() -> None:
    assert [over_seeds(count) for count in (1, 2)] == ["one seed", "mean ± standard deviation over 2 seeds"]
    assert [duration(seconds) for seconds in (12, 600, 90_000)] == ["12 s", "10 min", "25.0 h"]
    assert table(["", "x"], [["a", "1"]]) == "|  | x |\n|---|--:|\n| a | 1 |"
    assert for_json({"a": (1.0, math.inf), 2: "x"}) == {"a": [1.0, None], "2": "x"}
