"""The cleaning rules: each decides as it says, and each can be switched off."""

import io

import numpy as np
import pytest
import xxhash
from PIL import Image

from catalog.blank import BLANK_RANGE, is_blank
from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.store.image_checks import check
from tests.conftest import jpeg


def flat(colour: tuple[int, int, int], kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, kind, **options)
    return out.getvalue()


def test_a_good_image_is_ok_with_its_size_format_and_digest() -> None:
    data = jpeg(1, 24)
    assert check(data, CatalogConfig()) == ("ok", xxhash.xxh3_128_digest(data), 24, 24, "JPEG")


def test_size_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 30, 3), np.uint8)).save(
        out, "JPEG", exif=exif
    )
    assert check(out.getvalue(), CatalogConfig())[2:4] == (10, 30)


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 30, 90), (254, 0, 255)]
)
@pytest.mark.parametrize("options", [{}, {"quality": 10}, {"kind": "PNG"}, {"kind": "WEBP"}])
def test_constant_pictures_are_blank_unless_the_rule_is_off(colour: tuple, options: dict) -> None:
    data = flat(colour, **options)
    assert check(data, CatalogConfig()).status == "blank"
    assert check(data, CatalogConfig(drop_blank=False)).status == "ok"


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (3, 5, 3), (64, 64, 3), (1, 20_000, 3), (257, 100, 3)]
)
def test_blank_is_a_small_range_in_every_channel(shape: tuple[int, int, int]) -> None:
    pixels = np.full(
        shape, (250, 100, 3), dtype=np.uint8
    )  # different channels don't make a picture
    assert is_blank(pixels)
    pixels[-1, -1, 1] += BLANK_RANGE
    assert is_blank(pixels)
    if shape != (1, 1, 3):
        pixels[-1, -1, 1] += 1  # a single pixel, which the sample may miss
        assert not is_blank(pixels)


def test_one_thin_line_is_not_blank() -> None:
    pixels = np.full((180, 180, 3), 255, dtype=np.uint8)
    pixels[91] = 0
    assert not is_blank(pixels)


def test_max_side_only_when_asked() -> None:
    data = jpeg(1, 24)
    assert check(data, CatalogConfig(max_side=24)).status == "ok"
    with pytest.raises(ImageError, match=r"too_long: 24 x 24 pixels, expected at most 23 per side"):
        check(data, CatalogConfig(max_side=23))


def test_max_pixels() -> None:
    with pytest.raises(ImageError, match="too_large"):
        check(jpeg(1, 24), CatalogConfig(max_pixels=24 * 24 - 1))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (b"text", "not_an_image"),
        (jpeg(1)[:-40], "undecodable"),
    ],
)
def test_what_cannot_be_decoded_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        check(data, CatalogConfig())
    assert caught.value.reason == reason
