"""Packing a data set once: every image decoded, checked, resized and laid beside the others in one file.

The pixels go to their final place at once. A journal tells which blocks of images are there, so that a run that was
killed goes on; `dataset.json` is written last, and with it the set is finished.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sivae import files
from sivae.data.images.averages import averages, lower_levels
from sivae.data.images.base import ImageSet, Notice, Split, nothing
from sivae.data.images.geometry import Crop, check_shape_request
from sivae.data.images.journal import Entry, Journal, refuse_other
from sivae.data.images.memory import amount
from sivae.data.images.opening import open_images
from sivae.data.images.packed import (
    CONTENTS,
    DESCRIPTION,
    FORMAT,
    IMAGES,
    JOURNAL,
    LABELS,
    image_digest,
    level_file,
    read_description,
    set_digest,
)
from sivae.data.images.packing import (
    Shape,
    Stopped,
    all_contents,
    all_labels,
    content_names,
    fit_image,
    in_parallel,
    nearest,
    plan,
    skips_damaged,
    workers_or_default,
)
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting

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
    levels: bool = True,
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
        levels: write the lower resolutions beside the images too, for :func:`at_resolution`: half the side, a quarter
            and so on down to 4, where the side is a power of two; a third more of the disk. It is the default because
            making them later reads every pixel again, in each run, and holds them in memory.
        progress: show it where it takes long.
        notice: told what a user may want to know.

    Returns:
        What `dataset.json` says.

    Raises:
        DataError: source or destination cannot be used, or an image is damaged.
    """
    check_shape_request(resolution, crop, channels)
    threads = workers_or_default(workers)
    images = nearest(open_images(source, split=split, skip_damaged=skip_damaged, notice=notice), resolution, crop)
    folder = Path(destination)
    asked = {
        "source": images.name,
        "fingerprint": getattr(images, "fingerprint", None),
        "count": len(images),
        "resolution": resolution,
        "crop": list(crop) if isinstance(crop, tuple) else crop,
        "channels": channels,
        "part": getattr(images, "part", None),
        "levels": levels,
    }
    if (finished := _finished(folder, asked)) is not None:
        lacks = levels and lower_levels(resolution) and not finished.get("levels")
        lacking = ", without lower resolutions beside it" if lacks else ""
        notice(f"{folder} is finished{lacking}; nothing is left to prepare")
        return finished
    _check_destination(folder)
    try:
        shape = plan(images, resolution=resolution, crop=crop, channels=channels)
    except DamagedImageError as error:
        raise _damaged(error) from None
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder, "prepares"):
        files.remove_leftovers(folder)
        blocks = shape.blocks(len(images))
        head = {"asked": asked, "channels": shape.channels, "block": len(blocks[0])}
        journal = Journal(folder / JOURNAL, head)
        done = journal.open()
        if done:
            notice(f"going on with {folder}: {sum(len(blocks[block]) for block in done):,} images are there")
        if any(entry.damaged for entry in done.values()) and not skip_damaged:
            raise DataError(f"{folder} was begun with --skip-damaged, and has skipped images; go on with it too")
        sides = [resolution, *(lower_levels(resolution) if levels else [])]
        _decode(images, folder, shape, sides, blocks, journal, done, threads, progress)
        return _finish(images, folder, shape, sides, blocks, asked, done)


def _decode(
    images: ImageSet,
    folder: Path,
    shape: Shape,
    sides: list[int],
    blocks: list[range],
    journal: Journal,
    done: dict[int, Entry],
    threads: int,
    progress: bool,
) -> None:
    """Bring the blocks that are not done to the disk, at every side."""
    left = [block for block in range(len(blocks)) if block not in done]
    if not left:
        return
    paths = _paths(folder, sides)
    offsets = _make_room(paths, [(len(images), side, side, shape.channels) for side in sides], fresh=not done)
    may_skip = skips_damaged(images)
    before = sum(len(blocks[block]) for block in done)
    with contextlib.ExitStack() as stack:
        written = [stack.enter_context(path.open("r+b")) for path in paths]
        title = f"packing {images.name}"
        counter = stack.enter_context(counting(title, len(images), done=before, enabled=progress))

        def work(block: range, stop: threading.Event) -> tuple[range, Entry]:
            entry = Entry("")
            pixels = np.zeros((len(block), shape.resolution, shape.resolution, shape.channels), np.uint8)
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
            each = itertools.chain([pixels], averages(pixels, len(sides) - 1))
            for file, offset, content in zip(written, offsets, each, strict=True):
                _write_all(file.fileno(), content, offset + block.start * content[0].nbytes)
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


def _paths(folder: Path, sides: list[int]) -> list[Path]:
    return [folder / IMAGES, *(folder / level_file(side) for side in sides[1:])]


def _make_room(paths: list[Path], shapes: list[tuple[int, ...]], *, fresh: bool) -> list[int]:
    """The files of pixels at their full sizes.

    Returns:
        Where in each file the pixels begin.
    """
    if not fresh:
        return [_begin(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    folder = paths[0].parent
    for path in [folder / IMAGES, *folder.glob(level_file("*"))]:  # of an earlier request, maybe
        path.unlink(missing_ok=True)
    size = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(f"{folder} needs {amount(size)}, and only {amount(free)} of the disk are free")
    offsets = []
    for path, shape in zip(paths, shapes, strict=True):
        with files.atomic_file(path) as temporary:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            with temporary.open("r+b") as file:
                _reserve(file.fileno(), array.offset + array.size)
            offsets.append(int(array.offset))
    return offsets


def _begin(path: Path, shape: tuple[int, ...]) -> int:
    array = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
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
    images: ImageSet,
    folder: Path,
    shape: Shape,
    sides: list[int],
    blocks: list[range],
    asked: dict[str, Any],
    done: dict[int, Entry],
) -> dict[str, Any]:
    entries = [done[block] for block in range(len(blocks))]
    damaged = dict(pair for entry in entries for pair in entry.damaged)
    kept = np.delete(np.arange(len(images)), sorted(damaged))
    if not len(kept):
        raise DataError(
            f"{images.name}: none of its {len(images):,} images can be read; {next(iter(damaged.values()))}"
        )
    if damaged:
        for path in _paths(folder, sides):
            _leave_out(path, kept)
    labels, contents = all_labels(images), all_contents(images)
    for name, values in ((LABELS, labels), (CONTENTS, contents)):
        if values is not None:
            with files.atomic_file(folder / name) as temporary, temporary.open("wb") as file:
                np.save(file, values[kept])
    facts = {
        "format": FORMAT,
        "name": images.name,
        "count": len(kept),
        "resolution": shape.resolution,
        "channels": shape.channels,
        "levels": sides[1:],
        "class_names": _names(labels, images.class_names),
        "content_names": _names(contents, content_names(images)),
        "part": asked["part"],
        "skipped": list(damaged.values()),
        "pixels": set_digest(bytes.fromhex("".join(entry.digests for entry in entries))),
        "made_from": asked,
    }
    files.write_json(folder / DESCRIPTION, facts)
    (folder / JOURNAL).unlink()
    return facts


def _names(values: np.ndarray | None, names: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None or names is None else list(names)


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
    made = facts.get("made_from") or {}
    refuse_other(folder, made, json.loads(json.dumps(asked)) | {"levels": made.get("levels")})
    return facts


def _check_destination(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file stands there; choose another folder")
    if not folder.exists() or (folder / JOURNAL).is_file():
        return
    if any(not files.is_temporary(path) for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty, and no packed set; choose another folder")
