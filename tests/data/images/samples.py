"""Tiny data sets for tests, written in the exact formats of the originals."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sivae.data.images import PackedImages, open_images
from sivae.data.images.base import Split


def pixels(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """Random uint8 [H, W, C]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image file's bytes; arrays are [H, W, 1 or 3]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pngs(names: Sequence[str], **shape: int) -> dict[str, bytes]:
    """A PNG of random pixels for each name; the i-th is `pixels(i)`."""
    return {name: encoded(pixels(seed, **shape)) for seed, name in enumerate(names)}


def write_files(folder: Path, content: Mapping[str, bytes]) -> Path:
    """Files below a folder."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    """A zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, content: Mapping[str, bytes]) -> Path:
    """A tar archive, compressed as its suffix says."""
    suffix = path.suffix.lstrip(".")
    with tarfile.open(path, "w" if suffix == "tar" else f"w:{suffix.replace('tgz', 'gz')}") as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def idx(array: np.ndarray) -> bytes:
    """uint8 of any dimensions as an IDX file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(count: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, bytes]]:
    """Images [N, 28, 28], labels [N], and the two files' bytes by the ends of their names."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    return images, labels, {"images-idx3-ubyte": idx(images), "labels-idx1-ubyte": idx(labels)}


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # independent of the time


def planes(images: np.ndarray) -> np.ndarray:
    """[N, 32, 32, 3] as CIFAR's rows of a red, a green and a blue plane, [N, 3072]."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar_images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def python2_pickle(content: Mapping[bytes, object]) -> bytes:
    """A dictionary, pickled as for the CIFAR releases by Python 2 with numpy, protocol 2: strings are byte strings.

    Values are byte strings, whole numbers, lists of these, or uint8 arrays.
    """
    out = bytearray(b"\x80\x02}(")
    for key, value in content.items():
        out += _python2(key) + _python2(value)
    return bytes(out + b"u.")


def _python2(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(_python2(one) for one in value) + b"e"
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2(0) + b"\x85" + _python2(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + _python2(b"u1") + _python2(0) + _python2(1) + b"tR"
    state = b"(" + _python2(3) + _python2(b"|") + b"NNN" + _python2(-1) + _python2(-1) + _python2(0) + b"tb"
    shape = b"(" + b"".join(_python2(side) for side in value.shape) + b"t"
    return blank + b"(" + _python2(1) + shape + dtype + state + b"\x89" + _python2(value.tobytes()) + b"tb"


CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10_python(per_batch: int = 2) -> tuple[dict[str, bytes], np.ndarray, list[int]]:
    """The release's files by name, its train images and labels."""
    files, images, labels = {}, [], []
    for number in range(1, 6):
        batch = cifar_images(per_batch, number)
        own = [(number + i) % 10 for i in range(per_batch)]
        name = b"training batch %d of 5" % number
        entries = {b"data": planes(batch), b"labels": own, b"batch_label": name, b"filenames": [b"a.png"] * per_batch}
        files[f"cifar-10-batches-py/data_batch_{number}"] = python2_pickle(entries)
        images.append(batch)
        labels += own
    test = {b"data": planes(cifar_images(3, 9)), b"labels": [1, 2, 3], b"filenames": [b"t.png"] * 3}
    files["cifar-10-batches-py/test_batch"] = python2_pickle(test)
    meta: dict[bytes, object] = {b"num_cases_per_batch": per_batch, b"num_vis": 3072}
    meta[b"label_names"] = [name.encode() for name in CIFAR10_NAMES]
    files["cifar-10-batches-py/batches.meta"] = python2_pickle(meta)
    files["cifar-10-batches-py/readme.html"] = b"<meta>"
    return files, np.concatenate(images), labels


def python3_pickle(content: object, protocol: int) -> bytes:
    """A pickle of a current Python, as in files that users made themselves."""
    return pickle.dumps(content, protocol)


def opened(path: Path, split: Split | None = None) -> PackedImages:
    """A set that is opened as one array."""
    images = open_images(path, split=split)
    assert isinstance(images, PackedImages)
    return images
