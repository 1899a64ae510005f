"""Image files become 8-bit grey or RGB, damaged ones an error that names them; crop, resize and channels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sivae.data.images.pixels import Crop, as_picture, check_shape_request, decode, fit, fit_square
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import encoded, pixels


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> tuple[str, np.ndarray]:
    picture = decode(encoded(image, kind, **options), "it")
    return picture.mode, np.asarray(picture)


def test_rgb_and_grey_keep_their_exact_pixels() -> None:
    rgb, grey = pixels(0), pixels(1, channels=1)
    assert np.array_equal(np.asarray(decode(encoded(rgb), "it")), rgb)
    assert np.array_equal(np.asarray(decode(encoded(grey), "it")), grey[:, :, 0])


def test_a_palette_becomes_its_colours() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    mode, values = decoded(palette)
    assert mode == "RGB" and values.tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_black_and_white_becomes_grey() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    mode, values = decoded(bits)
    assert mode == "L" and values.tolist() == [[0, 255]]


def test_transparent_pixels_are_laid_on_white() -> None:
    mode, values = decoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)))
    assert mode == "RGB" and values.tolist() == [[[255, 255, 255]]]
    assert decoded(Image.new("RGBA", (1, 1), (255, 0, 0, 255)))[1].tolist() == [[[255, 0, 0]]]
    mode, values = decoded(Image.new("LA", (1, 1), (7, 0)))
    assert mode == "L" and values.tolist() == [[255]]


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert decoded(palette, transparency=1)[1].tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_are_rounded_to_eight() -> None:
    wide = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    mode, values = decoded(Image.fromarray(wide))
    # v·255/65535 = v/257
    assert mode == "L" and values.tolist() == [[round(int(v) / 257) for v in wide[0]]]


def test_cmyk_becomes_rgb() -> None:
    mode, values = decoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert mode == "RGB"
    # Red, except for a few levels that JPEG's 8-bit colour transform and quality-100 tables may lose.
    assert np.abs(values.astype(int) - [255, 0, 0]).max() <= 4


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(DamagedImageError, match="it has floating-point pixels"):
        decode(encoded(Image.new("F", (1, 1), 0.5), "TIFF"), "it")


def test_the_first_image_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("#ff0000", "#0000ff")]
    assert decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[1].tolist() == [[[255, 0, 0]]]


def test_exif_orientations_are_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the image's right
    values = decoded(Image.fromarray(pixels(0, height=2, width=3)), exif=exif)[1]
    assert np.array_equal(values, np.rot90(pixels(0, height=2, width=3), -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_that_is_cut_short_is_named(kind: str) -> None:
    content = encoded(pixels(0, 64, 64), kind)
    with pytest.raises(DamagedImageError, match=r"^faces/7\.jpg is "):
        decode(content[: len(content) * 2 // 3], "faces/7.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x00" * 100, "it is no image that can be read"),
        (b"<html>404</html>", "it is no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no image that can be read"),
    ],
)
def test_a_file_that_is_no_image_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DamagedImageError, match=message):
        decode(content, "it")


def test_damage_anywhere_is_a_damaged_image_error() -> None:
    """Every byte of small files is overwritten in turn: they still decode, or raise an error that names them."""
    outcomes = set()
    for kind in ("PNG", "JPEG", "GIF"):
        content = encoded(pixels(0), kind)
        for place in range(0, len(content), 3):
            broken = bytearray(content)
            broken[place] ^= 0xFF
            try:
                outcomes.add(decode(bytes(broken), "it").mode)
            except DamagedImageError as error:
                outcomes.add(str(error).split()[0])
    assert outcomes == {"RGB", "it"} or outcomes == {"RGB", "L", "it"}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Pillow itself warns above its limit, and raises above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(64 / factor))
    with pytest.raises(DamagedImageError, match=r"it unpacks to more pixels than Pillow's limit"):
        decode(encoded(pixels(0)), "it")


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(pixels(0), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    content = content[:start] + 100 * content[start:-2] + content[-2:]  # its last scan again and again
    assert decode(content, "a.jpg").size == (8, 8)
    monkeypatch.setattr("sivae.data.images.pixels.PROGRESSIVE_PIXELS", 8 * 8 * 100)
    with pytest.raises(DamagedImageError, match=r"a\.jpg has 8×8 .* in 1\d\d scans, which would take long to decode"):
        decode(content, "a.jpg")


def test_an_image_that_fits_no_memory_is_refused_and_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sivae.data.images.pixels.fits_memory", lambda size: size < 8 * 8 * 16)
    with pytest.raises(DataError, match=r"a\.png has 8×8 pixels, .* takes 1\.0 kB, .*; free some, or scale") as caught:
        decode(encoded(pixels(0)), "a.png")
    assert not isinstance(caught.value, DamagedImageError)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    """A PNG of a few bytes that claims 50,000 × 50,000 pixels."""
    header = io.BytesIO(encoded(pixels(0))).getvalue()
    claim = (50_000).to_bytes(4, "big") * 2
    import zlib

    chunk = b"IHDR" + claim + header[24:29]
    content = header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]
    with pytest.raises(DamagedImageError, match="more pixels than Pillow's limit"):
        decode(content, "it")


# Crop, resize and channels


def fitted(image: np.ndarray, resolution: int, crop: Crop = None, channels: int = 3) -> np.ndarray:
    return fit(as_picture(image), resolution=resolution, crop=crop, channels=channels, where="it")


def test_an_image_of_the_resolution_keeps_its_exact_pixels() -> None:
    assert np.array_equal(fitted(pixels(0), 8), pixels(0))


def test_the_centre_crop_is_the_largest_square_in_the_middle() -> None:
    wide, high = pixels(0, 4, 9), pixels(1, 9, 4)
    assert np.array_equal(fitted(wide, 4, "center"), wide[:, 2:6])
    assert np.array_equal(fitted(high, 4, "center"), high[2:6])


def test_the_middle_square_is_fitted_to_a_model() -> None:
    image = pixels(0, 4, 9)
    assert np.array_equal(fit_square(as_picture(image), 3, 1, "it"), fitted(image, 3, "center", channels=1))


def test_a_crop_is_top_left_height_width() -> None:
    image = pixels(0, 9, 12)
    assert np.array_equal(fitted(image, 3, (1, 5, 3, 3)), image[1:4, 5:8])


def test_the_resize_is_antialiased() -> None:
    """Stripes of one pixel become the grey between them; taking every fourth pixel would keep one colour."""
    stripes = np.zeros((32, 32, 1), np.uint8)
    stripes[:, ::2] = 255
    # Lanczos has 3 lobes, so 12 pixels in from the border its window is whole; its weights on even and odd pixels
    # differ by less than 1 %, of 255 levels: 3.
    assert np.abs(fitted(stripes, 8, channels=1)[:, 3:5].astype(int) - 127.5).max() < 3


def test_grey_becomes_rgb_by_repetition_and_rgb_grey_by_luma() -> None:
    grey = pixels(0, channels=1)
    assert np.array_equal(fitted(grey, 8), grey.repeat(3, axis=2))
    green = np.zeros((1, 1, 3), np.uint8)
    green[..., 1] = 255
    assert fitted(green, 1, channels=1).item() == round(0.587 * 255)


def test_an_image_that_is_not_square_needs_a_crop() -> None:
    with pytest.raises(DataError, match=r"it is 9×4 \(width × height\), not square; .*--crop center"):
        fitted(pixels(0, 4, 9), 4)


def test_an_image_that_is_too_small_for_the_crop_is_named() -> None:
    with pytest.raises(DamagedImageError, match=r"it is 8×8 .* too small for the crop: rows 4 to 9, columns 0 to 5"):
        fitted(pixels(0), 4, (4, 0, 5, 5))


@pytest.mark.parametrize(
    ("resolution", "crop", "channels", "message"),
    [
        (0, None, None, "resolution = 0: expected 1 to 16384"),
        (8, "middle", None, "crop = 'middle': expected center"),
        (8, (0, 0, 4), None, "crop = \\(0, 0, 4\\): expected center"),
        (8, (-1, 0, 4, 4), None, "top and left must be 0 or more"),
        (8, (0, 0, 4, 5), None, "height and width differ"),
        (8, None, 4, "channels = 4: expected 1"),
    ],
)
def test_invalid_arguments_are_refused(resolution: int, crop: Crop, channels: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_shape_request(resolution, crop, channels)
