"""Read Cars3D: 183 car models, each seen from 24 azimuths at 4 elevations.

Reed, Zhang, Zhang & Lee, "Deep Visual Analogy-Making", NIPS 2015. A file `car_NNN_mesh.mat` (MATLAB, version 5) holds
one car as `im`, uint8 [128, 128, 3, 24, 4]: height, width, RGB, azimuth, elevation. The class is the car, the content
is the view, elevation · 24 + azimuth.

Parts share no car: as in Gabbay & Hoshen ("Demystifying Inter-Class Disentanglement", ICLR 2020), the last 20 of the
183 cars are the test images.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from sivae.data.images.base import Split
from sivae.data.images.formats.matlab import NewerVersionError, read_arrays
from sivae.data.images.formats.releases import by_folder, found_parts
from sivae.data.images.formats.sequences import Decoded, Run, SequenceImages, parts_by_class
from sivae.data.images.formats.table import Found, Request
from sivae.data.stores import Store
from sivae.errors import DamagedImageError, DataError

_FILE = re.compile(r"car_(\d+)_mesh\.mat")
_AZIMUTHS, _ELEVATIONS = 24, 4
_SHAPE = (128, 128, 3, _AZIMUTHS, _ELEVATIONS)
_VIEWS = tuple(
    f"elevation {elevation}, azimuth {azimuth} of {_AZIMUTHS}"
    for elevation in range(_ELEVATIONS)
    for azimuth in range(_AZIMUTHS)
)
_CARS, _TEST_CARS = 183, 20


def test_classes(count: int) -> int:
    """The number of test classes: the release's share of 20 in 183, rounded, and at least one."""
    return max(1, round(count * _TEST_CARS / _CARS))


def find(store: Store, only: str | None = None) -> list[Found]:
    """Cars3D's files in the folders of a store, by name, in the order of the cars' numbers."""
    found = []
    for folder, files in by_folder(store).items():
        cars = {
            match[1]: name
            for own, name in files.items()
            if only in (None, name) and (match := _FILE.fullmatch(own)) is not None
        }
        if cars:
            numbers = sorted(cars, key=lambda number: (int(number), number))
            parts = parts_by_class({number: [cars[number]] for number in numbers}, test_classes(len(cars)))
            labels = {cars[number]: label for label, number in enumerate(numbers)}
            open_part = partial(_open, store, labels, tuple(f"car {number}" for number in numbers))
            found.append(found_parts(f"Cars3D in {store.path / folder}", parts, open_part))
    return found


def _open(
    store: Store,
    labels: dict[str, int],
    class_names: tuple[str, ...],
    files: list[str],
    part: Split | None,
    request: Request,
) -> SequenceImages:
    views = np.arange(len(_VIEWS))
    return SequenceImages(
        store,
        [Run(file, labels[file], views, views) for file in files],
        partial(_decode, store),
        noun="view",
        class_names=class_names,
        content_names=_VIEWS,
        part=part,
        request=request,
    )


def _decode(store: Store, run: Run) -> Decoded:
    content = store.read(run.file)
    try:
        pixels = read_arrays(content, ("im",)).get("im")
    except NewerVersionError:
        raise DataError(
            f"{store.where(run.file)} is a MATLAB 7.3 file; Cars3D's are of version 5 (save -v7 writes it)"
        ) from None
    except ValueError as error:
        raise DamagedImageError(f"the file is damaged, or no MATLAB file: {error}; fetch it again") from None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != _SHAPE:
        came = "no im" if pixels is None else f"im as {pixels.dtype} {list(pixels.shape)}"
        raise DamagedImageError(f"the file holds {came}; expected im as uint8 {list(_SHAPE)}")
    views = np.ascontiguousarray(pixels.transpose(4, 3, 0, 1, 2))  # elevation, azimuth, height, width, channel
    return Decoded(views.reshape(-1, *_SHAPE[:3]))
