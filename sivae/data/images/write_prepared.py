"""Write a packed set: decode, check and resize every image of a data set into one file.

Pixels are written to their final place at once. A progress file lists the finished blocks of images, so that a killed
run resumes; `dataset.json` is written last, and finishes the set.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sivae import files
from sivae.data.free_memory import amount
from sivae.data.images.base import ImageSet, Split
from sivae.data.images.crop import Crop
from sivae.data.images.halving import averages, lower_levels
from sivae.data.images.loading.damage import damaged_error
from sivae.data.images.loading.fitting import Shape, choose_shape, fit_image, nearest
from sivae.data.images.loading.threads import Stopped, in_parallel, workers_or_default
from sivae.data.images.opening import open_images
from sivae.data.images.pixels import check_shape_request
from sivae.data.images.prepared import (
    CONTENTS,
    DESCRIPTION,
    FORMAT,
    IMAGES,
    LABELS,
    RESUME,
    image_digest,
    is_packed,
    level_file,
    map_own_array,
    read_description,
    set_digest,
)
from sivae.data.images.resume_file import BlockRecord, ResumeFile, check_same_request
from sivae.data.notice import Notice, ignore
from sivae.data.stores import FolderStore
from sivae.errors import DamagedImageError, DataError
from sivae.progress import counting
from sivae.words import plural

_REMEDY = "--skip-damaged leaves such images out"
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
    notice: Notice = ignore,
) -> dict[str, Any]:
    """Pack a data set into a folder that :func:`open_images` opens at once.

    If it is killed, the same call resumes it. A finished set is left unchanged.

    Args:
        source: any data set that :func:`open_images` reads.
        destination: the folder to write: new, empty, or left by an earlier call with the same arguments.
        resolution: height and width of the packed images, resized by an antialiased Lanczos filter.
        crop: the part of each image to keep: "center", the largest square in the middle; or (top, left, height,
            width). None refuses images that are not square.
        channels: 1 or 3; None: RGB where images are RGB, else grey.
        split: which part of the source.
        workers: number of threads; None: one for each core.
        skip_damaged: leave damaged images out, list them in `dataset.json`, and count them.
        levels: also write the lower resolutions, for :func:`at_resolution`: half the side, a quarter and so on down to
            4, where the side is a power of two; a third more of the disk. This is the default, because making them
            later reads every pixel in each run and holds them in memory.
        progress: show progress if it takes long.
        notice: called with lines that the user may want to read.

    Returns:
        The content of `dataset.json`.

    Raises:
        DataError: the source or the destination cannot be used, or an image is damaged.
    """
    check_shape_request(resolution, crop, channels)
    threads = workers_or_default(workers)
    images = nearest(open_images(source, split=split, skip_damaged=skip_damaged, notice=notice), resolution, crop)
    folder = Path(destination)
    asked = {
        "source": images.name,
        "fingerprint": images.fingerprint,
        "count": len(images),
        "resolution": resolution,
        "crop": list(crop) if isinstance(crop, tuple) else crop,
        "channels": channels,
        "part": images.part,
        "levels": levels,
    }
    if (finished := _finished(folder, asked)) is not None:
        lacks = levels and lower_levels(resolution) and not finished.get("levels")
        lacking = ", without lower resolutions beside it" if lacks else ""
        notice(f"{folder} is finished{lacking}; nothing is left to prepare")
        return finished
    _check_destination(folder)
    try:
        shape = choose_shape(images, resolution=resolution, crop=crop, channels=channels, notice=notice)
    except DamagedImageError as error:
        raise damaged_error(images.name, len(images), [str(error)], _REMEDY) from None
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder, "prepares"):
        files.remove_leftovers(folder)
        sides = [resolution, *(lower_levels(resolution) if levels else [])]
        job = _Job(images, folder, shape, sides, shape.blocks(len(images)))
        head = {"asked": asked, "channels": shape.channels, "block": len(job.blocks[0])}
        resume = ResumeFile(folder / RESUME, head)
        done = resume.open()
        if done:
            intact = _intact(job, done, threads, progress)
            if len(intact) < len(done):
                notice(
                    f"{folder}: {plural(len(done) - len(intact), 'finished block')} of images changed since, and will "
                    "be made again"
                )
            done = intact
        if done:
            notice(f"going on with {folder}: {job.count(done):,} images are there")
        if any(record.damaged for record in done.values()) and not skip_damaged:
            raise DataError(f"{folder} was begun with --skip-damaged, and has skipped images; use that option again")
        _decode(job, resume, done, threads, progress, notice)
        return _finish(job, [done[block] for block in range(len(job.blocks))], asked)


@dataclass(frozen=True)
class _Job:
    """Images to pack.

    Attributes:
        images: the source.
        folder: the destination.
        shape: the shape of the packed images.
        sides: the resolutions to write, the largest first.
        blocks: image numbers; a block is decoded by one thread, and is finished or not.
    """

    images: ImageSet
    folder: Path
    shape: Shape
    sides: list[int]
    blocks: list[range]

    @property
    def paths(self) -> list[Path]:
        """The files of pixels, by side."""
        return [self.folder / IMAGES, *(self.folder / level_file(side) for side in self.sides[1:])]

    def could_be(self, number: int, record: BlockRecord) -> bool:
        """Whether a finished block can be one of this job's."""
        return number in range(len(self.blocks)) and all(index in self.blocks[number] for index, _ in record.damaged)

    def kept(self, number: int, record: BlockRecord) -> list[int]:
        """The numbers of the images in a finished block that are not damaged."""
        damaged = {index for index, _ in record.damaged}
        return [index for index in self.blocks[number] if index not in damaged]

    def count(self, done: Iterable[int]) -> int:
        """Number of images in the finished blocks."""
        return sum(len(self.blocks[block]) for block in done)


def _intact(job: _Job, done: dict[int, BlockRecord], threads: int, progress: bool) -> dict[int, BlockRecord]:
    """The finished blocks whose pixels are on the disk as they were written, at every side.

    Raises:
        DataError: a file of pixels is missing or damaged, or has another shape.
    """
    kept = {number: job.kept(number, record) for number, record in done.items() if job.could_be(number, record)}
    complete = len(kept) == len(job.blocks)
    counts = {len(job.images), sum(map(len, kept.values()))} if complete else {len(job.images)}
    arrays = [_mapped(path, counts, side, job.shape.channels) for path, side in zip(job.paths, job.sides, strict=True)]
    first_row, row = {}, 0
    for number in sorted(kept):
        first_row[number], row = row, row + len(kept[number])
    number_of = {job.blocks[number].start: number for number in kept}
    intact = {}
    with counting(f"checking {job.folder.name}", job.count(kept), enabled=progress) as counter:

        def work(block: range, stop: threading.Event) -> tuple[int, bool]:
            if stop.is_set():
                raise Stopped
            number = number_of[block.start]
            rows, start = kept[number], first_row[number]
            closed = range(start, start + len(rows))  # the rows once the gaps of damaged images are closed
            pixels, *levels = (array[rows if len(array) == len(job.images) else closed] for array in arrays)
            same = "".join(image_digest(image).hex() for image in pixels) == done[number].digests
            same = same and all(map(np.array_equal, levels, averages(pixels, len(levels))))
            counter.advance(len(block))
            return number, same

        with contextlib.closing(in_parallel(work, [job.blocks[number] for number in kept], threads)) as results:
            for number, same in results:
                if same:
                    intact[number] = done[number]
    if len(intact) < len(done) and any(len(array) != len(job.images) for array in arrays):
        return {}  # there is no room for one block where gaps are closed
    return intact


def _decode(
    job: _Job, resume: ResumeFile, done: dict[int, BlockRecord], threads: int, progress: bool, notice: Notice
) -> None:
    """Write the unfinished blocks to the disk, at every side, and add them to `done`.

    Raises:
        DamagedImageError: images are damaged and not to be skipped. Their blocks stay unfinished, all others are done.
    """
    damaged: dict[int, str] = {}
    left = {block.start: number for number, block in enumerate(job.blocks) if number not in done}
    if not left:
        return
    images, channels = job.images, job.shape.channels
    if done:
        mapped = [_mapped(path, {len(images)}, side, channels) for path, side in zip(job.paths, job.sides, strict=True)]
        offsets = [int(array.offset) for array in mapped]
    else:
        offsets = _make_room(job.paths, [(len(images), side, side, channels) for side in job.sides])
    with contextlib.ExitStack() as stack:
        written = [stack.enter_context(path.open("r+b")) for path in job.paths]
        bar = counting(f"packing {images.name}", len(images), done=job.count(done), enabled=progress)
        counter = stack.enter_context(bar)

        def work(block: range, stop: threading.Event) -> tuple[int, BlockRecord]:
            record = BlockRecord("")
            pixels = np.zeros((len(block), job.shape.resolution, job.shape.resolution, channels), np.uint8)
            for row, index in enumerate(block):
                if stop.is_set():
                    raise Stopped
                try:
                    pixels[row] = fit_image(images, index, job.shape)
                except DamagedImageError as error:
                    record.damaged.append((index, str(error)))
                else:
                    record.digests += image_digest(pixels[row]).hex()
                counter.advance()
            each = itertools.chain([pixels], averages(pixels, len(job.sides) - 1))
            for path, file, offset, content in zip(job.paths, written, offsets, each, strict=True):
                with files.named(path):
                    _write_all(file.fileno(), content, offset + block.start * content[0].nbytes)
                    os.fsync(file.fileno())
            return left[block.start], record

        with contextlib.closing(in_parallel(work, [job.blocks[block] for block in left.values()], threads)) as results:
            for block, record in results:
                if record.damaged and not images.skip_damaged:
                    if not damaged:
                        notice(f"{record.damaged[0][1]}; going on, to find all such images")
                    damaged |= dict(record.damaged)
                    continue
                resume.append(block, record)
                done[block] = record
    if damaged:
        raise damaged_error(images.name, len(images), [damaged[index] for index in sorted(damaged)], _REMEDY)


def _write_all(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    content = pixels.data.cast("B")
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _make_room(paths: list[Path], shapes: list[tuple[int, ...]]) -> list[int]:
    """Make the files of pixels at their full sizes.

    Returns:
        The offset of the first pixel in each file.
    """
    folder = paths[0].parent
    for path in [folder / IMAGES, *folder.glob(level_file("*"))]:  # an earlier request may have left them
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


def _mapped(path: Path, counts: set[int], side: int, channels: int) -> np.memmap[Any, Any]:
    """Map a file of pixels with one of these numbers of images."""
    reason = ""
    for count in counts:
        try:
            return map_own_array(path, (count, side, side, channels), np.dtype(np.uint8))
        except FileNotFoundError:
            reason = "is missing"
        except ValueError as error:
            reason = str(error)
    raise DataError(
        f"{path} {reason}, and does not fit the {RESUME} beside it; delete {path.parent}, and prepare the set again"
    )


def _reserve(descriptor: int, size: int) -> None:
    """Take the space now, so that a full disk is an error now."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _finish(job: _Job, records: list[BlockRecord], asked: dict[str, Any]) -> dict[str, Any]:
    """Close the gaps of damaged images, write labels, contents and `dataset.json`, and return the latter's content."""
    images, folder = job.images, job.folder
    damaged = dict(pair for record in records for pair in record.damaged)
    kept = np.delete(np.arange(len(images)), sorted(damaged))
    if not len(kept):
        raise DataError(
            f"{images.name}: none of its {len(images):,} images can be read; {next(iter(damaged.values()))}"
        )
    if damaged:
        for path in job.paths:
            _leave_out(path, kept)
    class_names = _write_named(folder / LABELS, images.labels, images.class_names, kept)
    content_names = _write_named(folder / CONTENTS, images.contents, images.content_names, kept)
    facts = {
        "format": FORMAT,
        "name": images.name,
        "count": len(kept),
        "resolution": job.shape.resolution,
        "channels": job.shape.channels,
        "levels": job.sides[1:],
        "class_names": class_names,
        "content_names": content_names,
        "part": asked["part"],
        "skipped": list(damaged.values()),
        "pixels": set_digest(bytes.fromhex("".join(record.digests for record in records))),
        "made_from": asked,
    }
    files.write_json(folder / DESCRIPTION, facts)
    (folder / RESUME).unlink()
    return facts


def _write_named(
    path: Path, values: np.ndarray | None, names: tuple[str, ...] | None, kept: np.ndarray
) -> list[str] | None:
    """Write labels or contents, where there are any, and return their names."""
    if values is None or names is None:
        return None
    with files.atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, values[kept])
    return list(names)


def _leave_out(path: Path, kept: np.ndarray) -> None:
    """Close the gaps of damaged images; the file's size shows if that is already done."""
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
    """The content of `dataset.json`, where the set is finished.

    Raises:
        DataError: the set was made with other arguments.
    """
    if not folder.is_dir() or not is_packed(FolderStore(folder, recursive=False)):
        return None
    facts = read_description(folder)
    made = facts.get("made_from") or {}
    check_same_request(folder, made, json.loads(json.dumps(asked)) | {"levels": made.get("levels")})
    return {**facts}


def _check_destination(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose another folder")
    if not folder.exists() or (folder / RESUME).is_file():
        return
    if any(not files.is_temporary(path) for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty, and no packed set; choose another folder")
