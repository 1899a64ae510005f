"""Tars of every program are listed, and damaged or hostile ones are refused at once."""

from __future__ import annotations

import io
import tarfile

import pytest

from sivae.data.tar_members import BLOCK, Member, is_header, members


class _Bytes(io.BytesIO):
    @property
    def position(self) -> int:
        return self.tell()

    def skip(self, size: int) -> None:
        self.seek(size, io.SEEK_CUR)


def header(name: bytes = b"a", *, size: bytes = b"00000000001\0", kind: bytes = b"0") -> bytes:
    block = name.ljust(100, b"\0") + bytes(24) + size + bytes(12) + b" " * 8 + kind
    block = block.ljust(257, b"\0") + b"ustar\x0000"
    block = block.ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def extended(kind: bytes, content: bytes) -> bytes:
    return header(size=b"%011o\0" % len(content), kind=kind) + content + bytes(-len(content) % BLOCK)


def listed(content: bytes) -> list[Member]:
    return list(members(_Bytes(content), []))


FILE = header() + b"x".ljust(BLOCK, b"\0")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_python_lists_as_python_does(form: int) -> None:
    content = io.BytesIO()
    long = "folder/" * 20
    names = ["a.png", "ä/b.png", f"{long}c.png", f"{long}{'d' * 90}.png"]
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        for count, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 511 + count
            archive.addfile(member, io.BytesIO(bytes([count]) * member.size))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                other = tarfile.TarInfo(f"{name}-{kind.decode()}")
                other.type, other.linkname = kind, long * 2 if form != tarfile.USTAR_FORMAT else "a.png"
                archive.addfile(other)
    with tarfile.open(fileobj=io.BytesIO(content.getvalue())) as archive:
        expected = [Member(one.name, one.offset_data, one.size) for one in archive if one.isreg()]
    assert listed(content.getvalue()) == expected
    assert [one.name for one in expected] == names


def test_files_with_holes_are_left_out() -> None:
    # GNU's own header, of which more may follow, and its records in a pax header.
    own = bytearray(header(kind=b"S"))
    own[482] = 1
    own[148:156] = b"%06o\0 " % sum(own[:148] + b" " * 8 + own[156:])
    more = bytes(504) + b"\1" + bytes(7), bytes(BLOCK)
    content = b"x".ljust(BLOCK, b"\0")
    records = extended(b"x", b"22 GNU.sparse.major=1\n")
    assert listed(bytes(own) + b"".join(more) + content + records + FILE + FILE) == [Member("a", 9 * BLOCK, 1)]


def test_a_tar_may_end_without_its_empty_blocks() -> None:
    assert listed(FILE) == listed(FILE + bytes(2 * BLOCK)) == [Member("a", BLOCK, 1)]
    assert listed(b"") == []


def test_a_size_in_a_pax_header_replaces_the_other() -> None:
    assert listed(extended(b"x", b"10 size=3\n") + FILE) == [Member("a", 3 * BLOCK, 3)]


def test_headers_have_a_checksum() -> None:
    assert is_header(FILE) and is_header(header(b"\xff" * 90))
    signed = header(b"\xff" * 90)
    total = sum(signed[:148] + b" " * 8 + signed[156:]) - 90 * 256
    assert is_header(signed[:148] + b"%06o\0 " % total + signed[156:])
    assert not is_header(FILE[:BLOCK].replace(b"a", b"b", 1)) and not is_header(FILE[:100])
    assert not is_header(b"z" * BLOCK)


HOSTILE = {
    "a negative size": (FILE + header(size=b"\xff" * 11 + b"\xfe"), "file at byte 1,024 claims to hold -2 bytes"),
    "a size beyond all files": (header(size=b"\x80" + b"\x7f" * 11), "claims to hold"),
    "a size that is no number": (header(size=b"banana".ljust(12)), "invalid literal"),
    "a negative size in a pax header": (extended(b"x", b"11 size=-3\n") + FILE, "has '-3' as a size"),
    "a name of two million folders": (extended(b"L", b"a/" * 2_000_000) + FILE, "has 4,000,000 bytes, more than"),
    "a long name": (extended(b"x", b"10017 path=" + b"a" * 10_005 + b"\n") + FILE, "has a name of 10,005 bytes"),
    "a pax header of zeros": (extended(b"x", b"0" * 1_000_000) + FILE, "the header at byte 0 is damaged"),
    "a larger one": (extended(b"g", b"0" * 2_000_000) + FILE, "has 2,000,000 bytes, more than 1,048,576"),
    "a record that goes on behind its header": (extended(b"x", b"99 path=a\n") + FILE, "header at byte 0 is damaged"),
    "a record without length": (extended(b"x", b"0 path=a\n") + FILE, "header at byte 0 is damaged"),
    "something else": (FILE + b"x" * BLOCK, "block at byte 1,024 is no header"),
    "a cut header": (FILE + header()[:100], "block at byte 1,024 is cut short"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tar_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listed(content)
