"""Pickles are read without executing any of their code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sivae.data.images.formats.inert_pickle import byte_array, read_pickle
from sivae.errors import DataError
from tests.data.images.samples import pixels, python2_pickle, python3_pickle


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(protocol: int) -> None:
    array = pixels(0)
    content = read_pickle(python3_pickle({"data": array, "columns": np.asfortranarray(array[0])}, protocol), "it")
    assert np.array_equal(byte_array(content["data"], "it"), array)
    assert np.array_equal(byte_array(content["columns"], "it"), array[0])


def test_pickles_of_python_2() -> None:
    array = pixels(0)[0]
    content = read_pickle(python2_pickle({b"data": array, b"labels": [3, 4], b"name": b"x"}), "it")
    assert np.array_equal(byte_array(content["data"], "it"), array)
    assert (content["labels"], content["name"]) == ([3, 4], b"x")


def test_python_itself_reads_the_python_2_pickles_of_these_tests() -> None:
    content = python2_pickle({b"data": pixels(0)[0], b"labels": [3, -4]})
    loaded = pickle.loads(content, encoding="bytes")
    assert np.array_equal(loaded[b"data"], pixels(0)[0]) and loaded[b"labels"] == [3, -4]


class _Bomb:
    def __init__(self, call: Any, *arguments: object) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def test_a_malicious_pickle_does_nothing(tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    for protocol in range(6):
        for bomb in (
            _Bomb(os.system, f"touch {sign}"),
            _Bomb(eval, f"open({str(sign)!r}, 'w')"),
            _Bomb(Path.touch, sign),
        ):
            content = python3_pickle({"data": pixels(0), "labels": bomb}, protocol)
            with pytest.raises(DataError, match=r"evil is damaged, .* it names .*; nothing of it was executed"):
                read_pickle(content, "evil")
            assert not sign.exists()
    pickle.loads(content)  # a plain unpickler executes it, so the test would notice
    assert sign.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n}S'__name__'\nS'x'\nsb.",  # state for the class itself
        b"cnumpy\nndarray\n(N}S'arguments'\nS'x'\nstb.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"cnumpy\nndarray.__init_subclass__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
        b"cnumpy.core.multiarray\n__builtins__\n.",
        b"I1\n.",
        b"(lp0\n.",
        b"\x80\x02",
        b"",
        b"\xff\xfe",
        b"}P1\n.",
        b"\x82\x01.",
        b"}" + b"\x8a\xff" + b"\xff" * 9,
    ],
)
def test_odd_programs_are_refused_and_change_nothing(program: bytes) -> None:
    with pytest.raises(DataError, match="evil is damaged, or no pickle of images"):
        read_pickle(program, "evil")
    assert np.array_equal(
        byte_array(read_pickle(python3_pickle({"data": pixels(0)}, 2), "it")["data"], "it"), pixels(0)
    )


@pytest.mark.parametrize(
    ("value", "came"),
    [
        ([1, 2], "a list"),
        (None, "a NoneType"),
        (np.zeros(3), "an array of another type"),
        (np.array([{}, []], object), "an array of another type"),
        (np.zeros(3, np.int8), "an array of another type"),
    ],
)
def test_only_arrays_of_bytes_are_taken(value: object, came: str) -> None:
    content = read_pickle(python3_pickle({"data": value}, 2), "it")
    with pytest.raises(DataError, match=f"it holds {came}; expected an array of uint8"):
        byte_array(content["data"], "it")


def test_a_shape_that_its_bytes_do_not_fill() -> None:
    content = python2_pickle({b"data": np.zeros((2, 8), np.uint8)})
    content = content.replace(b"J\x08\x00\x00\x00t", b"J\x09\x00\x00\x00t")
    with pytest.raises(DataError, match="bytes do not fit its shape"):
        byte_array(read_pickle(content, "it")["data"], "it")
