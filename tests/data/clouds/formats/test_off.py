"""OFF files: those of ModelNet, with colours and normals, and damaged ones."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from sivae.data.clouds.formats.off import read_off

POINTS = b"0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
SQUARE = np.array([(0.0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
HALVES = SQUARE[[[0, 1, 2], [0, 2, 3]]]


@pytest.mark.parametrize(
    "content",
    [
        b"OFF\n4 2 0\n" + POINTS + b"3 0 1 2\n3 0 2 3\n",
        b"OFF4 2 0\n" + POINTS + b"3 0 1 2\n3 0 2 3\n",  # as some files of ModelNet have it
        b"# a square\nOFF\r\n4 1 4 # counts\r\n" + POINTS + b"4 0 1 2 3\r\n",
        b"# a square\rOFF\r4 1 4 # counts\r" + POINTS.replace(b"\n", b"\r") + b"4 0 1 2 3\r",
        b"OFF 4 2 0\n" + POINTS + b"3 0 1 2 255 0 0\n3 0 2 3 0 0 255\n",
        b"COFF 4 1 0\n" + POINTS.replace(b"\n", b" 1 0 0 1\n") + b"4 0 1 2 3\n",
        b"COFF 4 1 0\n" + POINTS.replace(b"\n", b" 1 0 0\n") + b"4 0 1 2 3\n",
        b"NOFF 4 1 0\n" + POINTS.replace(b"\n", b" 0 0 1\n") + b"4 0 1 2 3\n",
        b"STCNOFF 4 1 0\n" + POINTS.replace(b"\n", b" 0 0 1 9 9 9 9 5 5\n") + b"4 0 1 2 3\n",
    ],
)
def test_a_square_is_two_triangles(content: bytes) -> None:
    np.testing.assert_array_equal(read_off(content), HALVES)


def test_faces_may_have_different_numbers_of_corners() -> None:
    found = read_off(b"OFF 4 2 0\n" + POINTS + b"4 0 1 2 3\n3 1 2 3\n")
    np.testing.assert_array_equal(found, np.concatenate([HALVES, SQUARE[[[1, 2, 3]]]]))


def test_faces_without_area_take_little_memory() -> None:
    count = 100_000
    content = b"OFF 4 %d 0\n" % (count + 2) + POINTS + b"1 0\n3 0 1 2\n" + b"0\n" * count
    tracemalloc.start()
    try:
        found = read_off(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, SQUARE[[[0, 1, 2]]])
    assert peak < 32 * count  # a number is 2 bytes of text and 8 of float64, both copied once, and nothing for its face


def test_a_file_without_faces_is_its_points() -> None:
    np.testing.assert_array_equal(read_off(b"OFF 4 0 0\n" + POINTS), SQUARE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin with OFF"),
        (b"ply\n", "does not begin with OFF"),
        (b"OFF BINARY\n", "write it as text or as PLY"),
        (b"OFF 1 0", "lacks its numbers"),
        (b"OFF 0 0 0", "states 0 points"),
        (b"OFF 1 99999999999 0\n0 0 0", "99,999,999,999 faces"),
        (b"OFF -1 0 0", "is negative"),
        (b"OFF 1.5 0 0", "not whole"),
        (b"OFF 4 0 0\n1 2 3", "3 numbers are not those of 4 points"),
        (b"OFF 4 1 0\n" + POINTS + b"4 0 1 2", "are not those of"),
        (b"OFF 4 1 0\n" + POINTS + b"3 0 1 4", "corner 4, and there are points 0 to 3"),
        (b"OFF 4 1 0\n" + POINTS + b"3 0 1 x", "part of no number"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_off(content)


def test_no_damage_raises_another_error() -> None:
    stream = random.Random(0)
    source = b"OFF\n4 2 0\n" + POINTS + b"3 0 1 2\n4 0 1 2 3\n"
    for turn in range(400):
        content = bytearray(source)
        for _ in range(stream.randint(1, 3)):
            content[stream.randrange(len(content))] = stream.choice(b"0123456789 -.en\n#x")
        if turn % 3 == 0:
            del content[stream.randrange(len(content)) :]
        try:
            shape = read_off(bytes(content)).shape
        except ValueError:
            continue
        assert shape[-1] == 3
