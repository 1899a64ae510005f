"""Packing a data set once: every image decoded, checked, resized and laid beside the others in one file.

The pixels go to their final place at once. A journal tells which blocks of images are there, so that a run that was
killed goes on; `dataset.json` is written last, and with it the set is finished.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sivae import files
from sivae.data.images.base import DamagedImageError, DataError, ImageSet, Notice, Split, nothing
from sivae.data.images.geometry import Crop, check_shape_request
from sivae.data.images.memory import amount
from sivae.data.images.opening import open_images
from sivae.data.images.packed import (
    DESCRIPTION,
    FORMAT,
    IMAGES,
    JOURNAL,
    LABELS,
    image_digest,
    read_description,
    set_digest,
)
from sivae.data.images.packing import (
    Shape,
    Stopped,
    all_labels,
    fit_image,
    in_parallel,
    plan,
    skips_damaged,
    workers_or_default,
)
from sivae.data.images.progress import Counter

_COPY_BYTES = 64 << 20


def prepare(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    resolution: int,
    crop: Crop = None,
    channels: int | None = None,
    split: Split | None = None,
    workers: int | None = None,
    skip_damaged: bool = False,
    progress: bool = True,
    notice: Notice = nothing,
) -> dict[str, Any]:
    """Pack a data set into a folder that :func:`open_images` opens at once.

    Whatever ends it early, the same call goes on where it was. A finished set is left alone.

    Args:
        source: what :func:`open_images` reads.
        destination: the folder to make: new, empty, or of an earlier call with the same arguments.
        resolution: pixels of the square images, resized by an antialiased Lanczos filter.
        crop: what to cut out before: "center", the largest square in the middle; or (top, left, height, width). None
            refuses images that are not square.
        channels: 1 or 3; None: RGB where images are, else grey.
        split: which part of the source.
        workers: threads; None: one for each core.
        skip_damaged: leave damaged images out, list them in `dataset.json`, and count them.
        progress: show it where it takes long.
        notice: told what a user may want to know.

    Returns:
        What `dataset.json` says.

    Raises:
        DataError: source or destination cannot be used, or an image is damaged.
    """
    check_shape_request(resolution, crop, channels)
    threads = workers_or_default(workers)
    images = open_images(source, split=split, skip_damaged=skip_damaged, notice=notice)
    folder = Path(destination)
    asked = {
        "source": images.name,
        "fingerprint": getattr(images, "fingerprint", None),
        "count": len(images),
        "resolution": resolution,
        "crop": list(crop) if isinstance(crop, tuple) else crop,
        "channels": channels,
        "part": getattr(images, "part", None),
    }
    if (finished := _finished(folder, asked)) is not None:
        notice(f"{folder} is finished; nothing is left to prepare")
        return finished
    _check_destination(folder)
    try:
        shape = plan(images, resolution=resolution, crop=crop, channels=channels)
    except DamagedImageError as error:
        raise _damaged(error) from None
    folder.mkdir(parents=True, exist_ok=True)
    with _only_process_in(folder):
        files.remove_leftovers(folder)
        blocks = shape.blocks(len(images))
        head = {"asked": asked, "channels": shape.channels, "block": len(blocks[0])}
        journal = _Journal(folder / JOURNAL, head)
        done = journal.open()
        if done:
            notice(f"going on with {folder}: {sum(len(blocks[block]) for block in done):,} images are there")
        if any(entry.damaged for entry in done.values()) and not skip_damaged:
            raise DataError(f"{folder} was begun with --skip-damaged, and has skipped images; go on with it too")
        _decode(images, folder, shape, blocks, journal, done, threads, progress)
        return _finish(images, folder, shape, blocks, asked, done)


@dataclass
class _Entry:
    """What the journal knows of a block: the images' digests one after another, and (index, reason) of damaged ones."""

    digests: str
    damaged: list[tuple[int, str]] = field(default_factory=list)


class _Journal:
    """A line of JSON for what was asked for, then one for each block whose pixels are on the disk."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self._path = path
        self._head = json.loads(json.dumps(head))

    def open(self) -> dict[int, _Entry]:
        """The blocks that are done. A journal without any, or none at all, begins anew.

        Raises:
            DataError: it is of another request.
        """
        head, done, whole = self._read()
        if done:
            _refuse_other(self._path.parent, head.get("asked", {}), self._head["asked"])
        if not done or head != self._head:
            files.write_text(self._path, json.dumps(self._head) + "\n")
            return {}
        with self._path.open("r+b") as file:
            file.truncate(whole)  # a last line that was being written when the power failed
        return done

    def _read(self) -> tuple[dict[str, Any], dict[int, _Entry], int]:
        head: dict[str, Any] = {}
        done: dict[int, _Entry] = {}
        whole = 0
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                try:
                    content = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    if whole:
                        damaged = [(int(index), str(reason)) for index, reason in content["damaged"]]
                        done[int(content["block"])] = _Entry(str(content["digests"]), damaged)
                    else:
                        head = dict(content)
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
        return head, done, whole

    def append(self, block: int, entry: _Entry) -> None:
        """A block whose pixels are on the disk."""
        line = json.dumps({"block": block, "digests": entry.digests, "damaged": entry.damaged})
        with self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def _decode(
    images: ImageSet,
    folder: Path,
    shape: Shape,
    blocks: list[range],
    journal: _Journal,
    done: dict[int, _Entry],
    threads: int,
    progress: bool,
) -> None:
    """Bring the blocks that are not done to the disk."""
    left = [block for block in range(len(blocks)) if block not in done]
    if not left:
        return
    path = folder / IMAGES
    full = (len(images), shape.resolution, shape.resolution, shape.channels)
    offset = _make_room(path, full, fresh=not done)
    may_skip = skips_damaged(images)
    before = sum(len(blocks[block]) for block in done)
    with path.open("r+b") as file, Counter(f"packing {images.name}", full[0], done=before, enabled=progress) as counter:

        def work(block: range, stop: threading.Event) -> tuple[range, _Entry]:
            entry = _Entry("")
            pixels = np.zeros((len(block), *full[1:]), np.uint8)
            for row, index in enumerate(block):
                if stop.is_set():
                    raise Stopped
                try:
                    pixels[row] = fit_image(images, index, shape)
                except DamagedImageError as error:
                    if not may_skip:
                        raise _damaged(error) from None
                    entry.damaged.append((index, str(error)))
                else:
                    entry.digests += image_digest(pixels[row]).hex()
                counter.advance()
            _write_all(file.fileno(), pixels, offset + block.start * shape.image_bytes)
            os.fsync(file.fileno())
            return block, entry

        number = {blocks[block].start: block for block in left}
        with contextlib.closing(in_parallel(work, [blocks[block] for block in left], threads)) as results:
            for block, entry in results:
                journal.append(number[block.start], entry)
                done[number[block.start]] = entry


def _damaged(error: DamagedImageError) -> DataError:
    return DataError(f"{error}; --skip-damaged leaves such images out")


def _write_all(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    content = pixels.data.cast("B")
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _make_room(path: Path, shape: tuple[int, ...], *, fresh: bool) -> int:
    """The file of pixels at its full size.

    Returns:
        Where in the file the pixels begin.
    """
    if fresh or not path.exists():
        size = int(np.prod(shape, dtype=np.int64))
        free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
        if size > free:
            raise DataError(f"{path} needs {amount(size)}, and only {amount(free)} of the disk are free")
        with files.atomic_file(path) as temporary:
            offset = int(np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).offset)
            with temporary.open("r+b") as file:
                _reserve(file.fileno(), offset + size)
        return offset
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap) or array.shape != shape:
        raise DataError(f"{path} is not the file that the journal beside it speaks of; delete {path.parent}")
    return int(array.offset)


def _reserve(descriptor: int, size: int) -> None:
    """Take the space now, so that a full disk is an error now."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _finish(
    images: ImageSet, folder: Path, shape: Shape, blocks: list[range], asked: dict[str, Any], done: dict[int, _Entry]
) -> dict[str, Any]:
    entries = [done[block] for block in range(len(blocks))]
    damaged = dict(pair for entry in entries for pair in entry.damaged)
    kept = np.delete(np.arange(len(images)), sorted(damaged))
    if not len(kept):
        raise DataError(
            f"{images.name}: none of its {len(images):,} images can be read; {next(iter(damaged.values()))}"
        )
    if damaged:
        _leave_out(folder / IMAGES, kept)
    labels = all_labels(images)
    if labels is not None:
        with files.atomic_file(folder / LABELS) as temporary, temporary.open("wb") as file:
            np.save(file, labels[kept])
    facts = {
        "format": FORMAT,
        "name": images.name,
        "count": len(kept),
        "resolution": shape.resolution,
        "channels": shape.channels,
        "class_names": None if labels is None or images.class_names is None else list(images.class_names),
        "part": asked["part"],
        "skipped": list(damaged.values()),
        "pixels": set_digest(bytes.fromhex("".join(entry.digests for entry in entries))),
        "made_from": asked,
    }
    files.write_json(folder / DESCRIPTION, facts)
    (folder / JOURNAL).unlink()
    return facts


def _leave_out(path: Path, kept: np.ndarray) -> None:
    """Close the gaps that damaged images have left; that they are closed already is seen by the size."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if len(array) == len(kept):
        return
    step = max(1, _COPY_BYTES // int(np.prod(array.shape[1:])))
    with files.atomic_file(path) as temporary:
        packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(kept), *array.shape[1:]))
        for start in range(0, len(kept), step):
            packed[start : start + step] = array[kept[start : start + step]]
        packed.flush()


def _finished(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What is there, where it is finished.

    Raises:
        DataError: it was made with other arguments.
    """
    if not (folder / DESCRIPTION).is_file():
        return None
    facts = read_description(folder)
    _refuse_other(folder, facts.get("made_from") or {}, json.loads(json.dumps(asked)))
    return facts


def _refuse_other(folder: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    words = {"source": "source", "resolution": "--resolution", "crop": "--crop", "channels": "--channels"}
    words |= {"part": "--split", "count": "number of images", "fingerprint": "source's content"}
    for key, word in words.items():
        if made.get(key) != asked[key]:
            came = "" if key == "fingerprint" else f" ({made.get(key)} there, {asked[key]} now)"
            raise DataError(
                f"{folder} was prepared with another {word}{came}; choose another folder, or delete this one"
            )


def _check_destination(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file stands there; choose another folder")
    if not folder.exists() or (folder / JOURNAL).is_file():
        return
    if any(not files.is_temporary(path) for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty, and no packed set; choose another folder")


@contextlib.contextmanager
def _only_process_in(folder: Path) -> Iterator[None]:
    """Hold the folder for this process."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.held(folder))
        except BlockingIOError:
            raise DataError(f"another process prepares {folder}; wait for it, or stop it") from None
        yield
