"""The cleaning rules: what an image must be to be worth learning from."""

from typing import NamedTuple

import xxhash

from catalog.blank import is_blank
from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.images import header, pixels

UNDECODABLE = ("not_an_image", "undecodable")
"""Reasons to which `drop_undecodable` applies."""


class CheckedImage(NamedTuple):
    """An image to be stored. `status` is `ok`, `blank` or `undecodable` (then width and height are
    0); `digest` is the xxh3_128 of its bytes."""

    status: str
    digest: bytes
    width: int
    height: int
    format: str


def check(data: bytes, config: CatalogConfig) -> CheckedImage:
    """Decodes one image and applies the rules. Raises ImageError as `decode` does, or with reason
    `too_long`."""
    try:
        return _checked(data, config)
    except ImageError as error:
        if config.drop_undecodable or error.reason not in UNDECODABLE:
            raise
        return CheckedImage("undecodable", xxhash.xxh3_128_digest(data), 0, 0, "unknown")


def _checked(data: bytes, config: CatalogConfig) -> CheckedImage:
    declared = header(data, config.max_pixels)
    if config.max_side and max(declared.width, declared.height) > config.max_side:
        size = f"{declared.width} x {declared.height}"
        detail = f"{size} pixels, expected at most {config.max_side} per side"
        raise ImageError("too_long", detail)
    image = pixels(data, declared)
    status = "blank" if config.drop_blank and is_blank(image) else "ok"
    height, width = image.shape[:2]
    return CheckedImage(status, xxhash.xxh3_128_digest(data), width, height, declared.format)
