"""How settings check themselves: each key's type and range, and the words for what is wrong with a value.

Imports no torch, so that the command line can use it before the heavy imports.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sivae.errors import ConfigError

# A key's range: a test, and the words for what passes it.
Range = tuple[Callable[[Any], bool], str]
AT_LEAST_1: Range = (lambda value: value >= 1, "1 or more")
NOT_NEGATIVE: Range = (lambda value: value >= 0, "0 or more")
POSITIVE: Range = (lambda value: value > 0, "more than 0")
SHARE: Range = (lambda value: 0 <= value <= 1, "between 0 and 1")
SHARES: Range = (lambda value: all(0 <= one <= 1 for one in value), "shares between 0 and 1")
SEED: Range = (lambda value: 0 <= value < 2**63, "from 0 to 2^63 - 1")


def conform(config: Any, ranges: Mapping[str, Range]) -> None:
    """Check every field's type and range; whole numbers become floats and lists tuples where those belong."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _converted(field.name, getattr(config, field.name), hints[field.name])
        object.__setattr__(config, field.name, value)
        if value is not None and field.name in ranges:
            passes, words = ranges[field.name]
            if not passes(value):
                raise ConfigError(f"{field.name} = {show(value)}: it must be {words}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a run's settings whose `name` decides which of the other keys it has.

    A key that the name does not use is None. None in a key that it does use stands for a default that is filled in
    elsewhere.

    Class attributes:
        LABEL: what the section is called in `config.json` and in messages.
        KEYS: for each name the keys that it uses, beside `name`.
        RANGES: of the keys.
    """

    LABEL: ClassVar[str]
    KEYS: ClassVar[dict[str, tuple[str, ...]]]
    RANGES: ClassVar[dict[str, Range]]

    name: str

    def __post_init__(self) -> None:
        conform(self, self.RANGES)
        used = self.keys_of(self.name)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "name" and field.name not in used and value is not None:
                users = " or ".join(self.names_with(field.name))
                raise ConfigError(
                    f"{field.name} = {show(value)}: it has no effect with the {self.LABEL} {self.name!r}; "
                    f"leave it out, or choose the {self.LABEL} {users}"
                )

    @classmethod
    def keys_of(cls, name: str) -> tuple[str, ...]:
        """The keys, beside `name`, that a section of that name uses."""
        return cls.KEYS[name]

    @classmethod
    def names_with(cls, key: str) -> list[str]:
        """The names of the sections that use a key."""
        return [name for name, keys in cls.KEYS.items() if key in keys]

    @classmethod
    def every_key(cls) -> tuple[str, ...]:
        """All keys beside `name`, whoever uses them."""
        return tuple(field.name for field in dataclasses.fields(cls) if field.name != "name")

    def given(self) -> dict[str, Any]:
        """The keys that have a value, without `name`."""
        values = {key: getattr(self, key) for key in self.keys_of(self.name)}
        return {key: value for key, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """`name` and the keys that it uses, ready for JSON."""
        return {"name": self.name} | {key: plain(getattr(self, key)) for key in self.keys_of(self.name)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: it is no object, a key is unknown or missing, or its value is wrong.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.LABEL}: expected an object with a name and its keys; restore the file as it was")
        name = values.get("name")
        if name not in cls.KEYS:
            raise ConfigError(f"{cls.LABEL}.name = {show(name)}: expected one of {', '.join(cls.KEYS)}")
        check_keys(values, ("name", *cls.keys_of(name)), f"{cls.LABEL}.")
        return cls(**values)


def check_keys(values: Mapping[str, Any], expected: Iterable[str], prefix: str) -> None:
    """Refuse keys that are unknown or missing, by name."""
    expected = list(expected)
    for key in values:
        if key not in expected:
            raise ConfigError(prefix + unknown(key, expected))
    for key in expected:
        if key not in values:
            raise ConfigError(f"{prefix}{key} is missing; put it back, as the run wrote it")


def unknown(key: str, expected: Iterable[str]) -> str:
    """What is said of a key that does not exist."""
    close = difflib.get_close_matches(key, list(expected), n=1)
    hint = f"did you mean {close[0]}?" if close else "remove it"
    return f"{key} is not a known key; {hint}"


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def show(value: Any) -> str:
    """A value as a message has it."""
    return json.dumps(value) if isinstance(value, str | list | type(None)) else repr(value)


def _converted(key: str, value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return _converted(key, value, hint)
    if origin is Literal:
        if value in arguments and isinstance(value, type(arguments[0])) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{key} = {show(value)}: expected one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_converted(key, one, arguments[0]) for one in value)
        raise ConfigError(f"{key} = {show(value)}: expected a list")
    if hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise ConfigError(f"{key} = {show(value)}: expected a finite number")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{key} = {show(value)}: expected a whole number")
    if not isinstance(value, hint):
        words = {str: "text", bool: "true or false"}.get(hint, f"a value of type {hint.__name__}")
        raise ConfigError(f"{key} = {show(value)}: expected {words}")
    return value
