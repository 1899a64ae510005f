"""The kinds of image files that can be decoded, and how to tell them by suffix or by first bytes."""

from __future__ import annotations

import re
from functools import cache

from PIL import Image, features

# By Pillow's names. Its other kinds stay off, whatever a file's name: some start other programs, many are rarely used.
# TGA is last, because it has no signature: Pillow tries it where no other kind fits.
SUFFIXES_OF = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "TGA": (".tga",),
}

# Photographs as cameras record them begin like a TIFF, and Pillow would read the small preview inside.
RAW_SUFFIXES = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".srw", ".pef", ".orf", ".rw2", ".raf", ".3fr")

# The first bytes. Of two bytes ("BM", "P5") or one number (DIB) alone a text would do, so those are wider or left out.
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{4}\0{4}.{4}[\x0c(48@lx|]\0{3}",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s+(?:#|[0-9]+\s)",
    "JPEG2000": rb"\0{3}\x0cjP  \r\n\x87\n|\xffO\xffQ",
    "AVIF": rb".{4}ftyp(?:avi[fs]|mif1.{4}(?:.{4}){0,8}avif)",
    "HEIF": rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
}
_PATTERNS = {kind: re.compile(signature, re.DOTALL) for kind, signature in _SIGNATURES.items()}
_FEATURES = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # parts that Pillow may be built without


def kind_of(head: bytes) -> str | None:
    """The kind of image whose signature a file's first bytes are, by Pillow's name; None where they are none."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(head)), None)


def readable_kinds() -> tuple[str, ...]:
    """The kinds that the installed Pillow can decode. HEIF is one once a plugin such as pillow-heif is registered."""
    Image.init()
    return _decodable(tuple(kind for kind in SUFFIXES_OF if kind in Image.OPEN))


@cache
def _decodable(registered: tuple[str, ...]) -> tuple[str, ...]:
    def built(kind: str) -> bool:
        feature = _FEATURES.get(kind)
        return feature not in (*features.modules, *features.codecs) or bool(features.check(str(feature)))

    return tuple(kind for kind in registered if built(kind))


def readable_suffixes() -> tuple[str, ...]:
    """The suffixes of the readable kinds, in lower case."""
    return tuple(suffix for kind in readable_kinds() for suffix in SUFFIXES_OF[kind])
