"""Score every image file of a folder or archive, and write the scores to a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sivae import files
from sivae.data.images.pixels import SUFFIXES, decode
from sivae.data.images.stores import is_archive, open_store
from sivae.detection.detector import Detector
from sivae.errors import DamagedImageError, DataError
from sivae.models.base import samples_at_once
from sivae.progress import counting


class FileScore(NamedTuple):
    """The score of an image file; None where the file is damaged, and `problem` then gives the reason."""

    name: str
    score: float | None
    problem: str | None = None


def score_files(detector: Detector, folder: Path, *, progress: bool = True) -> list[FileScore]:
    """Score every image file in a folder and its subfolders, or in a zip or tar, in the order of names.

    Raises:
        DataError: the folder is missing, holds no image file, or none that can be read.
    """
    if not folder.exists():
        raise DataError(f"{folder}: there is no such folder")
    if folder.is_file() and folder.name.lower().endswith(SUFFIXES):
        raise DataError(f"{folder} is a single image; name the folder that holds it")
    if folder.is_file() and not is_archive(folder):
        raise DataError(f"{folder} is neither a folder nor a zip or tar of image files")
    store = open_store(folder)
    names = [name for name in store.sizes if name.lower().endswith(SUFFIXES)]
    if not names:
        raise DataError(f"{folder} holds no image files ({', '.join(SUFFIXES)})")
    found: list[FileScore] = []
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
            found += [FileScore(name, scores.get(name), problems.get(name)) for name in portion]
            counter.advance(len(portion))
    if all(one.score is None for one in found):
        raise DataError(f"{folder}: none of its {len(found):,} image files can be read; {found[0].problem}")
    return found


def write_file_scores(path: Path, rows: Sequence[FileScore], threshold: float | None) -> None:
    """Write a CSV atomically: file name, score, and a verdict: in, out (above the threshold) or damaged."""

    def verdict(row: FileScore) -> str:
        if row.score is None:
            return "damaged"
        return "" if threshold is None else "out" if row.score > threshold else "in"

    files.write_csv(
        path,
        ("file", "score", "verdict"),
        [(row.name, "" if row.score is None else repr(row.score), verdict(row)) for row in rows],
    )
