"""Read a map-style dataset of images (torchvision's, Hugging Face's, one's own) into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sivae.data.free_memory import amount, available_memory
from sivae.data.images.base import PackedImages
from sivae.data.images.formats.releases import numbers_as_names
from sivae.data.images.loading.fitting import Shape, say_resize
from sivae.data.images.pixels import eight_bit, fit
from sivae.data.notice import Notice, ignore
from sivae.errors import DataError
from sivae.progress import counting

IMAGE_KEYS = ("image", "img", "pixel_values", "images")
LABEL_KEYS = ("label", "labels", "fine_label")
_ROUNDING = 1e-3  # a float pixel this far outside 0 to 1 is a rounding error
_EXPECTED = (
    "a tensor [C, H, W] or [H, W], an array [H, W, C] or [H, W], or a PIL image; alone, in a pair with a label, or in "
    f"a dict under {', '.join(IMAGE_KEYS)} (and {', '.join(LABEL_KEYS)})"
)


def read_dataset(
    dataset: Any, *, resolution: int, channels: int, progress: bool = True, notice: Notice = ignore
) -> PackedImages:
    """Read every item of a dataset once, in order, and fit its image to one shape.

    Args:
        dataset: has `len(dataset)` and `dataset[index]`. An item is an image; a pair (image, label); or a dict with an
            image and maybe a label. An image is a tensor [C, H, W] or [H, W], an array [H, W, C] or [H, W] (both uint8,
            or floating from 0 to 1), or a PIL image. A label is a whole number from 0; all items have one, or none.
            Names of classes are taken from `dataset.classes`, or from `dataset.features[key].names`.
        resolution: side of the images; others are resized.
        channels: 1 (grey) or 3 (RGB); images are converted.
        progress: show progress if it takes long.
        notice: called with a line about the resize, where there is one.

    Returns:
        The images in memory, uint8. Random augmentations of the dataset are applied once, not anew in each epoch.

    Raises:
        DataError: the dataset has no length, is empty or too large, or an item cannot be used.
    """
    name = type(dataset).__name__
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(f"data is a {name} without a length or without items by number; expected a map-style dataset")
    count = len(dataset)
    if not count:
        raise DataError(f"data is a {name} without items")
    shape = Shape(resolution, channels, crop=None, channels_given=True, exact=False)
    size, free = count * shape.image_bytes, available_memory() // 2
    if size > free:
        raise DataError(
            f"{name}: {count:,} images of {resolution}×{resolution}×{channels} take {amount(size)}, more than the "
            f"{amount(free)} allowed in memory; choose a lower resolution or a part of the dataset, or write the "
            "images into a folder and prepare that"
        )
    array = np.empty((count, resolution, resolution, channels), np.uint8)
    labels: list[int | None] = []
    sides = set()
    with counting(f"reading {name}", count, enabled=progress) as counter:
        for index in range(count):
            where = f"item {index} of {name}"
            image, label = _split(dataset[index], where)
            picture = _picture(image, where)
            if picture.width != picture.height:
                raise DataError(
                    f"{where} is {picture.width}×{picture.height} (width × height), not square; crop it in the dataset"
                )
            sides.add(picture.width)
            array[index] = fit(picture, resolution=resolution, crop=None, channels=channels, where=where)
            labels.append(None if label is None else _whole(label, where))
            counter.advance()
    say_resize(name, sides, resolution, notice)
    if all(label is None for label in labels):
        return PackedImages(array, name=name)
    if None in labels:
        raise DataError(f"item {labels.index(None)} of {name} has no label, where others have one; give all, or none")
    numbers = np.array(labels, np.int64)
    return PackedImages(array, numbers, name=name, class_names=_class_names(dataset, numbers, name))


def _split(item: Any, where: str) -> tuple[Any, Any]:
    """The image and the label of an item."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        if image is None:
            raise DataError(f"{where} is a dict of {', '.join(map(str, item))}; expected {_EXPECTED}")
        return image, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(f"{where} has {len(item)} parts; expected {_EXPECTED}")
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _picture(image: Any, where: str) -> Image.Image:
    """An image of mode L or RGB."""
    if isinstance(image, Image.Image):
        return eight_bit(image, where)
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        if values.dtype == torch.bfloat16:
            values = values.float()
        return _of_values(values.movedim(0, -1).numpy() if values.dim() == 3 else values.numpy(), "[C, H, W]", where)
    if isinstance(image, np.ndarray):
        return _of_values(image, "[H, W, C]", where)
    raise DataError(f"{where} holds a {type(image).__name__}; expected {_EXPECTED}")


def _of_values(values: np.ndarray, order: str, where: str) -> Image.Image:
    if values.ndim not in (2, 3) or 0 in values.shape or (values.ndim == 3 and values.shape[2] not in (1, 3)):
        shape = list(values.shape) if order == "[H, W, C]" or values.ndim != 3 else [values.shape[2], *values.shape[:2]]
        raise DataError(
            f"{where} is an image of shape {shape}; expected {order} with C = 1 or 3, or [H, W]; bring "
            "its axes into this order, or drop an alpha channel"
        )
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -_ROUNDING and high <= 1.0 + _ROUNDING):
            raise DataError(
                f"{where} has values from {low:.4g} to {high:.4g}; expected floating values from 0 to 1, so leave a "
                "normalisation out"
            )
        values = (values.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise DataError(
            f"{where} has values of type {values.dtype}; expected uint8, or floating values from 0 to 1; "
            "convert it, or divide by 255"
        )
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))


def _whole(label: Any, where: str) -> int:
    value = label.item() if isinstance(label, Tensor | np.generic | np.ndarray) and label.shape in ((), (1,)) else label
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        shape = f" of shape {list(label.shape)}" if isinstance(label, Tensor | np.ndarray) else f" {label!r}"
        raise DataError(
            f"{where} has a label of type {type(label).__name__}{shape}; expected a whole number from 0 to 2^31 - 1; "
            "give one class number, or the image alone"
        )
    return value


def _class_names(dataset: Any, labels: np.ndarray, name: str) -> tuple[str, ...]:
    """The names that the dataset has, where they are enough; else the numbers."""
    features = getattr(dataset, "features", None)
    described = [features[key] for key in LABEL_KEYS if key in features] if isinstance(features, Mapping) else []
    for names in (getattr(dataset, "classes", None), *(getattr(one, "names", None) for one in described)):
        if isinstance(names, Sequence) and not isinstance(names, str) and len(names) > int(labels.max()):
            return tuple(map(str, names))
    return numbers_as_names(labels, f"labels of {name}")
