"""TFRecords of images in the format of ProGAN, StyleGAN and ALAE; the tests write them byte by byte."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sivae.data.images import FittedImages, ImageBatches, PackedImages, load_packed, open_images, prepare
from sivae.data.images.formats.tensorflow_files import masked_checksum
from sivae.data.images.formats.tfrecords import RecordImages
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import pixels, pngs, write_files


def slow_checksum(content: bytes) -> int:
    """CRC-32C by its definition: remainder by the reflected polynomial 0x82F63B78, one bit after another."""
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def masked(content: bytes) -> int:
    """The masked checksum of TensorFlow's `crc32c.h`: rotated right by 15 bits, and a constant added."""
    checksum = slow_checksum(content)
    return ((checksum >> 15 | checksum << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as their 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def part(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(
    shape: Sequence[int], data: bytes, *, packed: bool = True, names: tuple[str, str] = ("shape", "data")
) -> bytes:
    """Example{features: {feature: {shape: int64_list, data: bytes_list}}}."""
    numbers = part(1, b"".join(map(varint, shape))) if packed else b"".join(b"\x08" + varint(n) for n in shape)
    features = {names[0]: part(3, numbers), names[1]: part(1, part(1, data))}
    entries = [part(1, part(1, name.encode()) + part(2, feature)) for name, feature in features.items()]
    return part(1, b"".join(entries))


def record(data: bytes) -> bytes:
    """Length, its checksum, data, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def records(images: Sequence[np.ndarray]) -> bytes:
    """A file of uint8 images, given as [H, W, C] and stored as [C, H, W]."""
    planes = [image.transpose(2, 0, 1) for image in images]
    return b"".join(record(example(image.shape, image.tobytes())) for image in planes)


SMALL, LARGE = ([pixels(10 * side + i, side, side) for i in range(5)] for side in (4, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five faces of 4×4 and of 8×8 in two parts, and other files that such folders hold."""
    content = {
        "faces-r02.tfrecords.000": records(SMALL[:3]),
        "faces-r02.tfrecords.001": records(SMALL[3:]),
        "faces-r03.tfrecords.000": records(LARGE[:3]),
        "faces-r03.tfrecords.001": records(LARGE[3:]),
        "faces-rxx.labels": b"\x93NUMPY",
    }
    return write_files(tmp_path / "faces", content)


def read_all(images: object) -> list[np.ndarray]:
    assert isinstance(images, RecordImages)
    return [images.read(index) for index in range(len(images))]


def test_the_largest_images_of_a_folder_are_read(folder: Path) -> None:
    said: list[str] = []
    images = open_images(folder, notice=said.append)
    assert isinstance(images, RecordImages)
    assert (len(images), images.resolution, images.class_names, images.label(0)) == (5, 8, None, None)
    assert np.array_equal(read_all(images), LARGE)
    assert images.where(3) == f"record 0 of {folder / 'faces-r03.tfrecords.001'}"
    assert said == [f"faces in {folder} has images of 4, 8 pixels a side; the smallest that suffices is read"]


@pytest.mark.parametrize("name", ["faces-r02.tfrecords.000", "faces-r02.tfrecords.001"])
def test_a_file_is_read_with_all_parts_of_its_resolution(folder: Path, name: str) -> None:
    assert np.array_equal(read_all(open_images(folder / name)), SMALL)


@pytest.mark.parametrize("name", ["celebahq-r02.tfrecords", "mine.tfrecord", "MINE.TFRECORDS"])
def test_files_that_are_whole_or_named_otherwise(tmp_path: Path, name: str) -> None:
    write_files(tmp_path / "set", {name: records(SMALL)})
    for path in (tmp_path / "set", tmp_path / "set" / name):
        assert np.array_equal(read_all(open_images(path)), SMALL)


def test_grey_images_and_lists_that_are_not_packed(tmp_path: Path) -> None:
    image = pixels(0, 4, 4, 1)
    data = record(example([1, 4, 4], image.tobytes(), packed=False))
    assert np.array_equal(read_all(open_images(write_files(tmp_path, {"a.tfrecords": data}))), [image])


def test_the_checksum_is_crc_32c() -> None:
    """The check value of the polynomial's catalogue entry, and random bytes against the definition."""
    assert slow_checksum(b"123456789") == 0xE3069283
    assert masked_checksum(content := bytes(pixels(0).tobytes())) == masked(content)


def test_threads_and_processes_read_one_set(folder: Path) -> None:
    images = open_images(folder, notice=lambda text: None)
    assert np.array_equal(read_all(pickle.loads(pickle.dumps(images))), LARGE)
    with ImageBatches(images, batch_size=5, seed=0, cache="none", workers=2) as batches:
        from_processes = batches.batch(0)[0]
    with ImageBatches(load_packed(images, workers=2, progress=False), batch_size=5, seed=0) as batches:
        assert batches.batch(0)[0].equal(from_processes)


def test_the_file_of_the_resolution_that_is_asked_for_is_read(folder: Path, tmp_path: Path) -> None:
    images = open_images(folder)
    assert np.array_equal(load_packed(images, resolution=4, progress=False).array, SMALL)
    assert np.array_equal(FittedImages(images, resolution=4).read(2), SMALL[2])
    facts = prepare(folder, tmp_path / "four", resolution=4, progress=False)
    packed = open_images(tmp_path / "four")
    assert isinstance(packed, PackedImages) and facts["count"] == 5
    assert np.array_equal(packed.array, SMALL)
    assert prepare(folder, tmp_path / "eight", resolution=8, progress=False)["levels"] == [4]
    assert load_packed(images, resolution=3, progress=False).resolution == 3
    assert load_packed(images, resolution=16, progress=False).resolution == 16
    cropped = load_packed(images, resolution=4, crop=(4, 4, 4, 4), progress=False)  # in pixels of the largest
    assert np.array_equal(cropped.array, np.stack(LARGE)[:, 4:, 4:])


def test_sets_beside_each_other_have_to_be_named(folder: Path) -> None:
    write_files(folder, {"cats-r02.tfrecords": records(SMALL), "extra.tfrecords": records(LARGE)})
    with pytest.raises(DataError, match=r"several data sets: cats in .*, extra\.tfrecords in .*, faces in .*name one"):
        open_images(folder)
    assert len(open_images(folder / "cats-r02.tfrecords")) == 5


def test_there_are_no_splits(folder: Path) -> None:
    with pytest.raises(DataError, match="has no test images; TFRecords of one name have no parts"):
        open_images(folder, split="test")


def test_missing_and_doubled_parts_are_named(folder: Path) -> None:
    (folder / "faces-r03.tfrecords.001").rename(folder / "faces-r03.tfrecords.999999999")
    with pytest.raises(DataError, match=r"faces-r03\.tfrecords\.999999999: part 1 of this file is missing"):
        open_images(folder)
    (folder / "faces-r03.tfrecords.999999999").rename(folder / "faces-r03.tfrecords.0")
    with pytest.raises(DataError, match="have the name of the same part"):
        open_images(folder)
    (folder / "faces-r03.tfrecords.0").rename(folder / "faces-r03.tfrecords")
    with pytest.raises(DataError, match=r"faces-r03\.tfrecords is beside parts of a file of the same name"):
        open_images(folder)


# Damaged and malicious files


def test_files_that_are_cut_short_are_refused_when_they_are_opened(tmp_path: Path) -> None:
    """Every byte is changed in turn, except those between two records."""
    whole = records(SMALL[:2])
    path = tmp_path / "faces-r02.tfrecords"
    for size in range(1, len(whole)):
        if size != len(whole) // 2:
            path.write_bytes(whole[:size])
            with pytest.raises(DataError, match=r"record [01], at byte (0|\d+), is cut short"):
                open_images(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no records"):
        open_images(tmp_path)


def test_a_changed_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(records(SMALL[:1]))
    path = tmp_path / "faces-r02.tfrecords"
    for position in range(len(whole)):
        whole[position] ^= 0x40
        path.write_bytes(whole)
        with pytest.raises(DataError, match="checksum"):
            open_images(tmp_path)
        whole[position] ^= 0x40


def test_a_damaged_record_is_skipped_on_request(folder: Path) -> None:
    path = folder / "faces-r03.tfrecords.000"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedImageError, match=r"record 0 of .*r03\.tfrecords\.000 is damaged: its checksum"):
        open_images(folder)
    packed = load_packed(open_images(folder, skip_damaged=True), progress=False)
    assert packed.skipped == 1 and np.array_equal(packed.array, LARGE[1:])


def test_a_length_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    for length in (1 << 63, (1 << 64) - 1, 5):
        size = struct.pack("<Q", length)
        (tmp_path / "a.tfrecords").write_bytes(size + struct.pack("<I", masked(size)) + b"1234")
        with pytest.raises(DataError, match="record 0, at byte 0, is cut short: it claims to hold"):
            open_images(tmp_path)


def test_a_record_that_is_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    size = struct.pack("<Q", 3 << 30)
    with (tmp_path / "a.tfrecords").open("wb") as file:
        file.write(size + struct.pack("<I", masked(size)))
        file.truncate((3 << 30) + 16)  # a file with a hole: it takes no disk
    with pytest.raises(DataError, match=r"claims to hold 3\.2 GB, more than an image takes"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (example([3, 4, 4], bytes(47)), r"holds 47 bytes of pixels, where an image of shape \[3, 4, 4\] has 48"),
        (example([3, -4, -4], bytes(48)), r"the shape \[3, -4, -4\]; expected \[1 or 3, height, width\]"),
        (example([3, 1 << 40, 1 << 40], bytes(48)), r"holds 48 bytes .* has 3,626,777,458,843,887,524,118,528"),
        (example([3, 0, 0], b""), r"the shape \[3, 0, 0\]"),
        (example([4, 4, 3], bytes(48)), r"the shape \[4, 4, 3\]"),
        (example([48], bytes(48)), r"the shape \[48\]"),
        (example([3] * 100_000, bytes(48)), r"the shape \[3, 3, 3, 3, 3, 3, 3, 3\]; expected"),
        (example([3, 4, 4], bytes(48), names=("image/width", "image/encoded")), "holds 'image/encoded', 'image/width'"),
        (example([3, 4, 4], bytes(48), names=("data", "shape")), r"the shape \[\]"),
        (b"", "holds nothing; expected 'shape' and 'data'"),
        (b"\x0a\xff\xff\xff\xff\x0f", "no Example of TensorFlow's, or damaged"),
        (example([3, 4, 4], bytes(48))[:-1], "no Example of TensorFlow's, or damaged"),
        (b"\x0b" * 100_000, "no Example of TensorFlow's, or damaged"),  # groups in groups
        (part(1, part(1, part(1, b"\xff"))), "no Example of TensorFlow's, or damaged"),  # a name that is not UTF-8
    ],
)
def test_messages_that_are_no_image(tmp_path: Path, message: bytes, words: str) -> None:
    write_files(tmp_path, {"a.tfrecords": record(message)})
    with pytest.raises(DamagedImageError, match=rf"record 0 of .*a\.tfrecords.* {words}"):
        open_images(tmp_path)


def test_images_of_another_shape_than_the_first_or_the_name(tmp_path: Path) -> None:
    write_files(tmp_path / "a", {"faces-r02.tfrecords": records([SMALL[0], LARGE[0]])})
    images = open_images(tmp_path / "a")
    with pytest.raises(DamagedImageError, match=r"record 1 .* of shape \[3, 8, 8\], where the first has \[3, 4, 4\]"):
        images.read(1)
    write_files(tmp_path / "b", {"faces-r03.tfrecords": records(SMALL)})
    with pytest.raises(DataError, match=r"images of shape \[3, 4, 4\], where 8×8, as in their name, is expected"):
        open_images(tmp_path / "b")
    write_files(tmp_path / "c", {"wide.tfrecords": records([pixels(0, 4, 6)])})
    with pytest.raises(DataError, match=r"shape \[3, 4, 6\], where a square is expected"):
        open_images(tmp_path / "c")
    write_files(tmp_path / "d", {"faces-r99.tfrecords": records(SMALL)})
    with pytest.raises(DataError, match=r"images of 2\^99 pixels a side; 14 is the most"):
        open_images(tmp_path / "d")


def test_other_files_of_that_name_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.tfrecords": next(iter(pngs(["1.png"]).values()))})
    with pytest.raises(DataError, match=r"record 0, at byte 0, is no TFRecord: the checksum of its length"):
        open_images(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened(folder: Path) -> None:
    images = open_images(folder)
    os.truncate(folder / "faces-r03.tfrecords.001", 50)
    with pytest.raises(DamagedImageError, match=r"record 1 of .*\.001 is cut short"):
        images.read(4)
