"""How command-line words become values. An option that is not given is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec


def whole(word: str) -> int:
    """A whole number, with or without thousands separators."""
    try:
        return int(word.replace(",", ""))
    except ValueError:
        raise ValueError(f"{word!r} is not a whole number") from None


def number(word: str) -> float:
    """A number."""
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a number") from None


def switch(word: str) -> bool:
    """On or off."""
    if word not in ("on", "off"):
        raise ValueError(f"{word!r} is neither on nor off")
    return word == "on"


def one(parse: Callable[[str], Any], metavar: str) -> Any:
    """Annotation of an option with one value."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def one_of(*names: str) -> Any:
    """Annotation of an option whose value is one of some names, which the configuration checks."""
    return one(str, "{" + ",".join(names) + "}")


def several(parse: Callable[[str], Any], metavar: str) -> Any:
    """Annotation of an option with any number of values."""

    def parse_all(words: Sequence[str]) -> tuple[Any, ...]:
        return tuple(parse(word) for word in words)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=parse_all,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(word) for word in value or ()],
    )


Text = Annotated[str | None, one(str, "NAME")]
Folder = Annotated[Path | None, one(Path, "DIR")]
Whole = Annotated[int | None, one(whole, "N")]
Number = Annotated[float | None, one(number, "X")]
