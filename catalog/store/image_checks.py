"""The cleaning rules: what a picture must be to be worth learning from."""

from typing import NamedTuple

import xxhash

from catalog.blank import is_blank
from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.images import header, pixels

UNDECODABLE = ("not_an_image", "undecodable")
"""Reasons that `drop_undecodable` is about."""


class CheckedImage(NamedTuple):
    """An image that is to be stored: `status` is `ok`, `blank` or `undecodable` (width and height
    0); `digest` is xxh3_128 of its bytes."""

    status: str
    digest: bytes
    width: int
    height: int
    format: str


def check(data: bytes | None, config: CatalogConfig) -> CheckedImage:
    """Decodes one image and applies the rules. Raises ImageError, as `decode` does, or
    `no_picture`, `too_long`."""
    if data is None:
        raise ImageError("no_picture", "the element of imgs has no binary field `picture`")
    try:
        return _checked(data, config)
    except ImageError as error:
        if config.drop_undecodable or error.reason not in UNDECODABLE:
            raise
        return CheckedImage("undecodable", xxhash.xxh3_128_digest(data), 0, 0, "unknown")


def _checked(data: bytes, config: CatalogConfig) -> CheckedImage:
    kind = header(data, config.max_pixels)
    if config.max_side and max(kind.width, kind.height) > config.max_side:
        raise ImageError(
            "too_long",
            f"{kind.width} x {kind.height} pixels, expected at most {config.max_side} a side",
        )
    picture = pixels(data, kind)
    status = "blank" if config.drop_blank and is_blank(picture) else "ok"
    height, width = picture.shape[:2]
    return CheckedImage(status, xxhash.xxh3_128_digest(data), width, height, kind.format)
