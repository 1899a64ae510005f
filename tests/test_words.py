"""Counts and lists in sentences."""

from __future__ import annotations

from sivae.words import listed, plural


def test_one_thing_has_no_s() -> None:
    assert [plural(count, "seed") for count in (0, 1, 2_000)] == ["0 seeds", "1 seed", "2,000 seeds"]
    assert [plural(count, "class") for count in (1, 2)] == ["1 class", "2 classes"]


def test_a_list_ends_with_and() -> None:
    assert [listed(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
