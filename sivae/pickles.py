"""Check the program that a pickle is, without running it: its depth, its sharing, its memo and its dictionary keys.

Reading a pickle is safe only after this check, even for a reader that calls nothing: a tuple nested 100,000 times and
used as a key ends the process, a tuple of itself twice, 40 times over, is hashed for ever, and a memo slot of a high
number takes memory for all slots below it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import IO

from sivae.bounds import PICKLE_DEPTH, PICKLE_SHARING

_SLACK = 10_000  # values that any pickle may have
_WIDE = 1 << 63  # whole numbers from here on can be chosen such that all have one hash

_BYTES = ("_codecs", "encode")  # how Python 3 writes bytes for Python 2
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK = ("TUPLE", "LIST", "DICT", "FROZENSET")
_STORES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_RECALLS = ("GET", "BINGET", "LONG_BINGET")
_NOTHING = ("PROTO", "FRAME")
_REFUSED = ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")


class _Value:
    """What is known of a value: the depth of its containers, and its number of values, each as often as it is used."""

    __slots__ = ("depth", "function", "is_key", "is_wide", "size", "text")

    def __init__(self, *, is_key: bool = False, is_wide: bool = False, text: str | None = None) -> None:
        self.depth, self.size = 0, 1
        self.function: tuple[str, str] | None = None
        self.is_key, self.is_wide, self.text = is_key, is_wide, text


def check_pickle(file: IO[bytes], size: int) -> set[tuple[str, str]]:
    """Walk the program of one pickle, up to its end.

    Args:
        file: at the pickle's first byte; afterwards at the byte behind the pickle.
        size: bytes of the file.

    Returns:
        Modules and names of the functions and classes that it refers to.

    Raises:
        ValueError: the pickle is damaged or breaks a bound; the message says which.
    """
    try:
        return _Walk(size).through(file)
    except (IndexError, KeyError, TypeError):
        raise ValueError("its program takes a value that is not there") from None


class _Walk:
    def __init__(self, size: int) -> None:
        self._most = PICKLE_SHARING * size + _SLACK
        self._slots = size
        self._stack: list[_Value] = []
        self._below: list[list[_Value]] = []  # the stacks below each mark
        self._memo: dict[int, _Value] = {}
        self._called = 0
        self._names: set[tuple[str, str]] = set()

    def through(self, file: IO[bytes]) -> set[tuple[str, str]]:
        for opcode, argument, _ in pickletools.genops(file):
            self._step(opcode, argument)
        return self._names

    def _step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        name, stack = opcode.name, self._stack
        if name in _STORES:
            self._store(len(self._memo) if name == "MEMOIZE" else argument)
        elif name in _RECALLS:
            stack.append(self._memo[_whole(argument)])
        elif name == "MARK":
            self._below.append(stack)
            self._stack = []
        elif name in _TUPLES:
            self._push(self._pop(_TUPLES[name]))
        elif name in _FROM_MARK:
            items = self._pop_mark()
            if name in ("DICT", "FROZENSET"):
                self._check_keys(items[:: 2 if name == "DICT" else 1])
            self._push(items)
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            count = {"APPEND": 1, "SETITEM": 2}.get(name)
            items = self._pop_mark() if count is None else self._pop(count)
            if not name.startswith("APPEND"):
                self._check_keys(items[:: 1 if name == "ADDITEMS" else 2])
            self._put_into(self._stack[-1], items)
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"):
            self._call(self._pop(3 if name == "NEWOBJ_EX" else 2))
        elif name in ("INST", "OBJ"):
            self._call(self._pop_mark())
            if name == "INST":
                self._refer(*str(argument).split(" ", 1))
                self._pop(1)
        elif name == "GLOBAL":
            self._refer(*str(argument).split(" ", 1))
        elif name == "STACK_GLOBAL":
            module, own = self._pop(2)
            if module.text is None or own.text is None:
                raise ValueError("it names a function by something other than text")
            self._refer(module.text, own.text)
        elif name == "BINPERSID":
            self._call(self._pop(1))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                self._pop_mark()
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "STOP":
            self._pop(1)
        elif name in _REFUSED:
            raise ValueError("it refers to data outside of itself")
        elif name not in _NOTHING:
            stack.append(_leaf(name, argument))

    def _store(self, slot: object) -> None:
        number = _whole(slot)
        if not 0 <= number <= self._slots:
            raise ValueError(f"it numbers a value {number:,}, and has {self._slots:,} bytes")
        self._memo[number] = self._stack[-1]

    def _pop(self, count: int) -> list[_Value]:
        if len(self._stack) < count:
            raise IndexError
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_mark(self) -> list[_Value]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _push(self, items: Sequence[_Value]) -> None:
        value = _Value()
        value.depth = 1
        self._put_into(value, items)
        self._stack.append(value)

    def _put_into(self, container: _Value, items: Sequence[_Value]) -> None:
        for item in items:
            container.depth = max(container.depth, item.depth + 1)
            container.size += item.size
            container.is_wide |= item.is_wide
        container.is_key, container.text = False, None
        if container.depth > PICKLE_DEPTH:
            raise ValueError(f"it nests values more than {PICKLE_DEPTH} deep")
        if container.size > self._most:
            raise ValueError("it repeats values within values too often")

    def _call(self, items: Sequence[_Value]) -> None:
        """A call may look at all its arguments, so their sizes add up."""
        self._push(items)
        made = self._stack[-1]
        self._called += made.size
        if self._called > self._most:
            raise ValueError("it repeats values within values too often")
        if made.is_wide:
            raise ValueError("an object in it has a whole number of more than 64 bits")
        made.size = 1  # what a call makes is no copy of its arguments
        made.is_key = items[0].function == _BYTES

    def _check_keys(self, keys: Sequence[_Value]) -> None:
        if not all(key.is_key for key in keys):
            raise ValueError("a key of a table in it is neither text nor a number of 64 bits")

    def _refer(self, module: str, name: str) -> None:
        self._names.add((module, name))
        value = _Value()
        value.function = (module, name)
        self._stack.append(value)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("it numbers a value by something other than a number")
    return value


def _leaf(name: str, argument: object) -> _Value:
    if isinstance(argument, str) and "UNICODE" in name:
        return _Value(is_key=True, text=argument if len(argument) < 256 else None)
    if isinstance(argument, int):
        is_wide = not -_WIDE <= argument < _WIDE
        return _Value(is_key=not is_wide, is_wide=is_wide)
    is_key = isinstance(argument, str | bytes | float) or name in ("NONE", "NEWTRUE", "NEWFALSE")
    value = _Value(is_key=is_key and name not in ("BYTEARRAY8", "PERSID"))
    value.depth = int(name.startswith("EMPTY_"))
    return value
