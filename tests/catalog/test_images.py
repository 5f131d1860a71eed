"""The decoder: every format and orientation as Pillow has it, every damaged image a named error,
bounded memory."""

import io
import random
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from catalog.config import MOST_PIXELS
from catalog.errors import ImageError
from catalog.images import FORMATS, decode, header, lacks_end
from tests.conftest import jpeg

ROOT = Path(__file__).parents[2]


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth picture without any symmetry."""
    y, x = np.mgrid[:height, :width]
    red, green, blue = 255 * x / width, 255 * y / height, 120 + 100 * np.sin(x / 5 + y / 9)
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """What Pillow makes of an opaque image."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert len(str(caught.value)) < 300
    return caught.value.reason


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"quality": 20},
        {"progressive": True},
        {"optimize": True},
        {"dpi": (1, 9)},
    ],
)
def test_jpegs_take_the_fast_path_and_equal_pillows(options: dict) -> None:
    data = encoded(picture(50, 41), "JPEG", **options)
    pixels = decode(data)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((41, 50, 3), np.uint8, True)
    assert header(data) == ("JPEG", 50, 41, True)
    assert (
        difference(pixels, pillow(data)) <= 3
    )  # the two bring different builds of the same library


def test_room_of_a_jpegs_shape_is_decoded_into_and_no_other() -> None:
    data, room = encoded(picture(50, 41), "JPEG"), np.zeros((3, 41, 50, 3), np.uint8)
    pixels = decode(data, out=room[1])
    assert np.shares_memory(pixels, room[1])
    np.testing.assert_array_equal(
        room, [np.zeros_like(pixels), decode(data), np.zeros_like(pixels)]
    )
    turned = encoded(
        picture(50, 41),
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0",
    )
    cmyk = encoded(picture(50, 41).convert("CMYK"), "JPEG")
    for other in (
        turned,
        cmyk,
        encoded(picture(50, 41), "PNG"),
        *(encoded(picture(*s), "JPEG") for s in ((41, 50), (49, 41))),
    ):
        room[:] = 7
        np.testing.assert_array_equal(decode(other, out=room[1]), decode(other))
        assert (room == 7).all()


@pytest.mark.parametrize("kind", [k for k in ("AVIF", "TIFF", "HEIF") if k in FORMATS])
def test_what_phones_and_cameras_make(kind: str) -> None:
    data = encoded(picture(50, 41), kind)
    assert header(data).format == kind and difference(decode(data), pillow(data)) == 0


def test_a_jpeg_without_its_end_marker_is_read_and_a_cut_one_is_not() -> None:
    for options in ({}, {"progressive": True}, {"exif": b"Exif\0\0" + b"\xff\xd9" * 9}):
        data = encoded(picture(50, 41), "JPEG", **options)
        assert not lacks_end(data) and not lacks_end(data + b"trailing bytes of a phone")
        assert lacks_end(data[:-2])
        np.testing.assert_array_equal(decode(data[:-2]), decode(data))
        assert reason(data[: len(data) - 200]) == "undecodable"


def test_a_png_with_long_texts_is_read() -> None:
    texts = PngInfo()
    texts.add_text("history", "a" * 3_000_000)
    texts.add_text("packed", "b" * 3_000_000, zip=True)
    texts.add_itxt("further", "c" * 3_000_000, zip=True)
    data = encoded(picture(50, 41), "PNG", pnginfo=texts)
    plain = encoded(picture(50, 41), "PNG")
    np.testing.assert_array_equal(decode(data), decode(plain))


def test_a_small_tiff_with_huge_tiles_is_refused() -> None:
    def gray(tile: int) -> bytes:
        pixels = zlib.compress(bytes(tile * tile) if tile < 100 else b"")
        tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile}
        tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(pixels)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels

    assert not decode(gray(16)).any()
    assert reason(gray(60_000)) == "too_large"


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        (b"<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(50), "a 7z archive"),
        (b"/9j/4AAQSkZJRgABAQ", "a JPEG in base64"),
    ],
)
def test_what_cannot_be_read_is_named_for_what_it_is(data: bytes, expected: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.reason == "not_an_image"
    assert expected in caught.value.detail or "HEIF" in FORMATS


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_in_the_jpeg_field(kind: str) -> None:
    data = encoded(picture(), kind)
    assert header(data) == (kind, 24, 16, False)
    np.testing.assert_array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_gray_and_palette_become_rgb(mode: str, kind: str) -> None:
    data = encoded(picture().convert(mode), kind)
    np.testing.assert_array_equal(decode(data), pillow(data))


def test_gray_jpegs_become_rgb() -> None:
    data = encoded(picture().convert("L"), "JPEG")
    pixels = decode(data)
    assert header(data).fast
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    assert difference(pixels, pillow(data)) <= 3


def test_cmyk_jpegs_become_rgb() -> None:
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert header(data) == ("JPEG", 24, 16, False)
    np.testing.assert_array_equal(decode(data), pillow(data))
    assert difference(decode(data), np.asarray(picture())) < 40


@pytest.mark.parametrize(
    "kind, mode", [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("GIF", "RGBA")]
)
def test_transparent_pixels_become_white(kind: str, mode: str) -> None:
    image = picture().convert("RGBA")
    image.putalpha(
        Image.fromarray(np.repeat(np.array([[0] * 12 + [255] * 12], np.uint8), 16, axis=0))
    )
    pixels = decode(
        encoded(image.convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    )
    assert (pixels[:, :12] == 255).all()
    if mode != "LA" and kind != "GIF":
        np.testing.assert_array_equal(pixels[:, 12:], np.asarray(picture())[:, 12:])
    assert (pixels[:, 12:] != 255).any()


def test_half_transparent_pixels_and_palettes_with_transparency() -> None:
    half = decode(encoded(Image.new("RGBA", (4, 4), (200, 0, 0, 128)), "PNG"))
    assert difference(half, np.full((4, 4, 3), (227, 127, 127))) <= 1
    palette = picture().convert("P")
    pixels = decode(encoded(palette, "PNG", transparency=palette.getpixel((3, 3))))
    assert (pixels[3, 3] == 255).all()


def test_16_bit_samples_are_scaled_to_8() -> None:
    samples = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode(encoded(Image.fromarray(samples), "PNG"))
    np.testing.assert_array_equal(
        pixels, np.repeat((samples >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    )
    dark = decode(encoded(Image.fromarray(np.full((4, 4), 200, np.uint16)), "PNG"))
    assert (dark == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "CMYK"])
def test_exif_orientation_equals_pillows(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture().convert("CMYK") if kind == "CMYK" else picture()
    data = encoded(image, "JPEG" if kind == "CMYK" else kind, exif=exif)
    pixels = decode(data)
    assert pixels.shape == ((24, 16, 3) if orientation > 4 else (16, 24, 3))
    assert difference(pixels, pillow(data)) <= (3 if kind == "JPEG" else 0)
    assert pixels.flags.c_contiguous
    assert header(data)[1:] == (24, 16, kind == "JPEG" and orientation == 1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_in_xmp_or_behind_a_long_segment_equals_pillows(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = encoded(picture(), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + b'<x:xmpmeta tiff:Orientation="%d"/>' % orientation
    segments = [
        b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp,
        (b"\xff\xe5" + struct.pack(">H", 60_002) + bytes(60_000)) * 2
        + b"\xff\xe1"
        + struct.pack(">H", len(exif.tobytes()) + 2)
        + exif.tobytes(),
    ]
    upright = decode(plain)
    for segment in segments:
        data = plain[:2] + segment + plain[2:]
        assert difference(decode(data), pillow(data)) <= 3
        assert (
            difference(decode(data), upright) > 50
            if orientation == 3
            else decode(data).shape == (24, 16, 3)
        )


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"XX*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x05\0\0\0\x63",
    ],
)
def test_damaged_exif_data_costs_nothing(tiff: bytes) -> None:
    plain = encoded(picture(), "JPEG")
    exif = b"Exif\0\0" + tiff
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode(data), decode(plain))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (3, 2)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_odd_sizes(size: tuple[int, int], kind: str) -> None:
    assert decode(encoded(Image.new("RGB", size, (9, 200, 40)), kind)).shape == (
        size[1],
        size[0],
        3,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"a text, not an image",
        bytes(1000),
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
    ],
)
def test_what_is_no_image_says_so(data: bytes) -> None:
    assert reason(data) == ("not_an_image" if data else "empty")


@pytest.mark.parametrize("kind", ["PPM", "ICO", "EPS", "PDF"])
def test_formats_that_no_shop_uses_are_not_opened(kind: str) -> None:
    """Pillow would run Ghostscript on an EPS."""
    assert reason(encoded(picture(), kind)) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_anywhere_is_an_error(kind: str) -> None:
    data = encoded(picture(), kind)
    for cut in range(1, len(data) - 40, 17):  # the last bytes hold checksums and marks of the end
        assert reason(data[:cut]) in ("not_an_image", "undecodable"), cut


def test_a_broken_huffman_table_is_an_error() -> None:
    data = encoded(picture(), "JPEG")
    table = data.index(b"\xff\xc4") + 5
    broken = data[:table] + b"\xff" * 16 + data[table + 16 :]
    assert reason(broken) in ("undecodable", "not_an_image")
    without = data.replace(
        b"\xff\xc4", b"\xff\xe9"
    )  # the tables hidden in segments that nobody reads
    assert decode(without).shape == (16, 24, 3) or reason(
        without
    )  # some decoders bring the standard tables


def png_of(width: int, height: int) -> bytes:
    """A PNG of about 9 kB that declares what it doesn't hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    body = zlib.compress(random.Random(1).randbytes(9000))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose frame header declares another size."""
    data = encoded(picture(64, 64), "JPEG", quality=95)
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def gif_of(width: int, height: int) -> bytes:
    data = encoded(picture(), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bmp_of(width: int, height: int) -> bytes:
    data = encoded(picture(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


@pytest.mark.parametrize("make", [jpeg_of, png_of, gif_of, bmp_of])
def test_too_many_declared_pixels_are_refused(make: Callable[[int, int], bytes]) -> None:
    data = make(65_000, 65_000)
    with pytest.raises(ImageError, match="too_large"):
        header(data)
    assert reason(data) == "too_large"
    assert reason(make(5_000, 5_000), max_pixels=24_999_999) == "too_large"
    assert header(make(5_000, 5_000), max_pixels=25_000_000)[1:3] == (5_000, 5_000)


# The peak of this program alone; ru_maxrss would begin with that of the process that started it.
PEAK = """
from pathlib import Path
def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def script(text: str) -> str:
    """What a Python program prints."""
    command = [sys.executable, "-c", PEAK + textwrap.dedent(text)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_huge_declaration_costs_no_memory() -> None:
    grown = script("""
        from catalog.errors import ImageError
        from catalog.images import decode
        from tests.catalog.test_images import bmp_of, gif_of, jpeg_of, png_of
        decode(jpeg_of(64, 64))
        images = [make(65_000, 65_000) for make in (jpeg_of, png_of, gif_of, bmp_of)]
        assert all(len(data) < 20_000 for data in images)
        before = peak_kb()
        for data in images:
            try:
                decode(data)
                raise SystemExit("decoded")
            except ImageError as error:
                assert error.reason == "too_large"
        print(peak_kb() - before)
    """)
    assert int(grown) < 10_000  # the pixels would take 12 GB


def test_the_limit_holds_what_decoding_takes() -> None:
    """A 16-bit picture of the largest size that is allowed: 50 million pixels in a file of some
    kB."""
    size, peak = script("""
        import io
        from PIL import Image
        from catalog.images import decode
        out = io.BytesIO()
        Image.new("I;16", (10_000, 5_000)).save(out, "PNG", compress_level=1)
        print(decode(out.getvalue()).nbytes, peak_kb())
    """).split()
    assert int(size) == 150_000_000
    assert int(peak) < 600_000


def mutants(count: int, seed: int) -> dict[str, int]:
    """Decodes damaged JPEGs: the outcomes and how often each came."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    whole = [
        jpeg(1, 40),
        jpeg(2, 40, progressive=True),
        jpeg(3, 40, exif=exif),
        encoded(picture().convert("CMYK"), "JPEG"),
    ]
    rng, outcomes = random.Random(seed), {}
    for _ in range(count):
        data = bytearray(rng.choice(whole))
        reach = len(data) if rng.random() < 0.5 else 300  # as often as not in the headers
        for _ in range(rng.choice((1, 2, 4, 10))):
            data[rng.randrange(reach)] = rng.choice((0, 255, rng.randrange(256)))
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        try:
            pixels = decode(bytes(data), max_pixels=1_000_000)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcome = "image"
        except ImageError as error:
            outcome = error.reason
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_10000_mutated_jpegs_are_images_or_named_errors_and_leak_nothing() -> None:
    grown, *outcomes = script("""
        import os
        from tests.catalog.test_images import mutants
        def resident_kb():
            pages = int(open("/proc/self/statm").read().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") // 1024
        mutants(400, 0)
        before = resident_kb()
        outcomes = mutants(10_000, 1)
        assert sum(outcomes.values()) == 10_000
        print(resident_kb() - before, *outcomes)
    """).split()
    assert set(outcomes) == {"image", "not_an_image", "undecodable", "too_large"}
    assert int(grown) < 10_000


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_mutated_images_are_images_or_named_errors(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    whole, rng = (
        encoded(picture(), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif})),
        random.Random(2),
    )
    outcomes = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        try:
            outcomes.add(decode(bytes(data), max_pixels=1_000_000).ndim)
        except ImageError as error:
            outcomes.add(error.reason)
    assert outcomes <= {3, "not_an_image", "undecodable", "too_large"}
    assert len(outcomes) >= 2


def test_above_50_megapixels_by_a_key() -> None:
    out = io.BytesIO()
    Image.new("L", (8000, 6300), 90).save(out, "JPEG", quality=10)
    with pytest.raises(ImageError, match=r"8000 x 6300 pixels, .* 50000000 \(catalog.max_pixels\)"):
        decode(out.getvalue())
    assert decode(out.getvalue(), 51_000_000).shape == (6300, 8000, 3)
    out = io.BytesIO()
    Image.new("1", (14_000, 13_000)).save(out, "PNG")  # Pillow itself refuses as many
    assert header(out.getvalue(), MOST_PIXELS)[1:3] == (14_000, 13_000)
    with pytest.raises(ImageError, match="too_large"):
        header(out.getvalue())
