"""Read the JSON files that the program writes itself, and check what is in them.

Each such file has a TypedDict that lists its keys with their types; see :func:`sivae.fields.converted`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sivae.errors import SivaeError
from sivae.fields import show, table

LARGEST = 64 << 20  # bytes of a file; the largest that the program writes lists the damaged images of a packed set
_DEEPEST = 32  # levels of lists and objects

Content = TypeVar("Content")


def read_json(
    path: Path, kind: type[Content], *, error: type[SivaeError], remedy: str, version: int | None = None
) -> Content:
    """Read a file of one JSON object.

    Args:
        path: the file.
        kind: a TypedDict of its keys, or a dataclass for a dict of its fields; other keys stay in the result.
        error: raised for a file that cannot be used.
        remedy: what a person can do then, for the message.
        version: the value of the key "format" that can be read; None: the file has no such key.

    Raises:
        FileNotFoundError: there is no such file.
        error: the file cannot be read, is no JSON, or has other keys or types; the message names the file.
    """
    try:
        content: Any = parse(read_text(path))
        came = version if version is None or not isinstance(content, dict) else content.get("format")
        if came == version:
            content = table(content, kind)
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise error(f"{path} cannot be read ({failure.strerror}); {remedy}") from None
    except ValueError as failure:
        raise error(f"{path} is damaged: {failure}; {remedy}") from None
    if came != version:
        raise error(
            f"{path}: format is {show(came)}, expected {version}; use the version of sivae that wrote it, or {remedy}"
        )
    return content


def read_text(path: Path) -> str:
    """Read a small file of UTF-8.

    Raises:
        ValueError: it is larger than :data:`LARGEST`, or no UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None


def parse(text: str) -> Any:
    """Read a text of JSON.

    Raises:
        ValueError: it is no JSON, has a number that is not finite, or lists in lists beyond any that the program
            writes.
    """
    too_deep = f"lists and objects are nested more than {_DEEPEST} deep"
    try:
        content = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON in line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(too_deep) from None
    level, depth = [content], 0
    while level := [inner for one in level for inner in _inside(one)]:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(too_deep)
    return content


def _inside(content: Any) -> Iterable[Any]:
    if isinstance(content, dict):
        return content.values()
    return content if isinstance(content, list) else ()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
