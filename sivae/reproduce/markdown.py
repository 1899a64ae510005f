"""Format numbers, words and tables for a page in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def figure(name: str, caption: str) -> str:
    """A figure with its caption below."""
    return f"![{Path(name).stem}]({name})\n\n*{caption}*"


def finite(values: Iterable[float]) -> list[float]:
    """The values that are finite."""
    return [value for value in values if math.isfinite(value)]


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; NaN where there are none."""
    kept = finite(values)
    return statistics.fmean(kept) if kept else math.nan


def spread(values: Iterable[float]) -> float:
    """The sample standard deviation of the finite values; NaN where there are fewer than two."""
    kept = finite(values)
    return statistics.stdev(kept) if len(kept) > 1 else math.nan


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits."""
    if not math.isfinite(value):
        return "–"
    if value == 0.0 or 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")


def mean_and_spread(values: Sequence[float]) -> str:
    """mean ± standard deviation; with a note of how many values are not finite, if any."""
    middle, width = mean(values), spread(values)
    text = number(middle) if math.isnan(width) else f"{number(middle)} ± {_to_scale(width, middle)}"
    missing = len(values) - len(finite(values))
    return f"{text} ({missing} not finite)" if missing and len(values) > missing else text


def _to_scale(width: float, middle: float) -> str:
    """The deviation with the decimals, or the power of ten, of the mean beside it."""
    if middle == 0.0 or 1e-3 <= abs(middle) < 1e5:
        decimals = max(0, 2 - math.floor(math.log10(abs(middle)))) if middle else 3
        return f"{width:,.{decimals}f}"
    return number(width, 2)


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def over_seeds(count: int) -> str:
    """What the cells of a table over so many seeds hold."""
    return "one seed" if count == 1 else f"mean ± standard deviation over {count} seeds"


def for_json(value: Any) -> Any:
    """Nested containers with None for floats that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): for_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(one) for one in value]
    return value
