"""A set is packed on the disk; neither a kill nor a mistake spoils it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sivae import files
from sivae.data.images import (
    PackedImages,
    at_resolution,
    load_packed,
    open_images,
    prepare,
    resume_file,
    verify_packed,
    write_prepared,
)
from sivae.data.images.loading import fitting
from sivae.data.images.prepared import DESCRIPTION, IMAGES, LABELS, RESUME
from sivae.errors import DamagedImageError, DataError, FolderInUseError
from tests.data.images.samples import encoded, pixels, pngs, write_files, write_zip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 images of 12 × 10 in two classes."""
    names = [f"{'ab'[number % 2]}/{number:02}.png" for number in range(60)]
    return write_files(tmp_path / "source", pngs(names, height=12, width=10))


def packed(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return prepare(source, out, **{"resolution": 8, "crop": "center", "progress": False} | options)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_packed_set_holds_what_loading_gives(source: Path, tmp_path: Path) -> None:
    facts = packed(source, tmp_path / "out")
    expected = load_packed(open_images(source), resolution=8, crop="center", progress=False)
    array = np.load(tmp_path / "out" / IMAGES, mmap_mode="r")
    assert array.dtype == np.uint8 and array.shape == (60, 8, 8, 3)
    assert np.array_equal(array, expected.array)
    assert np.array_equal(np.load(tmp_path / "out" / LABELS), expected.labels)
    names = [DESCRIPTION, "images-4.npy", IMAGES, LABELS]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert facts == json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    assert {
        key: facts[key]
        for key in ("format", "name", "count", "resolution", "channels", "levels", "class_names", "skipped")
    } == {
        "format": 1,
        "name": "source",
        "count": 60,
        "resolution": 8,
        "channels": 3,
        "levels": [4],
        "class_names": ["a", "b"],
        "skipped": [],
    }


def test_a_packed_set_opens_by_memory_map(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "out")
    images = open_images(tmp_path / "out")
    assert isinstance(images, PackedImages) and isinstance(images.array, np.memmap)
    assert not images.array.flags.writeable
    assert (images.name, images.class_names, images.label(1)) == ("source", ("a", "b"), 0)
    verify_packed(tmp_path / "out")


def test_a_set_without_classes_has_no_labels(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "flat.zip", pngs(["1.png", "2.png"]))
    packed(source, tmp_path / "out")
    assert not (tmp_path / "out" / LABELS).exists()
    assert open_images(tmp_path / "out").class_names is None


def test_contents_are_packed_too_without_those_of_damaged_images(tmp_path: Path) -> None:
    arrays = {"images": np.stack([pixels(seed) for seed in range(3)]), "labels": [1, 0, 1], "contents": [5, 4, 0]}
    np.savez(tmp_path / "set.npz", **arrays)
    packed(tmp_path / "set.npz", tmp_path / "out", crop=None)
    images = open_images(tmp_path / "out")
    assert [(images.label(index), images.content(index)) for index in range(3)] == [(1, 5), (0, 4), (1, 0)]
    assert len(images.content_names) == 6
    verify_packed(tmp_path / "out")


def test_a_packed_set_can_be_packed_smaller(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "out")
    packed(tmp_path / "out", tmp_path / "small", resolution=4, crop=None, channels=1)
    small = open_images(tmp_path / "small")
    assert small.read(0).shape == (4, 4, 1) and small.class_names == ("a", "b") and small.label(59) == 1


def test_parts_are_remembered(tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", pngs(["train/1.png", "test/1.png", "test/2.png"]))
    packed(source, tmp_path / "out", split="test")
    assert len(open_images(tmp_path / "out", split="test")) == 2
    with pytest.raises(DataError, match="out has no train images; it was made from the test images"):
        open_images(tmp_path / "out", split="train")


def test_lower_resolutions_are_written_too(source: Path, tmp_path: Path) -> None:
    facts = packed(source, tmp_path / "out", resolution=16)
    assert facts["levels"] == [8, 4]
    images = open_images(tmp_path / "out")
    assert isinstance(images, PackedImages)
    in_memory = PackedImages(np.array(images.array))
    for side in (8, 4):
        lower, made = at_resolution(images, side, budget_bytes=0), at_resolution(in_memory, side)
        assert isinstance(lower, PackedImages) and isinstance(made, PackedImages)
        assert isinstance(lower.array, np.memmap) and lower.label(1) == images.label(1)
        assert np.array_equal(lower.array, made.array)


@pytest.mark.parametrize("options", [{"resolution": 12}, {"resolution": 4}, {"resolution": 16, "levels": False}])
def test_sets_without_lower_resolutions(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """A side that cannot be halved to 4, the smallest side, and levels=False."""
    assert packed(source, tmp_path / "out", **options)["levels"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [DESCRIPTION, IMAGES, LABELS]
    verify_packed(tmp_path / "out")


def test_a_set_of_an_earlier_version_opens_and_is_left_alone(source: Path, tmp_path: Path) -> None:
    facts = packed(source, tmp_path / "out", levels=False)
    del facts["levels"], facts["made_from"]["levels"]
    (tmp_path / "out" / DESCRIPTION).write_text(json.dumps(facts))
    images = open_images(tmp_path / "out")
    assert isinstance(images, PackedImages) and images.levels == {}
    said: list[str] = []
    packed(source, tmp_path / "out", notice=said.append)
    assert said[-1:] == [
        f"{tmp_path / 'out'} is finished, without lower resolutions beside it; nothing is left to prepare"
    ]


def test_a_folder_of_stylegan_is_neither_opened_nor_overwritten_as_a_packed_set(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "faces", pngs(["00000/img00000000.png"]) | {DESCRIPTION: b'{"labels": null}'})
    assert len(open_images(folder)) == 1
    with pytest.raises(DataError, match="faces is not empty, and no packed set; choose another folder"):
        packed(folder, folder)
    assert (folder / DESCRIPTION).read_bytes() == b'{"labels": null}'


def test_preparing_a_finished_set_changes_nothing(source: Path, tmp_path: Path) -> None:
    facts = packed(source, tmp_path / "out")
    before = content_of(tmp_path / "out")
    said: list[str] = []
    assert packed(source, tmp_path / "out", notice=said.append) == facts
    assert said[-1:] == [f"{tmp_path / 'out'} is finished; nothing is left to prepare"]
    assert content_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 16}, r"another --resolution \(8 there, 16 now\)"),
        ({"crop": (0, 0, 8, 8)}, r"another --crop \(center there, \[0, 0, 8, 8\] now\)"),
        ({"channels": 1}, r"another --channels \(None there, 1 now\)"),
    ],
)
def test_other_arguments_are_refused(source: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    packed(source, tmp_path / "out")
    before = content_of(tmp_path / "out")
    with pytest.raises(DataError, match=f"{message}; choose another folder, or delete this one"):
        packed(source, tmp_path / "out", **changes)
    assert content_of(tmp_path / "out") == before


def test_a_source_that_has_changed_is_refused(source: Path, tmp_path: Path) -> None:
    packed(source, tmp_path / "out")
    (source / "a" / "00.png").write_bytes(encoded(pixels(99, 30, 30)))
    with pytest.raises(DataError, match="another source's content; choose"):
        packed(source, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "out", {"thesis.tex": b"x"})
    with pytest.raises(DataError, match="out is not empty, and no packed set"):
        packed(source, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file is a file"):
        packed(source, tmp_path / "file")
    assert content_of(tmp_path / "out") == {"thesis.tex": b"x"}


def test_images_that_are_not_square_need_a_crop_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"00\.png is 10×12 .* --crop center"):
        packed(source, tmp_path / "out", crop=None)
    assert not (tmp_path / "out").exists()


def test_damaged_images_are_named_or_left_out_and_listed(source: Path, tmp_path: Path) -> None:
    (source / "a" / "00.png").write_bytes(b"")
    (source / "b" / "31.png").write_bytes(encoded(pixels(31, 12, 10))[:60])
    said: list[str] = []
    with pytest.raises(
        DamagedImageError, match=r"^2 of 60 images of source .*00\.png is empty; .*31\.png is .*; --skip-d"
    ):
        packed(source, tmp_path / "out", notice=said.append)
    assert len([line for line in said if line.endswith("going on, to find all such images")]) == 1
    facts = packed(source, tmp_path / "out", skip_damaged=True)
    expected = load_packed(open_images(source, skip_damaged=True), resolution=8, crop="center", progress=False)
    images = open_images(tmp_path / "out")
    assert isinstance(images, PackedImages)
    assert np.array_equal(images.array, expected.array)
    assert images.labels is not None and expected.labels is not None
    assert np.array_equal(images.labels, expected.labels)
    assert (len(images), images.skipped) == (58, 2)
    assert [line.split(" is ")[0].rsplit("/", 1)[1] for line in facts["skipped"]] == ["00.png", "31.png"]
    verify_packed(tmp_path / "out")


# Kills and full disks


def in_a_child(work: Callable[[], object]) -> int:
    """Fork a process that does the work."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        try:
            work()
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    return child


def die_at(monkeypatch: pytest.MonkeyPatch, target: object, name: str, turn: int) -> None:
    """Kill the process that calls a function for the n-th time."""
    function, turns = getattr(target, name), iter(range(1, turn))

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(turns, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    monkeypatch.setattr(target, name, dying)


_KILLS: dict[str, tuple[object, str, int]] = {
    "before the pixels' file": (write_prepared, "_make_room", 1),
    "before the first block": (write_prepared, "_write_all", 1),
    "between a block and its lower resolution": (write_prepared, "_write_all", 2),
    "after some blocks": (write_prepared, "_write_all", 18),
    "before the first line": (resume_file.ResumeFile, "append", 1),
    "after some lines": (resume_file.ResumeFile, "append", 6),
    "before gaps are closed": (write_prepared, "_leave_out", 1),
    "before gaps of a lower resolution are closed": (write_prepared, "_leave_out", 2),
    "before the labels": (write_prepared, "_write_named", 1),
    "before the description": (write_prepared.files, "write_json", 1),
}


@pytest.mark.parametrize("kill", _KILLS)
def test_a_killed_run_resumes_and_writes_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    (source / "a" / "10.png").write_bytes(b"")
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    packed(source, tmp_path / "whole", skip_damaged=True)
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        die_at(patched, *_KILLS[kill])
        child = in_a_child(lambda: packed(source, out, skip_damaged=True, workers=2))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with pytest.raises(DataError, match="out is unfinished; repeat the sivae prepare command that began it"):
        open_images(out)
    if kill == "after some lines":
        with (out / RESUME).open("ab") as file:  # a line that a power failure cut short
            file.write(b'{"block": 7, "dige')
        with pytest.raises(DataError, match=r"another --resolution \(8 there, 16 now\)"):
            packed(source, out, skip_damaged=True, resolution=16)
    said: list[str] = []
    packed(source, out, skip_damaged=True, notice=said.append)
    early = (
        "the pixels' file",
        "the first block",
        "a block and its lower resolution",
        "the first line",
    )
    assert any("going on with" in words for words in said) != kill.endswith(early)
    assert content_of(out) == content_of(tmp_path / "whole")


def test_finished_blocks_are_not_decoded_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    monkeypatch.setattr(fitting, "_PROBED", 1)  # else the damage would be found before packing
    broken = source / "b" / "45.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:-40] + bytes(40))
    with pytest.raises(DataError, match=r"45\.png is damaged"):
        packed(source, tmp_path / "out", workers=1)
    broken.write_bytes(content)
    decoded: list[int] = []

    def counted(images: Any, index: int, shape: Any) -> np.ndarray:
        decoded.append(index)
        return fitting.fit_image(images, index, shape)

    monkeypatch.setattr(write_prepared, "fit_image", counted)
    packed(source, tmp_path / "out")
    assert decoded and min(decoded) >= 4 and len(decoded) < 60
    verify_packed(tmp_path / "out")


def test_a_run_without_finished_blocks_may_begin_with_other_arguments(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_PROBED", 1)  # else the damage would be found before packing
    (source / "a" / "02.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"02\.png is empty"):
        packed(source, tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "images-4.npy").is_file()
    assert packed(source, tmp_path / "out", resolution=4, skip_damaged=True)["count"] == 59
    assert not (tmp_path / "out" / "images-4.npy").exists()


def test_an_unfinished_run_keeps_its_lower_resolutions(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    with monkeypatch.context() as patched:
        die_at(patched, resume_file.ResumeFile, "append", 3)
        os.waitpid(in_a_child(lambda: packed(source, tmp_path / "out")), 0)
    with pytest.raises(DataError, match=r"another choice of lower resolutions \(True there, False now\)"):
        packed(source, tmp_path / "out", levels=False)
    (tmp_path / "out" / "images-4.npy").unlink()
    with pytest.raises(
        DataError, match=r"images-4\.npy is missing, and does not fit the prepare\.journal beside it; delete"
    ):
        packed(source, tmp_path / "out")


def test_two_processes_do_not_prepare_one_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with files.locked(tmp_path / "out", "prepares"), pytest.raises(FolderInUseError, match="another process prepares"):
        packed(source, tmp_path / "out")


def test_a_set_that_does_not_fit_the_disk_is_refused_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_prepared.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(DataError, match=r"out needs 14\.4 kB, and only 1\.0 kB of the disk are free"):
        packed(source, tmp_path / "out")


def test_an_interrupt_stops_the_threads_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> np.ndarray:
        (tmp_path / "begun").touch()
        time.sleep(1.0)
        return fitting.fit_image(*arguments)

    monkeypatch.setattr(write_prepared, "fit_image", slow)
    child = in_a_child(lambda: packed(source, tmp_path / "out", workers=2))
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    begun = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert time.monotonic() - begun < 15  # 60 images of a second take two threads 30 seconds


def begun(source: Path, out: Path, blocks: int) -> None:
    """Prepare a set until a kill that leaves its first blocks finished."""

    def one_by_one(work: Any, all_blocks: list[range], _: int) -> Iterator[Any]:
        return (work(block, threading.Event()) for block in all_blocks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(write_prepared, "in_parallel", one_by_one)
        die_at(patched, resume_file.ResumeFile, "append", blocks + 1)
        os.waitpid(in_a_child(lambda: packed(source, out, workers=1)), 0)


@pytest.mark.parametrize("name", [IMAGES, "images-4.npy"])
def test_blocks_whose_pixels_changed_are_made_again(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    packed(source, tmp_path / "whole")
    out = tmp_path / "out"
    begun(source, out, 6)
    array = np.load(out / name, mmap_mode="r+")
    array[9] = 0
    array.flush()
    said: list[str] = []
    packed(source, out, notice=said.append)
    assert f"{out}: 1 finished block of images changed since, and will be made again" in said
    assert f"going on with {out}: 20 images are there" in said
    assert content_of(out) == content_of(tmp_path / "whole")


def test_a_set_whose_gaps_are_closed_and_whose_pixels_changed_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    (source / "a" / "10.png").write_bytes(b"")
    packed(source, tmp_path / "whole", skip_damaged=True)
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        die_at(patched, write_prepared, "_leave_out", 2)
        os.waitpid(in_a_child(lambda: packed(source, out, skip_damaged=True)), 0)
    array = np.load(out / IMAGES, mmap_mode="r+")
    assert len(array) == 59
    array[40] = 0
    array.flush()
    packed(source, out, skip_damaged=True)
    assert content_of(out) == content_of(tmp_path / "whole")


def _resume_line(**changes: Any) -> bytes:
    return json.dumps({"block": 2, "digests": "00" * 32, "damaged": []} | changes).encode()


def _goes_on_with_line(number: int, line: bytes, source: Path, folder: Path) -> list[str]:
    """Replace a line of an unfinished set's progress file, go on, compare with a set that never stopped."""
    packed(source, folder / "whole")
    out = folder / "out"
    begun(source, out, 6)
    lines = (out / RESUME).read_bytes().split(b"\n")
    (out / RESUME).write_bytes(b"\n".join([*lines[:number], line, *lines[number + 1 :]]))
    said: list[str] = []
    packed(source, out, notice=said.append)
    assert content_of(out) == content_of(folder / "whole")
    return said


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 100,
        b"[" * 10_000,
        b'{"block": Infinity}',
        _resume_line(block=10**6),
        _resume_line(block=-1),
        _resume_line(block="2"),
        _resume_line(digests="no"),
        _resume_line(digests=["00"]),
        _resume_line(damaged=5),
        _resume_line(damaged=[5]),
        _resume_line(damaged=[[10**6, "far"]]),
        _resume_line(damaged=[["8", "text"]]),
        _resume_line(damaged=[[8, "a fine image"]]),
    ],
)
def test_a_damaged_line_of_the_progress_file_loses_its_block_alone(
    line: bytes, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    said = _goes_on_with_line(3, line, source, tmp_path)
    assert said[-1] == f"going on with {tmp_path / 'out'}: 20 images are there"


@pytest.mark.parametrize("line", [b"", b"[]", b'{"asked": 5}', b"\xff", b"[" * 10_000])
def test_a_set_with_a_damaged_request_is_begun_anew(
    line: bytes, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    _goes_on_with_line(0, line, source, tmp_path)


_HEADS = [
    b"PK\x03\x04",
    b"\x93NUMPY\x07",
    b"\x93NUMPY\x01\x00\xff\xff",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': True,",
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', ",
    b"\x93NUMPY\x01\x00v\x00{'descr': (((((",
    b"\x93NUMPY\x01\x00v\x00'''",
    b"\x80\x04N.",
]


@pytest.mark.parametrize("head", _HEADS)
def test_pixels_of_another_kind_in_an_unfinished_set_are_an_error(
    head: bytes, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_IMAGES", (4, 4))
    out = tmp_path / "out"
    begun(source, out, 6)
    content = (out / IMAGES).read_bytes()
    (out / IMAGES).write_bytes(head + content[len(head) :])
    with pytest.raises(DataError, match=r"images\.npy is .*, and does not fit the prepare\.journal .*; delete"):
        packed(source, out)


# Damage to a packed set


def test_damage_to_a_packed_set_is_noticed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed(source, out)
    whole = content_of(out)

    def opening_fails(message: str) -> None:
        with pytest.raises(DataError, match=message):
            open_images(out)
        write_files(out, whole)
        assert len(open_images(out)) == 60

    (out / IMAGES).write_bytes(whole[IMAGES][:-1])
    opening_fails(r"images\.npy is damaged")
    (out / IMAGES).write_bytes(whole[IMAGES] * 2)
    opening_fails(r"images\.npy is damaged \(it goes on after")
    (out / IMAGES).unlink()
    opening_fails(r"images\.npy is missing")
    np.save(out / IMAGES, np.zeros((60, 8, 8, 1), np.uint8))
    opening_fails(r"images\.npy is uint8 of shape \[60, 8, 8, 1\], where dataset\.json has uint8 \[60, 8, 8, 3\]")
    (out / LABELS).unlink()
    opening_fails(r"labels\.npy is missing")
    np.save(out / LABELS, np.full(60, 7))
    opening_fails("a label is outside 0 to 1")
    (out / DESCRIPTION).write_text("{")
    opening_fails(r"dataset\.json is damaged: not JSON")
    (out / DESCRIPTION).write_text(json.dumps(json.loads(whole[DESCRIPTION]) | {"format": 2}))
    opening_fails(r"dataset\.json: format is 2, expected 1; .* or make the set again")
    (out / DESCRIPTION).write_text(json.dumps(json.loads(whole[DESCRIPTION]) | {"count": "60"}))
    opening_fails(r'dataset\.json is damaged: count = "60": expected a whole number')
    for levels in (4, [8], ["4"], [2], [True]):
        (out / DESCRIPTION).write_text(json.dumps(json.loads(whole[DESCRIPTION]) | {"levels": levels}))
        opening_fails(r"dataset\.json is damaged: levels = ")
    for key, value in {"skipped": 5, "part": ["test"], "class_names": "ab", "name": [], "channels": 2}.items():
        (out / DESCRIPTION).write_text(json.dumps(json.loads(whole[DESCRIPTION]) | {key: value}))
        opening_fails(rf"dataset\.json is damaged: {key} = .*; make the set again with sivae prepare")
    for head in _HEADS:
        (out / IMAGES).write_bytes(head + whole[IMAGES][len(head) :])
        opening_fails(r"images\.npy is .*; make the set again with sivae prepare")
    (out / "images-4.npy").unlink()
    opening_fails(r"images-4\.npy is missing")
    (out / "images-4.npy").write_bytes(whole["images-4.npy"][:-1] + bytes([whole["images-4.npy"][-1] ^ 1]))
    with pytest.raises(DataError, match=r"images-4\.npy is not as it was made"):
        verify_packed(out)
    write_files(out, whole)
    (out / IMAGES).write_bytes(whole[IMAGES][:-1] + bytes([whole[IMAGES][-1] ^ 1]))
    with pytest.raises(DataError, match="is not as it was made"):
        verify_packed(out)
