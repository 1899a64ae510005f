"""The kind of function that shows a line of text to the user while data is opened and read."""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[str], None]


def ignore(_: str) -> None:
    """A `Notice` that shows nothing."""
