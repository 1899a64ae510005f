"""Score every image file of a folder or archive, and write a table with a row for each file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sivae import files
from sivae.data.images.kinds import readable_kinds
from sivae.data.images.listing import REASONS, list_images, look
from sivae.data.images.pixels import decode
from sivae.data.notice import Notice, ignore
from sivae.data.stores import FolderStore, is_archive, open_store
from sivae.detection.detector import Detector
from sivae.errors import DamagedImageError, DataError
from sivae.models.base import samples_at_once
from sivae.progress import counting


class FileScore(NamedTuple):
    """The score of a file.

    Attributes:
        name: its name in the folder or archive.
        score: None where it has none.
        problem: then the reason.
        is_image: whether it is an image of a kind that can be decoded; without a score it is damaged.
    """

    name: str
    score: float | None
    problem: str | None = None
    is_image: bool = True


def score_files(detector: Detector, folder: Path, *, progress: bool = True, notice: Notice = ignore) -> list[FileScore]:
    """Score every image file in a folder and its subfolders, or in a zip or tar.

    Args:
        detector: computes the scores.
        folder: the folder or archive.
        progress: show progress if it takes long.
        notice: called with a line that counts the files that are no images.

    Returns:
        A row for each file in the order of names. Files that belong to a set of images, such as a license, have none.

    Raises:
        DataError: the folder is missing, holds no image file, or none that can be read.
    """
    if not folder.exists():
        raise DataError(f"{folder}: there is no such folder")
    if folder.is_file() and not is_archive(folder):
        if look(FolderStore(folder.parent, recursive=False), folder.name) in ("image", "unreadable image"):
            raise DataError(f"{folder} is a single image; name the folder that holds it")
        raise DataError(f"{folder} is neither a folder nor a zip or tar of image files")
    store = open_store(folder)
    listing = list_images(store)
    names = listing.images
    left_out = listing.left_out()
    if not names:
        raise DataError(
            f"{folder} holds no image files that can be read ({', '.join(readable_kinds())})"
            + (f"; {left_out}" if left_out else "")
        )
    if left_out:
        notice(f"{folder}: {left_out}")
    found = [
        FileScore(name, None, f"{store.where(name)} {REASONS[what]}", False) for name, what in listing.others.items()
    ]
    found += [FileScore(name, None, f"{store.where(name)} leads to no file", False) for name in listing.lost]
    scored: list[FileScore] = []
    size = samples_at_once(detector.model.sample_shape)
    with counting(f"scoring {folder.name}", len(names), enabled=progress) as counter:
        for start in range(0, len(names), size):
            portion = names[start : start + size]
            pixels: dict[str, NDArray[np.uint8]] = {}
            problems: dict[str, str] = {}
            for name in portion:
                try:
                    picture = decode(store.read(name), store.where(name))
                    pixels[name] = detector.fitted(picture, store.where(name))
                except DamagedImageError as error:
                    problems[name] = str(error)
            scores: dict[str, float] = {}
            if pixels:
                values = detector.of_pixels(np.stack(list(pixels.values())))[detector.score]
                scores = dict(zip(pixels, values.tolist(), strict=True))
            scored += [FileScore(name, scores.get(name), problems.get(name)) for name in portion]
            counter.advance(len(portion))
    if all(one.score is None for one in scored):
        raise DataError(f"{folder}: none of its {len(scored):,} image files can be read; {scored[0].problem}")
    return sorted([*scored, *found], key=lambda row: row.name)


def write_file_scores(path: Path, rows: Sequence[FileScore], threshold: float | None) -> None:
    """Write a CSV atomically: file name, score, and a verdict.

    The verdict is in, out (above the threshold), damaged, or "left out" for a file that is no readable image.
    """

    def verdict(row: FileScore) -> str:
        if row.score is None:
            return "damaged" if row.is_image else "left out"
        return "" if threshold is None else "out" if row.score > threshold else "in"

    files.write_csv(
        path,
        ("file", "score", "verdict"),
        [(row.name, "" if row.score is None else repr(row.score), verdict(row)) for row in rows],
    )
