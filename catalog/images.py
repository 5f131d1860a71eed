"""The one decoder: bytes of any common image format to RGB pixels.

Size and format are read from the header first, and an image that declares too many pixels is
refused before anything is allocated. Upright JPEGs take the fast path (simplejpeg); Pillow does the
rest: PNG, WebP, GIF, BMP and turned or CMYK JPEGs, and none of its other formats (one of them
starts Ghostscript). Orientation is applied, gray and CMYK become RGB, transparent pixels become
white, 16-bit samples are scaled to 8.
"""

import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from catalog.config import MAX_PIXELS
from catalog.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_ORIENTATION = 0x0112
_ORIENTED = (
    b"Exif\0\0",
    b"tiff:Orientation",
)  # where Pillow finds an orientation: in EXIF, else in XMP
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged bytes.
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


class Header(NamedTuple):
    """What an image declares: format name as Pillow's, width and height in stored (unrotated)
    pixels."""

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
    found = _jpeg_header(data) if data[:3] == b"\xff\xd8\xff" else None
    if found is None:
        with _pillow(data) as image:
            found = Header(image.format or "unknown", *image.size, fast=False)
    if found.width * found.height > max_pixels:
        raise ImageError(
            "too_large",
            f"declares {found.width} x {found.height} pixels, expected at most {max_pixels} in all",
        )
    return found


def decode(data: bytes, max_pixels: int = MAX_PIXELS, room: np.ndarray | None = None) -> np.ndarray:
    """Pixels of an image, uint8 [height, width, 3], RGB, contiguous; in `room` where that has this
    shape and it is an upright JPEG.

    Raises ImageError with reason `empty`, `not_an_image`, `too_large` or `undecodable`.
    """
    return pixels(data, header(data, max_pixels), room)


def pixels(data: bytes, found: Header, room: np.ndarray | None = None) -> np.ndarray:
    """Like `decode`, of an image whose header was read and accepted."""
    if found.fast:
        fits = room is not None and room.shape == (found.height, found.width, 3)
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=room if fits else None)
        except ValueError as error:
            raise ImageError("undecodable", f"JPEG decoder: {error}") from error
    with _pillow(data) as image:
        try:
            turn = _turn(image)
            return np.ascontiguousarray(_rgb(image if turn is None else image.transpose(turn)))
        except _DAMAGE as error:
            raise ImageError("undecodable", f"{image.format} decoder: {error}") from error


def _jpeg_header(data: bytes) -> Header | None:
    """Header of a JPEG that simplejpeg understands, else None."""
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    fast = colourspace in ("YCbCr", "Gray", "RGB")
    if fast and any(mark in data for mark in _ORIENTED):
        with _pillow(data) as image:
            fast = _turn(image) is None
    return Header("JPEG", width, height, fast)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image upright, None where it is; an orientation that can't be read is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
            return _TURNS.get(image.getexif().get(_ORIENTATION))
    except _DAMAGE:
        return None


def _pillow(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of large images; `header` holds our own limit
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except UnidentifiedImageError:
        raise ImageError("not_an_image", f"no image format starts with {data[:8]!r}") from None
    except _DAMAGE as error:
        raise ImageError("not_an_image", f"damaged header: {error}") from error


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion clips instead of scaling
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if "A" in image.mode or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))
