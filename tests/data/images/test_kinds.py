"""The kinds of image files, by suffix and by first bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from sivae.data.images.kinds import SUFFIXES_OF, kind_of, readable_kinds, readable_suffixes
from sivae.data.images.pixels import decode
from sivae.errors import DamagedImageError
from tests.data.images.samples import encoded, pixels

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_the_first_bytes_of_each_kind_that_can_be_decoded(kind: str) -> None:
    if kind not in readable_kinds():
        pytest.skip(f"Pillow is built without {kind}")
    content = encoded(pixels(0), kind)
    assert kind_of(content[:64]) == kind
    assert decode(content, "it").size == (8, 8)


@pytest.mark.parametrize("kind", ["DIB", "TGA"])
def test_a_kind_without_a_signature_is_decoded(kind: str) -> None:
    content = encoded(pixels(0), kind)
    assert kind_of(content[:64]) is None
    assert decode(content, "it").size == (8, 8)


def test_texts_and_other_binary_files_are_no_images() -> None:
    for content in (b"", b"BMW is a maker of cars, and so on and on", b"P2 is the second point", b"\x28\0\0\0" * 16):
        assert kind_of(content) is None
    assert kind_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom") is None


def test_a_photograph_of_a_phone_with_the_suffix_of_a_jpeg_is_named() -> None:
    assert "HEIF" not in readable_kinds() and not HEIC.endswith(readable_suffixes().__repr__().encode())
    with pytest.raises(DamagedImageError, match=r"a\.jpg is an image of the kind HEIF, which Pillow cannot read here"):
        decode(HEIC, "a.jpg")


def test_a_plugin_of_pillow_adds_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()

    def opened(file: io.BytesIO, name: str = "") -> Image.Image:
        return Image.new("RGB", (3, 3), "red")

    monkeypatch.setitem(Image.OPEN, "HEIF", (opened, lambda prefix: prefix[4:12] == b"ftypheic"))
    assert "HEIF" in readable_kinds() and set(SUFFIXES_OF["HEIF"]) <= set(readable_suffixes())
    assert decode(HEIC, "it").size == (3, 3)
