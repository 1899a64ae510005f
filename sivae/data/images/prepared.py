"""Read the folder that `sivae prepare` writes, a packed set.

The folder holds `images.npy` (uint8 [N, H, W, C]), maybe the same images at lower resolutions (`images-128.npy`,
`images-64.npy` …), `labels.npy` and `contents.npy` (int64 [N], where there are labels or contents) and `dataset.json`,
which is written last: a folder without it is unfinished.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np

from sivae.data import npy
from sivae.data.images.base import PackedImages, Split, no_such_split
from sivae.data.images.formats.table import Found
from sivae.data.images.halving import averages, lower_levels
from sivae.data.stores import FolderStore, Store
from sivae.errors import DataError
from sivae.fields import AT_LEAST_1, show
from sivae.json_files import read_json

FORMAT = 1
DESCRIPTION, IMAGES, LABELS, CONTENTS = "dataset.json", "images.npy", "labels.npy", "contents.npy"
RESUME = "prepare.journal"  # the progress file of an unfinished set
_DIGEST_BYTES = 8
_REMEDY = "make the set again with sivae prepare"


class Description(TypedDict):
    """The content of `dataset.json`.

    Attributes:
        levels: the sides of the lower resolutions.
        skipped: why each damaged image was left out.
        pixels: digest of all images.
        made_from: what was asked for.
        others: see :class:`sivae.data.images.base.PackedImages`.
    """

    name: str
    count: Annotated[int, AT_LEAST_1]
    resolution: Annotated[int, AT_LEAST_1]
    channels: Literal[1, 3]
    levels: NotRequired[list[int]]
    class_names: NotRequired[list[str] | None]
    content_names: NotRequired[list[str] | None]
    part: NotRequired[Split | None]
    skipped: list[str]
    pixels: str
    made_from: NotRequired[dict[str, Any] | None]


def level_file(side: int | str) -> str:
    """File name of the images at a lower resolution."""
    return f"images-{side}.npy"


def image_digest(image: np.ndarray) -> bytes:
    """Digest of one image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=_DIGEST_BYTES).digest()


def set_digest(digests: bytes) -> str:
    """Digest of a set, from the digests of its images, one after another."""
    return hashlib.sha256(digests).hexdigest()


def read_description(folder: Path) -> Description:
    """Read `dataset.json`.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    path = folder / DESCRIPTION
    try:
        content: Any = read_json(path, Description, error=DataError, remedy=_REMEDY, version=FORMAT)
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {DESCRIPTION}, so it is no packed set; sivae prepare makes one") from None
    content.setdefault("levels", [])  # earlier versions wrote none
    if not set(content["levels"]) <= set(lower_levels(content["resolution"])):
        came = show(content["levels"])
        raise DataError(f"{path} is damaged: levels = {came}: not those of its resolution; {_REMEDY}")
    return content


def is_packed(store: Store) -> bool:
    """Whether a folder is a packed set: StyleGAN's and other tools' folders have a `dataset.json` too."""
    if DESCRIPTION not in store.sizes:
        return False
    return IMAGES in store.sizes or re.match(rb'\s*{\s*"format"', store.head(DESCRIPTION)) is not None


def find(store: Store, only: str | None = None) -> list[Found]:
    """The packed set that a folder is.

    Raises:
        DataError: the set is unfinished.
    """
    folder = store.path
    if only is not None or not isinstance(store, FolderStore):
        return []
    if is_packed(store):
        return [Found(f"packed set {folder}", lambda request: open_packed(folder, split=request.split))]
    if RESUME in store.sizes:
        raise DataError(f"{folder} is unfinished; repeat the sivae prepare command that began it, and it resumes")
    return []


def open_packed(folder: Path, *, split: Split | None = None) -> PackedImages:
    """Map a packed set into memory. Sizes are checked; :func:`verify_packed` checks every byte.

    Raises:
        DataError: a file is missing, cut short, or disagrees with `dataset.json`; or the set has no such part.
    """
    facts = read_description(folder)
    part = facts.get("part")
    if split is not None and part != split:
        made = f"the {part} images" if part else "a source without parts"
        raise no_such_split(str(folder), split, f"it was made from {made}")
    count, resolution, channels = facts["count"], facts["resolution"], facts["channels"]
    array = _map(folder / IMAGES, (count, resolution, resolution, channels), np.dtype(np.uint8))
    levels = {
        side: _map(folder / level_file(side), (count, side, side, channels), np.dtype(np.uint8))
        for side in facts["levels"]
    }
    labels, class_names = _read_named(folder / LABELS, count, facts.get("class_names"))
    contents, content_names = _read_named(folder / CONTENTS, count, facts.get("content_names"))
    try:
        return PackedImages(
            array,
            labels,
            name=facts["name"],
            class_names=class_names,
            contents=contents,
            content_names=content_names,
            skipped=len(facts["skipped"]),
            fingerprint=facts["pixels"],
            part=part,
            levels=levels,
        )
    except DataError as error:  # a label without a name
        raise DataError(f"{folder} is damaged: {error}; {_REMEDY}") from None


def _read_named(path: Path, count: int, names: list[Any] | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if names is None:
        return None, None
    return np.array(_map(path, (count,), np.dtype(np.int64))), tuple(str(name) for name in names)


def verify_packed(folder: Path) -> None:
    """Compare every pixel of a packed set with the digest in `dataset.json`, and lower resolutions with the full one.

    Raises:
        DataError: a pixel has changed since the set was made.
    """
    images = open_packed(folder)
    if set_digest(b"".join(image_digest(image) for image in images.array)) != images.fingerprint:
        raise DataError(f"{folder / IMAGES} is not as it was made; {_REMEDY}")
    halvings = len(lower_levels(images.resolution)) if images.levels else 0
    for index, image in enumerate(images.array):
        for level in averages(image, halvings):
            kept = images.levels.get(len(level))
            if kept is not None and not np.array_equal(kept[index], level):
                path = folder / level_file(len(level))
                raise DataError(f"{path} is not as it was made; {_REMEDY}")


def map_own_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    """Map an array that `sivae prepare` wrote into memory, for reading.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or its shape or dtype is another one.
    """
    try:
        array = npy.map_array(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy raises anything for a damaged header
        raise ValueError(f"is damaged ({str(error) or type(error).__name__})") from None
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else " by columns"
        raise ValueError(f"is {array.dtype} of shape {list(array.shape)}{order}")
    assert isinstance(array, np.memmap)  # an array without numbers has another shape
    if path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(f"is damaged (it goes on after its {array.nbytes:,} bytes of numbers)")
    return array


def _map(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        return map_own_array(path, shape, dtype)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {_REMEDY}") from None
    except ValueError as error:
        raise DataError(f"{path} {error}, where {DESCRIPTION} has {dtype} {list(shape)}; {_REMEDY}") from None
