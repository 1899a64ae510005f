"""Describe settings as fields of frozen dataclasses, and check their values.

A field carries its default, its help text and its range; files, the command line and error messages read them there.
Imports no torch: the command line needs it before the heavy imports.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NotRequired, Self, TypeVar

from sivae.errors import ConfigError

_SETTING = "sivae.setting"
_SHOWN = 200  # characters of a value in a message


class Range(NamedTuple):
    """The values that a setting may have: a test, and words for what passes it."""

    holds: Callable[[Any], bool]
    words: str


AT_LEAST_1 = Range(lambda value: value >= 1, "1 or more")
NOT_NEGATIVE = Range(lambda value: value >= 0, "0 or more")
POSITIVE = Range(lambda value: value > 0, "more than 0")
SHARE = Range(lambda value: 0 <= value <= 1, "between 0 and 1")
SHARES = Range(lambda value: all(0 <= one <= 1 for one in value), "shares between 0 and 1")
SEED = Range(lambda value: 0 <= value < 2**63, "from 0 to 2^63 - 1")
FACTOR = Range(lambda value: 0 < value <= 1, "more than 0 and at most 1")
COUNTS = Range(lambda value: len(value) > 0 and min(value) >= 1, "one or more, each 1 or more")
FACTORS = Range(lambda value: len(value) > 0 and min(value) > 0, "one or more, each above 0")


class Need(NamedTuple):
    """What a run must be like for a setting to have an effect.

    Attributes:
        holds: tests the run's settings (a :class:`sivae.settings.run.RunConfig`).
        why_not: words for a run that is not so, with `{config}` for its settings.
        strict: refuse a value other than the default where there is no effect, also in a file.
    """

    holds: Callable[[Any], bool]
    why_not: str
    strict: bool = False


class Setting(NamedTuple):
    """What a field knows of itself beside its name, type and default.

    Attributes:
        help: one or two sentences for people.
        within: the values that it may have.
        need: what the run must be like for the setting to have an effect.
        option: its name on the command line, without dashes; None: the field's; "": it is no option.
        unset: words for the default None.
        metavar: stands for a value in the help; None: by the type.
        resumable: whether a resumed run may change it: it decides when the run writes or where it finds its data, never
            what it computes.
        changeable: whether a resumed run may change it for the iterations to come; its changes are listed.
        found: whether a run fills in None when it starts.
        since: what a file has that was written before the setting existed; MISSING: every file has it.
    """

    help: str
    within: Range | None
    need: Need | None
    option: str | None
    unset: str | None
    metavar: str | None
    resumable: bool
    changeable: bool
    found: bool
    since: Any


def setting(
    default: Any = MISSING,
    *,
    help: str,
    within: Range | None = None,
    need: Need | None = None,
    option: str | None = None,
    unset: str | None = None,
    metavar: str | None = None,
    resumable: bool = False,
    changeable: bool = False,
    found: bool = False,
    since: Any = MISSING,
) -> Any:
    """A dataclass field that is a setting; see :class:`Setting`."""
    about = Setting(help, within, need, option, unset, metavar, resumable, changeable, found, since)
    return dataclasses.field(default=default, metadata={_SETTING: about})


def about(field: dataclasses.Field[Any]) -> Setting:
    """What a field that :func:`setting` made knows of itself."""
    found: Setting = field.metadata[_SETTING]
    return found


def settings_of(owner: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass or an instance of one that :func:`setting` made."""
    return [field for field in dataclasses.fields(owner) if _SETTING in field.metadata]


def types_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass' fields, by name."""
    return _types_of(kind)


@functools.cache  # behind a function, because mypy does not take a class for hashable
def _types_of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def conform(config: Any) -> None:
    """Check every setting's type and range; whole numbers become floats, and lists tuples, where the type says so.

    Raises:
        ConfigError: a value is of another type, or out of range.
    """
    hints = types_of(type(config))
    for field in settings_of(config):
        value = converted(field.name, getattr(config, field.name), hints[field.name])
        object.__setattr__(config, field.name, value)
        within = about(field).within
        if isinstance(value, str | None) or within is None or within.holds(value):
            continue
        option = about(field).option
        named = f"{field.name} (--{option})" if option else field.name
        raise ConfigError(f"{named} = {show(value)}: it must be {within.words}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several kinds of a part of a run: an objective, a model, a data source, a way to grow.

    Each kind is a subclass, whose fields are the settings that it has; others cannot be given.

    Class attributes:
        LABEL: the part's name in `config.json` and in messages.
        NAME: the kind's name there.
    """

    LABEL: ClassVar[str]
    NAME: ClassVar[str]

    def __post_init__(self) -> None:
        conform(self)

    @property
    def name(self) -> str:
        """The kind's name."""
        return self.NAME

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """The names of its settings."""
        return tuple(field.name for field in settings_of(cls))

    def changed(self, **changes: Any) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """`name` and every setting, ready for JSON."""
        return {"name": self.NAME} | {key: plain(getattr(self, key)) for key in self.key_names()}


AnyChoice = TypeVar("AnyChoice", bound=Choice)


def choice_from_dict(kinds: Mapping[str, type[AnyChoice]], values: Any) -> AnyChoice:
    """The inverse of :meth:`Choice.to_dict`.

    Args:
        kinds: the kinds by name.
        values: what the file holds.

    Raises:
        ConfigError: it is no object, a key is unknown or missing, or a value is wrong.
    """
    label = next(iter(kinds.values())).LABEL
    if not isinstance(values, dict):
        raise ConfigError(f"{label}: expected an object with a name and its keys; restore the file as it was")
    name = values.get("name")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"{label}.name = {show(name)}: expected one of {', '.join(kinds)}")
    given = with_later_settings(kind, {key: value for key, value in values.items() if key != "name"})
    check_keys(given, kind.key_names(), f"{label}.")
    return kind(**given)


def with_later_settings(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Add what a file lacks because it was written before a setting existed."""
    later = {field.name: about(field).since for field in settings_of(kind)}
    return {key: value for key, value in later.items() if value is not MISSING} | dict(values)


def check_keys(values: Iterable[str], expected: Iterable[str], prefix: str) -> None:
    """Refuse keys that are unknown or missing, by name."""
    values, expected = list(values), list(expected)
    for key in values:
        if key not in expected:
            raise ConfigError(prefix + unknown(key, expected))
    for key in expected:
        if key not in values:
            raise ConfigError(f"{prefix}{key} is missing; put it back, as the run wrote it")


def unknown(key: str, expected: Iterable[str]) -> str:
    """Words for a key that does not exist."""
    close = difflib.get_close_matches(key, list(expected), n=1)
    hint = f"did you mean {close[0]}?" if close else "remove it"
    return f"{key} is not a known key; {hint}"


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def show(value: Any) -> str:
    """A value as a message has it, cut where it is long."""
    text = json.dumps(value) if isinstance(value, str | list | type(None)) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a type is a union of, except None; a Literal comes last."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return (hint,)
    kinds = (one for one in typing.get_args(hint) if one is not type(None))
    return tuple(sorted(kinds, key=lambda one: typing.get_origin(one) is Literal))


def table(values: Any, kind: type, prefix: str = "") -> dict[str, Any]:
    """Check the keys of an object in a file that the program wrote.

    Args:
        values: the content of the file.
        kind: a TypedDict or a dataclass, whose defaults may be missing; for its types see :func:`converted`.
        prefix: comes before a key in messages.

    Returns:
        The values, converted. Keys that `kind` does not have stay as they are.

    Raises:
        ConfigError: the content is no object, a key is missing, or a value has another type or is out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'the content'} = {show(values)}: expected an object with keys")
    checked = dict(values)
    for key, hint in _hints_of(kind).items():
        if key in values:
            checked[key] = converted(prefix + key, values[key], hint)
        elif typing.get_origin(hint) is not NotRequired and key not in vars(kind):  # a dataclass' default
            raise ConfigError(f"{prefix}{key} is missing")
    return checked


@functools.cache
def _hints_of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def converted(key: str, value: Any, hint: Any) -> Any:
    """Check a value's type; whole numbers become floats, and lists tuples, where the type says so.

    Args:
        key: its name in messages.
        value: what came.
        hint: a class, Literal, `X | None`, tuple[X, ...], list[X], dict[str, X], a TypedDict, NotRequired, or Annotated
            with a :class:`Range`.

    Raises:
        ConfigError: the value is of another type, or out of range.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is NotRequired:
        return converted(key, value, arguments[0])
    if origin is Annotated:
        value = converted(key, value, arguments[0])
        if not arguments[1].holds(value):
            raise ConfigError(f"{key} = {show(value)}: it must be {arguments[1].words}")
        return value
    if origin in (types.UnionType, typing.Union):
        first, *names = alternatives(hint)
        if (value is None and type(None) in arguments) or any(value in typing.get_args(one) for one in names):
            return value
        try:
            return converted(key, value, first)
        except ConfigError as error:
            raise ConfigError(" or ".join([str(error), *(", ".join(typing.get_args(one)) for one in names)])) from None
    if origin is Literal:
        if value in arguments and isinstance(value, type(arguments[0])) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{key} = {show(value)}: expected one of {', '.join(map(str, arguments))}")
    if origin in (tuple, list):
        if isinstance(value, list | tuple):
            return origin(converted(key, one, arguments[0]) for one in value)
        raise ConfigError(f"{key} = {show(value)}: expected a list")
    if origin is dict and isinstance(value, dict):
        return {name: converted(f"{key}.{name}", one, arguments[1]) for name, one in value.items()}
    if typing.is_typeddict(hint):
        return table(value, hint, f"{key}.")
    if hint is float:
        with contextlib.suppress(OverflowError):  # a whole number beyond the floats
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        raise ConfigError(f"{key} = {show(value)}: expected a finite number")
    if hint is int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{key} = {show(value)}: expected a whole number")
        if abs(value) >= 2**63:
            raise ConfigError(f"{key} = {show(value)}: expected a whole number of at most 63 bits")
        return value
    if hint is not Any and not isinstance(value, origin or hint):
        words = {str: "text", bool: "true or false", dict: "an object with keys"}
        kind = origin or hint
        raise ConfigError(f"{key} = {show(value)}: expected {words.get(kind, f'a value of type {kind.__name__}')}")
    return value
