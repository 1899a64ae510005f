"""Folders and archives that would take a process down are refused by name."""

from __future__ import annotations

import errno
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sivae import bounds
from sivae.bounds import FOLDER_DEPTH
from sivae.data.images import open_images
from sivae.data.stores import FolderStore, SharedFile, TarStore, ZipStore, open_store, read_file
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import pngs, write_files, write_tar, write_zip

FREE = 1_000_000  # bytes that any file may unpack to, in these tests
DEEP = "f/" * (FOLDER_DEPTH + 1)


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", FREE)


def test_deeper_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / DEEP).mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds folders within folders, more than 100 deep .*; move the files into"):
        open_images(tmp_path)


def test_links_that_lead_to_one_folder_in_many_ways_are_named(tmp_path: Path) -> None:
    for level in range(40):
        (tmp_path / str(level)).mkdir()
    for level in range(39):
        for link in "ab":
            (tmp_path / str(level) / link).symlink_to(tmp_path / str(level + 1))
    with pytest.raises(DataError, match=r"is reached by more than 100 links; remove links in"):
        FolderStore(tmp_path)


def test_folders_as_deep_as_the_bound_are_read(tmp_path: Path) -> None:
    name = "f/" * FOLDER_DEPTH + "1.png"
    assert list(FolderStore(write_files(tmp_path / "a", pngs([name]))).sizes) == [name]
    assert list(ZipStore(write_zip(tmp_path / "a.zip", pngs([name]))).sizes) == [name]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed: Permission denied; make it readable"):
        FolderStore(tmp_path)


def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "1.png").open("wb") as file:
        os.truncate(file.fileno(), 1 << 42)  # takes no space on the disk
    with pytest.raises(DataError, match=r"1\.png holds 4398\.0 GB, more than half of the free memory") as caught:
        FolderStore(tmp_path).read("1.png")
    assert not isinstance(caught.value, DamagedImageError)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_file_in_an_archive_that_fits_no_memory_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    name = "set.zip" if write is write_zip else "set.tar"
    store = open_store(write(tmp_path / name, {"1.png": b"whole"}))
    monkeypatch.setattr("sivae.data.stores.fits_memory", lambda size: False)
    with pytest.raises(DataError, match=r"1\.png in .* more than half of the free memory") as caught:
        store.read("1.png")
    assert not isinstance(caught.value, DamagedImageError)


def test_a_pipe_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe is neither a folder nor a file, .*; copy its content to a file"):
        open_images(tmp_path / "pipe")
    with pytest.raises(DamagedImageError, match=r"pipe is no file, but a pipe or a device; copy its content to a file"):
        read_file(tmp_path / "pipe")


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("1.png", bytes(FREE + 1))
    with pytest.raises(DamagedImageError, match=r"1\.png in .*set\.zip claims to unpack to 1\.0 MB, more than 250"):
        ZipStore(path).read("1.png")


def test_a_bomb_that_claims_little_is_unpacked_as_far_as_it_claims(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(FREE))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", FREE), struct.pack("<I", 1000)))
    with pytest.raises(DamagedImageError, match=r"1\.png in .*set\.zip is damaged: Bad CRC"):
        ZipStore(path).read("1.png")


def test_files_that_share_their_bytes_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"1.png": bytes(1000)})
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    listed = content[start:end] * 3
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 3, 3, len(listed), start, 0)
    path.write_bytes(content[:start] + listed + tail)
    with pytest.raises(DataError, match=r"set\.zip claims to hold 3 files in more bytes than it has"):
        ZipStore(path)


def test_a_file_without_a_name_in_a_zip_is_left_out(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"1.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"1.png", b"\0.png"))
    assert ZipStore(path).sizes == {}


def test_deep_names_in_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.zip holds folders within folders, more than 100 deep"):
        ZipStore(write_zip(tmp_path / "set.zip", {f"{DEEP}1.png": b""}))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(f"{DEEP}1.png"))
    with pytest.raises(DataError, match=r"set\.tar holds folders within folders, more than 100 deep"):
        TarStore(tmp_path / "set.tar")


def test_a_bomb_in_a_compressed_tar_is_refused_early(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo(".hidden")
        member.size = FREE + 1_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "set.tar.xz").write_bytes(lzma.compress(content.getvalue(), preset=0))
    with pytest.raises(DataError, match=r"set\.tar\.xz unpacks to more than 250 times its size, .* name the folder"):
        TarStore(tmp_path / "set.tar.xz")


def test_a_damaged_header_in_a_tar_is_named_and_not_its_end(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in pngs(["1.png", "2.png"]).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    damaged = path.read_bytes().replace(b"2.png", b"3.png")
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"set\.tar is no tar archive, or it is damaged: its block at byte 1,024 is no"):
        TarStore(path)


def test_a_file_that_is_cut_short_in_a_tar_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("1.png")
        member.size = 2000
        archive.addfile(member, io.BytesIO(bytes(2000)))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DamagedImageError, match=r"1\.png in .*set\.tar is cut short"):
        TarStore(path).read("1.png")
    path.with_suffix(".tar.xz").write_bytes(lzma.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"set\.tar\.xz is no tar archive, or it is damaged: 1\.png in it is cut short"):
        TarStore(path.with_suffix(".tar.xz"))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_system_lacks_at_the_moment_damages_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder, archive = FolderStore(write_files(tmp_path / "a", {"1.png": b"1"})), tmp_path / "set.zip"
    packed = ZipStore(write_zip(archive, {"1.png": b"1"}))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    for store in (folder, packed):
        with pytest.raises(OSError) as caught:
            store.read("1.png")
        assert caught.value.errno == code


def test_of_many_tars_only_those_read_last_are_open(tmp_path: Path) -> None:
    tars = [TarStore(write_tar(tmp_path / f"{number:03}.tar", {"1.png": b"%d" % number})) for number in range(100)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [tar.read("1.png") for tar in tars] == [b"%d" % number for number in range(100)]
    assert len(os.listdir("/proc/self/fd")) <= before + 32
    tars.clear()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_threads_read_files_that_are_closed_and_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sivae.data.stores._OPEN_FILES", 1)
    files = [SharedFile(write_files(tmp_path, {str(number): b"%d" % number}) / str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        content = list(threads.map(lambda number: files[number % 8].read_at(0, 1), range(4000)))
    assert content == [b"%d" % (number % 8) for number in range(4000)]
