"""Write counts and lists as people do."""

from __future__ import annotations

from collections.abc import Iterable


def plural(count: int, thing: str) -> str:
    """1 seed, 2 seeds, 2 classes."""
    ending = "" if count == 1 else "es" if thing.endswith("s") else "s"
    return f"{count:,} {thing}{ending}"


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *others, last = [*words] or [""]
    return f"{', '.join(others)} and {last}" if others else last
