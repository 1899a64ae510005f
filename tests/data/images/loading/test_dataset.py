"""Map-style datasets: what their items may be, and the error for what they may not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sivae.data.images.base import PackedImages
from sivae.data.images.loading import dataset as module
from sivae.data.images.loading.dataset import read_dataset
from sivae.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
LABELS = [2, 0, 1, 0]


class _Items:
    """A dataset of given items."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self._items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


def _read(items: list[Any], **attributes: Any) -> PackedImages:
    return read_dataset(_Items(items, **attributes), resolution=8, channels=3, progress=False)


FORMS = {
    "uint8 tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "float tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255.0,
    "bfloat16-free double tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1).double() / 255.0,
    "tensor that needs a gradient": lambda image: (torch.from_numpy(image).permute(2, 0, 1) / 255.0).requires_grad_(),
    "uint8 array": lambda image: image,
    "float array": lambda image: image / 255.0,
    "PIL image": Image.fromarray,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_the_same_pixels(form: str) -> None:
    images = [FORMS[form](image) for image in PIXELS]
    assert np.array_equal(_read(images).array, PIXELS)


def test_grey_images_of_two_or_three_dimensions_are_taken() -> None:
    grey = PIXELS[..., 0]
    forms = [grey[0], grey[1][..., None], torch.from_numpy(grey[2]), torch.from_numpy(grey[3])[None] / 255.0]
    read = read_dataset(_Items(forms), resolution=8, channels=1, progress=False)
    assert np.array_equal(read.array[..., 0], grey)
    assert _read(forms).array.shape == (4, 8, 8, 3)  # grey images become RGB where colour is asked for


@pytest.mark.parametrize(
    "item",
    [
        lambda image, label: (image, label),
        lambda image, label: [image, torch.tensor(label)],
        lambda image, label: {"image": image, "label": label},
        lambda image, label: {"img": image, "fine_label": np.int64(label), "coarse_label": 9},
    ],
    ids=["pair", "pair with a tensor", "dict", "dict of CIFAR-100's keys"],
)
def test_labels_come_with_the_images(item: Any) -> None:
    read = _read([item(image, label) for image, label in zip(PIXELS, LABELS, strict=True)])
    assert read.labels is not None and read.labels.tolist() == LABELS
    assert read.class_names == ("0", "1", "2")
    assert np.array_equal(read.array, PIXELS)


def test_names_of_classes_are_the_dataset_s() -> None:
    pairs = list(zip(PIXELS, LABELS, strict=True))
    names = ["cat", "dog", "bird"]
    assert _read(pairs, classes=names).class_names == tuple(names)
    assert _read(pairs, features={"label": SimpleNamespace(names=names)}).class_names == tuple(names)
    assert _read(pairs, classes=["cat"]).class_names == ("0", "1", "2")  # too few to be these labels' names


def test_other_sizes_are_resized() -> None:
    large = np.full((20, 20, 3), 100, np.uint8)
    assert np.array_equal(_read([large]).array, np.full((1, 8, 8, 3), 100))


def test_torch_s_own_datasets_and_lists_are_taken() -> None:
    tensors = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    alone = torch.utils.data.TensorDataset(tensors)
    labelled = torch.utils.data.TensorDataset(tensors, torch.tensor(LABELS))
    for data in (alone, labelled, torch.utils.data.Subset(labelled, range(4)), list(PIXELS)):
        assert np.array_equal(read_dataset(data, resolution=8, channels=3, progress=False).array, PIXELS)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "data is a _Items without items"),
        (["a.png"], "item 0 of _Items holds a str; expected a tensor"),
        ([(PIXELS[0], 1, 2)], "item 0 of _Items has 3 parts; expected a tensor"),
        ([{"path": "a.png"}], "item 0 of _Items is a dict of path; expected a tensor"),
        (
            [PIXELS[0], PIXELS[1] / 127.5 - 1.0],
            "item 1 of _Items has values from -0.9843 to 1; expected floating",
        ),
        ([np.full((8, 8), np.nan)], "item 0 of _Items has values from nan to nan"),
        ([PIXELS[0].astype(np.int32)], "item 0 of _Items has values of type int32; expected uint8"),
        ([PIXELS[0].transpose(2, 0, 1)], r"image of shape \[3, 8, 8\]; expected \[H, W, C\]"),
        ([torch.from_numpy(PIXELS[0])], r"image of shape \[8, 8, 3\]; expected \[C, H, W\]"),
        ([PIXELS[0, :4]], "item 0 of _Items is 8×4 .*, not square; crop it in the dataset"),
        ([(PIXELS[0], 1), (PIXELS[1], None)], "item 1 of _Items has no label, where others have one"),
        ([(PIXELS[0], -1)], "item 0 of _Items has a label of type int -1; expected a whole number from 0"),
        ([(PIXELS[0], "cat")], "item 0 of _Items has a label of type str 'cat'; expected a whole number"),
        ([(PIXELS[0], 10**20)], "a label of type int 100000000000000000000; expected a whole number"),
        (
            [(PIXELS[0], torch.zeros(40))],
            r"a label of type Tensor of shape \[40\]; .* give one class number",
        ),
        ([(PIXELS[0], 0.5)], "item 0 of _Items has a label of type float 0.5"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_expected(items: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(items)


def test_a_stream_is_refused() -> None:
    with pytest.raises(DataError, match=r"data is a list_iterator without a length .*; expected a map-style dataset"):
        read_dataset(iter([PIXELS[0]]), resolution=8, channels=3)


def test_a_dataset_that_does_not_fit_the_memory_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 2 * 4 * 192 - 1)
    with pytest.raises(DataError, match="4 images of 8×8×3 take 768 bytes, more than the 767 bytes allowed in memory"):
        _read(list(PIXELS))
