"""Words printed on drawn books and packets, whose siblings differ by nothing else.

A category has one subject, which each product names in one of six languages, in letters large or
small, beside a brand and a line that say nothing about it. The fonts are those that come with
matplotlib.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BOOK_SUBJECTS = (
    ("Garden", "Jardin", "Garten", "Ogród", "Bahçe", "Κήπος"),
    ("Cooking", "Cuisine", "Küche", "Gotowanie", "Mutfak", "Κουζίνα"),
    ("Travel", "Voyage", "Reise", "Podróż", "Seyahat", "Ταξίδι"),
    ("Music", "Musique", "Musik", "Muzyka", "Müzik", "Μουσική"),
    ("History", "Histoire", "Geschichte", "Dzieje", "Tarih", "Ιστορία"),
)
PACKET_SUBJECTS = (
    ("Coffee", "Café", "Kaffee", "Kawa", "Kahve", "Καφές"),
    ("Rice", "Riz", "Reis", "Ryż", "Pirinç", "Ρύζι"),
    ("Sugar", "Sucre", "Zucker", "Cukier", "Şeker", "Ζάχαρη"),
    ("Soap", "Savon", "Seife", "Mydło", "Sabun", "Σαπούνι"),
    ("Salt", "Sel fin", "Salz", "Sól", "Tuz", "Αλάτι"),
)
"""A category's word in English, French, German, Polish, Turkish and Greek."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold")
_HALF_WIDTH, _CENTRE = 0.45, 0.04
"""Of the area that is printed on, in the lengths of a silhouette."""


@dataclass(frozen=True)
class Line:
    """A printed line: its words, the font (one of FONTS), the height of its letters and where it
    begins, y downwards, in the lengths of a silhouette."""

    words: str
    font: str
    height: float
    top: float


def compose_lines(
    subject: Sequence[str], brands: Sequence[str], fillers: Sequence[str], rng: np.random.Generator
) -> tuple[Line, ...]:
    """What stands on one product: the subject in some language, a brand, a line of small print."""
    title, font = str(rng.choice(subject)), str(rng.choice(FONTS))
    if rng.random() < 0.3:
        title = title.upper()
    large, small = rng.uniform((0.16, 0.11), (0.34, 0.15)).tolist()
    top = float(rng.uniform(-0.45, 0.1))
    small_print = " ".join(rng.choice(fillers, 2, replace=False))
    return (
        Line(str(rng.choice(brands)), font, small, -0.75),
        Line(title, font, large, top),
        Line(small_print, FONTS[0], small, 0.55),
    )


def print_lines(
    canvas: Image.Image,
    lines: Sequence[Line],
    ink: tuple[int, int, int, int],
    linear: np.ndarray,
    centre: np.ndarray,
) -> None:
    """Prints on a square RGBA `canvas` as the product lies on it: pixel = linear @ point + centre,
    as fractions of the side."""
    size = canvas.width
    sheet = Image.new("L", (size, size))  # from -1 to 1 both ways
    draw, unit = ImageDraw.Draw(sheet), size / 2
    for line in lines:
        font = _fitting(line, unit)
        anchor = ((1 + _CENTRE) * unit, (1 + line.top) * unit)
        draw.text(anchor, line.words, fill=255, font=font, anchor="ma")
    back = np.linalg.inv(linear) * unit / size
    shift = unit - back @ centre * size
    matrix = (*back[0], shift[0], *back[1], shift[1])
    mask = sheet.transform(
        canvas.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    canvas.paste(ink, (0, 0), mask)


def _fitting(line: Line, unit: float) -> ImageFont.FreeTypeFont:
    """The line's font in its height, or in less if it would be wider than what is printed on."""
    size = max(4, round(line.height * unit))
    width = typeface(line.font, size).getlength(line.words)
    return typeface(line.font, max(4, int(size * min(1, 2 * _HALF_WIDTH * unit / width))))


@functools.lru_cache(maxsize=256)
def typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts, `size` pixels high."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)
