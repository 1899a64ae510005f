"""Compressed files are unpacked as their own programs do, and bombs are refused early."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import numpy as np
import pytest

from sivae import bounds
from sivae.data.unpacking import Unpacked, is_compressed
from sivae.errors import DataError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
}
FREE = 1_000_000  # bytes that any file may unpack to, in these tests
CONTENT = np.random.default_rng(0).integers(0, 200, 300_000, np.uint8).tobytes()


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", FREE)


def unpacked(content: bytes, most: int | None = None) -> Unpacked:
    return Unpacked(io.BytesIO(content), "it", most=most, remedy="; unpack it")


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_reading_and_skipping(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(CONTENT)
    assert is_compressed(packed[:64])
    stream = unpacked(packed)
    assert stream.read(10) == CONTENT[:10]
    stream.skip(200_000)
    assert stream.position == 200_010
    assert stream.read(10**6) == CONTENT[200_010:]
    assert stream.read(1) == b"" and stream.position == len(CONTENT)


@pytest.mark.parametrize("pack", list(PACKERS.values())[:3], ids=list(PACKERS)[:3])
@pytest.mark.parametrize("between", [b"", bytes(4)])
def test_several_streams_are_one_file(pack: Callable[[bytes], bytes], between: bytes) -> None:
    assert unpacked(between.join([pack(CONTENT), pack(b"more"), b""])).read(10**6) == CONTENT + b"more"


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_what_is_cut_short_or_damaged_is_named(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(CONTENT)
    for damaged in (packed[:-20_000], packed[:30]):
        with pytest.raises(DataError, match="it is damaged: it is cut short; fetch it again"):
            unpacked(damaged).read(10**6)
    with pytest.raises(DataError, match=r"it is damaged: .*; fetch it again"):
        unpacked(packed[:9] + b"\xff" * 40 + packed[49:]).read(10**6)


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_bomb_is_refused_when_it_passes_the_bound(pack: Callable[[bytes], bytes]) -> None:
    stream = unpacked(pack(bytes(FREE + 1_000_000)))
    with pytest.raises(DataError, match=r"it unpacks to more than 250 times its size, .*; unpack it"):
        stream.skip(1 << 40)
    assert stream.position <= FREE


def test_more_than_the_allowed_bytes_are_refused() -> None:
    with pytest.raises(DataError, match=r"it holds more than 100\.0 kB; unpack it"):
        unpacked(gzip.compress(CONTENT), most=100_000).read(10**6)


def test_memory_for_xz_is_bounded() -> None:
    packed = bytearray(lzma.compress(b"x", format=lzma.FORMAT_ALONE))
    packed[1:5] = b"\0\0\0\xc0"  # a dictionary of 3 GB
    with pytest.raises(DataError, match="it is damaged: Memory usage limit exceeded"):
        unpacked(bytes(packed)).read(1)
