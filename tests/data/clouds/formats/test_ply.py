"""PLY files as text and binary, with surfaces and other elements, and damaged ones."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sivae.bounds import CLOUD_ITEMS
from sivae.data.clouds.formats.ply import read_ply, write_ply

CORNERS = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5, 1.0)]
TRIANGLE, SQUARE = (0, 1, 4), (0, 1, 2, 3)


def header(form: str, points: int, faces: int, *, extra: str = "", list_type: str = "list uchar int") -> bytes:
    return (
        f"ply\nformat {form} 1.0\ncomment made by hand\nelement vertex {points}\nproperty float x\n{extra}"
        f"property float y\nproperty float z\nelement face {faces}\nproperty {list_type} vertex_indices\nend_header\n"
    ).encode()


def binary(order: str, faces: list[tuple[int, ...]]) -> bytes:
    form = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    rows = b"".join(struct.pack(f"{order}3f", *corner) for corner in CORNERS)
    lists = b"".join(struct.pack(f"{order}B{len(face)}i", len(face), *face) for face in faces)
    return header(form, len(CORNERS), len(faces)) + rows + lists


def text(faces: list[tuple[int, ...]]) -> bytes:
    rows = "".join(f"{x} {y:e} {z}\n" for x, y, z in CORNERS)
    lists = "".join(f"{len(face)} {' '.join(map(str, face))}\n" for face in faces)
    return header("ascii", len(CORNERS), len(faces)) + (rows + lists).encode()


def made(form: str, faces: list[tuple[int, ...]]) -> bytes:
    return text(faces) if form == "text" else binary(form, faces)


@pytest.mark.parametrize("form", ["text", "<", ">"])
@pytest.mark.parametrize("faces", [[TRIANGLE, (1, 2, 4)], [SQUARE], [TRIANGLE, SQUARE], [SQUARE, (0, 1), TRIANGLE]])
def test_polygons_become_triangles_around_their_first_corner(form: str, faces: list[tuple[int, ...]]) -> None:
    points = np.array(CORNERS)
    expected = {(face[0], face[k], face[k + 1]) for face in faces for k in range(1, len(face) - 1)}
    found = read_ply(made(form, faces))
    assert sorted(found.tolist()) == sorted(points[list(three)].tolist() for three in expected)


@pytest.mark.parametrize("form", ["text", "<", ">"])
def test_a_file_without_faces_is_its_points(form: str) -> None:
    np.testing.assert_array_equal(read_ply(made(form, [])), CORNERS)


def test_other_properties_and_elements_are_skipped() -> None:
    content = (
        b"ply\r\nformat ascii 1.0\r\nelement camera 2\r\nproperty list int float view\r\nelement vertex 1\r\n"
        b"property uchar red\r\nproperty double z\r\nproperty double x\r\nproperty double y\r\nend_header\r\n"
        b"2 7.5 7\r\n1 3\r\n255 3 1 2\r\n"
    )
    np.testing.assert_array_equal(read_ply(content), [(1.0, 2.0, 3.0)])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("byte", [b"\xc3\x85", b"\x85", b"\x1c", b"\x1e", b"\v", b"\f", b"\xe2\x80\xa8"])
def test_comments_have_any_bytes(byte: bytes, end: bytes) -> None:
    content = text([TRIANGLE]).replace(b"made by hand", b"by " + byte + b"sa").replace(b"\n", end)
    assert read_ply(content).shape == (1, 3, 3)


def test_only_the_first_list_of_corners_is_read() -> None:
    twice = "list uchar uchar vertex_indices\nproperty list uchar double"
    lists = bytes((3, 0, 1, 2, 0)) + bytes((4, 0, 1, 2, 3, 1)) + struct.pack("<d", 9.0)
    points = b"".join(struct.pack("<3f", *corner) for corner in CORNERS)
    found = read_ply(header("binary_little_endian", len(CORNERS), 2, list_type=twice) + points + lists)
    np.testing.assert_array_equal(found, np.array(CORNERS)[[[0, 1, 2], [0, 1, 2], [0, 2, 3]]])


def test_a_written_cloud_is_read_back(tmp_path: Path) -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    write_ply(tmp_path / "cloud.ply", points)
    np.testing.assert_array_equal(read_ply((tmp_path / "cloud.ply").read_bytes()), points.numpy())
    with pytest.raises(ValueError, match=r"points are \[20, 2\], expected \[N, 3\]"):
        write_ply(tmp_path / "cloud.ply", points[:, :2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin with ply"),
        (b"ply\nformat ascii 1.0\n", "its header does not end"),
        (b"ply\nelement vertex 1\nproperty float x\nend_header\n1\n", "states no format"),
        (header("binary_middle_endian", 1, 0), "has the line 'format binary_middle_endian"),
        (header("ascii", 1, 0).replace(b"float y", b"quaternion y"), "has the line 'property quaternion y'"),
        (header("ascii", -1, 0), "has the line 'element vertex -1'"),
        (header("ascii", CLOUD_ITEMS, 1), "states more than 10,000,000"),
        (header("ascii", 10**400, 1), "states more than 10,000,000"),
        (header("ascii", 0, 0), "has no points"),
        (header("ascii", 1, 0).replace(b"float y", b"float w") + b"1 2 3", "no x, y and z"),
        (header("ascii", 1, 0).replace(b"float y", b"list uchar int y") + b"1 1 2 3", "no x, y and z"),
        (header("ascii", 1, 0, extra="property float w\n" * 300), "more than 256 properties"),
        (header("ascii", 2, 0) + b"1 2 3 4 5", "is cut short"),
        (header("ascii", 1, 1) + b"1 2 3 1e300 0 0", "is cut short, or a list"),
        (header("ascii", 1, 1) + b"1 2 3 nan 0 0", "nan"),
        (header("ascii", 1, 1) + b"1 2 3 3 0 0 0.5", "not whole"),
        (header("ascii", 1, 1) + b"1 2 3 3 0 0 1", "corner 1, and there are points 0 to 0"),
        (header("ascii", 1, 0) + b"1 2 three", "part of no number"),
        (header("ascii", 1, 0) + b"1 2 e", "between its numbers"),
        (binary("<", [SQUARE])[:-1], "cut short, or a list"),
        (binary("<", [])[:-1], "cut short"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_ply(content)


def test_no_damage_raises_another_error() -> None:
    stream = random.Random(0)
    sources = [made(form, faces) for form in ("text", "<", ">") for faces in ([TRIANGLE, SQUARE], [SQUARE], [])]
    for turn in range(600):
        content = bytearray(sources[turn % len(sources)])
        for _ in range(stream.randint(1, 4)):
            content[stream.randrange(len(content))] = stream.randrange(256)
        if turn % 3 == 0:
            del content[stream.randrange(len(content)) :]
        try:
            shape = read_ply(bytes(content)).shape
        except ValueError:
            continue
        assert shape[-1] == 3
