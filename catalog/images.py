"""The one decoder: bytes of any common image format to RGB pixels.

Size and format are read from the header first; an image that declares too many pixels is refused
before anything is allocated. Upright JPEGs take the fast path (simplejpeg); one that lacks only its
end marker is read too. Pillow decodes PNG, WebP, GIF, BMP, TIFF, AVIF, rotated or CMYK JPEGs, with
the extra `heic` HEIC, and none of its other formats (one of them starts Ghostscript). Orientation
is applied, gray and CMYK become RGB, transparent pixels become white, 16-bit samples are scaled to
8.
"""

import contextlib
import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

from catalog.config import MAX_PIXELS
from catalog.errors import ImageError
from catalog.filetypes import HEAD, file_type


def _formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here: AVIF if this Pillow has it, HEIC with the
    extra `heic`."""
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
    if features.check("avif"):
        formats.append("AVIF")
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    return tuple(formats)


FORMATS = _formats()
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is per process; `header` holds one per call

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_MARKER, _SCAN, _APP1 = 0xFF, 0xDA, 0xE1
"""How a JPEG's segments begin, and two of their kinds."""
_PNG, _PNG_TEXTS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt")
_XMP, _LONG_XMP = b"XML:com.adobe.xmp\0\0", 2**20
"""The only PNG text that is read (XMP, for its orientation): how it begins, and its maximum
bytes."""
_TILE_SIZE = (322, 323)
"""TIFF's tags of the width and height of a tile."""
_ORIENTATION = 0x0112
_ORIENTED = (b"Exif\0\0", b"tiff:Orientation")
"""Marks of the metadata in which Pillow finds an orientation: EXIF, else XMP."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    TypeError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    ZeroDivisionError,
    struct.error,
)
"""What Pillow's decoders raise on damaged bytes."""


_INSTALL = {
    "HEIC": "pip install 'shelfsort[heic]' reads it",
    "AVIF": "a later Pillow reads it: pip install --upgrade pillow",
}


class Header(NamedTuple):
    """What an image declares: Pillow's name of its format, width and height in pixels as stored
    (before rotation)."""

    format: str
    width: int
    height: int
    fast: bool
    """Whether simplejpeg may decode it."""


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads format and size without decoding. Raises ImageError (`empty`, `not_an_image`,
    `too_large`)."""
    if not data:
        raise ImageError("empty", "the image has no bytes")
    declared = _jpeg_header(data) if data[:3] == _JPEG else None
    if declared is None:
        with _pillow(data) as image:
            declared = Header(image.format or "unknown", *image.size, fast=False)
            _require_small_tiles(image, max_pixels)
    if declared.width * declared.height > max_pixels:
        size = f"{declared.width} x {declared.height}"
        detail = f"declares {size} pixels, expected at most {max_pixels} (catalog.max_pixels)"
        raise ImageError("too_large", detail)
    return declared


def _require_small_tiles(image: Image.Image, max_pixels: int) -> None:
    """Raises ImageError (`too_large`) for a TIFF whose tiles are large, whatever its own size is:
    the decoder allocates a whole tile."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 0) for tag in _TILE_SIZE)
    if width * height > max(max_pixels, image.width * image.height):
        detail = f"declares tiles of {width} x {height} pixels, expected at most {max_pixels}"
        raise ImageError("too_large", detail)


def decode(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    out: np.ndarray | None = None,
    least: tuple[int, int] | None = None,
) -> np.ndarray:
    """Pixels of an image, uint8 [height, width, 3], RGB, contiguous. An upright JPEG is decoded
    into `out` if that has this shape, and to a half, a quarter or an eighth of its sides (scaled
    DCT, several times as fast) if these are at least `least`, height and width.

        photo = decode(Path("a.jpg").read_bytes())

    Raises ImageError with reason `empty`, `not_an_image`, `too_large` or `undecodable`.
    """
    return pixels(data, header(data, max_pixels), out, least)


def pixels(
    data: bytes,
    declared: Header,
    out: np.ndarray | None = None,
    least: tuple[int, int] | None = None,
) -> np.ndarray:
    """Like `decode`, for an image whose header was read and accepted."""
    if declared.fast:
        height, width = _scaled(declared, least)
        fits = out is not None and out.shape == (height, width, 3)
        if lacks_end(data):
            data = data + _JPEG_END
        try:
            return simplejpeg.decode_jpeg(
                data,
                colorspace="RGB",
                min_height=height,
                min_width=width,
                buffer=out if fits else None,
            )
        except ValueError as error:
            raise ImageError("undecodable", f"JPEG decoder: {error}") from error
    with _pillow(data) as image:
        try:
            turn = _turn(image)
            return np.ascontiguousarray(_rgb(image if turn is None else image.transpose(turn)))
        except _DAMAGE as error:
            raise ImageError("undecodable", f"{image.format} decoder: {error}") from error


def _scaled(declared: Header, least: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that a JPEG is decoded to."""
    sides = declared.height, declared.width
    if least is None:
        return sides
    for factor in (8, 4, 2):
        scaled = -(-sides[0] // factor), -(-sides[1] // factor)
        if scaled[0] >= least[0] and scaled[1] >= least[1]:
            return scaled
    return sides


def lacks_end(data: bytes) -> bool:
    """Whether a JPEG has no end marker behind its last scan, as some cameras and broken downloads
    leave it."""
    if data[:3] != _JPEG or data.endswith(_JPEG_END):
        return False
    return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)


def _app1(data: bytes) -> bytes:
    """The segments of a JPEG that EXIF and XMP stand in, one behind the other; all of it if its
    segments can't be followed to the first scan."""
    found, start, last = b"", 2, len(data) - 4
    while start <= last and data[start] == _MARKER:
        marker, stop = data[start + 1], start + 2 + (data[start + 2] << 8 | data[start + 3])
        if marker == _SCAN:
            return found
        if marker == _APP1:
            found += data[start:stop]
        start = stop
    return data


def _jpeg_header(data: bytes) -> Header | None:
    """Header of a JPEG that simplejpeg can read, else None."""
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    fast = colourspace in ("YCbCr", "Gray", "RGB")
    if fast and (app1 := _app1(data)) and any(mark in app1 for mark in _ORIENTED):
        with _pillow(data) as image:
            fast = _turn(image) is None
    return Header("JPEG", width, height, fast)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright; None if it is, or if its orientation can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
            return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:
        return None


def _pillow(data: bytes) -> Image.Image:
    data = _without_texts(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images: `header` holds our own limit
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError:
        type_name = file_type(data[:HEAD])
        detail = (
            f"the file is {type_name}" if type_name else f"no image format starts with {data[:8]!r}"
        )
        if type_name in ("HEIC", "AVIF"):
            detail += f"; {_INSTALL[type_name]}"
        raise ImageError("not_an_image", detail) from None
    except _DAMAGE as error:
        raise ImageError("not_an_image", f"damaged header: {error}") from error


def _without_texts(data: bytes) -> bytes:
    """A PNG without its texts, except XMP: Pillow refuses photos that have long ones."""
    if data[:8] != _PNG or not any(name in data for name in _PNG_TEXTS):
        return data
    kept, start = [_PNG], 8
    while start < len(data):
        length, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        stop = start + length + 12
        is_xmp = data.startswith(_XMP, start + 8) and length < _LONG_XMP
        if name not in _PNG_TEXTS or is_xmp:
            kept.append(data[start:stop])
        start = stop
    return b"".join(kept)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion clips instead of scaling
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))
