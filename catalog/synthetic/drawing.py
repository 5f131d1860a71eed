"""Draws product photos: a silhouette is painted at twice the size, patterned, reduced, lit and
placed on a background.

All pictures are uint8 arrays [side, side, 3], RGB. Lengths in a silhouette run from -1 to 1, y
downwards.
"""

import colorsys
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from catalog.synthetic.printing import Line, print_lines
from catalog.synthetic.silhouettes import ACCENT, BODY, CLEAR, DARK, LIGHT, SECOND, Part

PATTERNS = ("plain", "stripes", "diagonals", "chevrons", "checks", "diamonds", "dots", "halves")
GREYS = (
    (255, 255, 255),
    (170, 170, 170),
    (170, 170, 170),
    (120, 120, 120),
    (85, 85, 85),
    (220, 220, 220),
)
"""The paints of a figure on a carton or a chart, by number."""


@dataclass(frozen=True)
class Look:
    """What a category looks like, or one product of it."""

    silhouette: Callable[[float, float], list[Part]]
    pattern: str
    """One of PATTERNS."""
    pitch: float
    """Repetitions of the pattern per unit of length."""
    slim: float
    """-1 wide to 1 narrow."""
    detail: float
    """Size of the silhouette's characteristic detail, -1 to 1."""
    hue: float
    """0 to 1, around the colour circle."""
    height: float = 1.0
    """Stretches the silhouette downwards."""
    colours: tuple[tuple[int, int, int, int], ...] = ()
    """RGBA of each paint, by its number. Empty for a category; each product has its own."""
    lines: tuple[Line, ...] = ()
    """What is printed on it."""


@dataclass(frozen=True)
class Pose:
    """How a view maps a silhouette to the picture: pixel = linear @ point + centre, as fractions of
    the side."""

    linear: np.ndarray
    centre: np.ndarray


def vary(look: Look, rng: np.random.Generator) -> Look:
    """One product of a category: its own proportions, pitch and colours."""
    slim, detail, pitch, hue = rng.normal(0, (0.24, 0.24, 0.1, 0.25)).tolist()
    hue = (look.hue + hue) % 1
    saturation, value, contrast, turn = rng.random(4).tolist()
    saturation, value = 0.35 + 0.55 * saturation, 0.5 + 0.4 * value
    if rng.random() < 0.2:  # black, grey and cream products
        saturation *= 0.15
    step = 0.2 + 0.2 * contrast
    other = value - step if value > 0.62 else min(1.0, value + step)
    colours = [(0, 0, 0, 0)] * 6
    colours[BODY] = _rgba(hue, saturation, value)
    colours[SECOND] = _rgba(hue + 0.06 * turn, saturation * (0.35 + 0.45 * turn), other)
    colours[ACCENT] = _rgba(hue + 0.4 * turn, saturation * 0.8, value * 0.75)
    colours[DARK] = _rgba(hue, saturation * 0.4, 0.2 + 0.1 * turn)
    colours[LIGHT] = _rgba(hue, 0.08, 0.92)
    slim, detail, pitch = look.slim + slim, look.detail + detail, look.pitch * (1 + pitch)
    return replace(look, slim=slim, detail=detail, pitch=pitch, hue=hue, colours=tuple(colours))


def _rgba(hue: float, saturation: float, value: float) -> tuple[int, int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue), 255


def photograph(look: Look, rng: np.random.Generator, side: int) -> np.ndarray:
    """A view of the product: with its own rotation, size, position, light and background."""
    pose, size = _pose_of(look, rng)
    return _compose(look, pose, _shade(_background(rng, side), pose, size, look.height), rng)


def extremes(look: Look, rng: np.random.Generator) -> np.ndarray:
    """Landmarks of the view that `photograph` makes from this generator, float32 [8, 3]: x and y of
    the product's outermost points to the right, lower right, bottom and so on round, as fractions
    of the side, and 1 if the point is within the picture, else 0."""
    pose, _ = _pose_of(look, rng)
    points = np.concatenate(
        [points for paint, points in look.silhouette(look.slim, look.detail) if paint != CLEAR]
    )
    points = points @ pose.linear.T + pose.centre
    angles = np.arange(8) * np.pi / 4
    outermost = points[(points @ np.stack([np.cos(angles), np.sin(angles)])).argmax(axis=0)]
    inside = ((outermost >= 0) & (outermost < 1)).all(axis=1)
    return np.column_stack([outermost, inside]).astype(np.float32)


def _pose_of(look: Look, rng: np.random.Generator) -> tuple[Pose, float]:
    turn, right, lower = rng.normal(0, (0.25, 0.03, 0.03)).tolist()
    size, squash, flip = rng.uniform((0.28, 0.75, 0), (0.46, 1.0, 1)).tolist()
    return _pose(
        turn,
        size,
        squash if flip < 0.7 or look.lines else -squash,  # words are not mirrored
        np.array([0.5 + right, 0.5 + lower]),
        look.height,
    ), size


def mislead(look: Look, rng: np.random.Generator, side: int) -> np.ndarray:
    """A view that tells little about the category: a close-up, a carton or a size chart, about
    equally often."""
    choice = int(rng.integers(3))
    if choice == 0:
        pose = _pose(
            rng.uniform(-0.5, 0.5), rng.uniform(1.6, 2.4), 1.0, 0.5 + rng.uniform(-0.9, 0.9, 2)
        )
        return _compose(look, pose, _background(rng, side), rng)
    canvas = Image.new("RGB", (2 * side, 2 * side), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    if choice == 1:
        _draw_carton(draw, look, rng, 2 * side)
    else:
        _draw_chart(draw, look, rng, 2 * side)
    return np.asarray(canvas.reduce(2))


def blank(rng: np.random.Generator, side: int) -> np.ndarray:
    """A picture of one colour: white or grey."""
    return np.full((side, side, 3), 255 if rng.random() < 0.6 else rng.integers(0, 255), np.uint8)


def encode(picture: np.ndarray, quality: int) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _pose(turn: float, size: float, squash: float, centre: np.ndarray, height: float = 1.0) -> Pose:
    cos, sin = np.cos(turn), np.sin(turn)
    return Pose(
        np.array([[cos * squash, -sin * height], [sin * squash, cos * height]]) * size, centre
    )


def _compose(
    look: Look, pose: Pose, background: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Paints, patterns and lights the product, and places it on `background` (float32 [3, side,
    side])."""
    side = background.shape[-1]
    canvas = Image.new("RGBA", (2 * side, 2 * side))
    _draw_parts(ImageDraw.Draw(canvas), look, pose, 2 * side, look.colours)
    if look.lines:
        print_lines(canvas, look.lines, _ink(look), pose.linear, pose.centre)
    pixels = np.array(canvas).view(np.uint32)[..., 0]
    if look.pattern != "plain":
        body, second = np.array([look.colours[BODY], look.colours[SECOND]], np.uint8).view(
            np.uint32
        )[:, 0]
        np.copyto(
            pixels, second, where=(pixels == body) & _pattern(look, *_coordinates(pose, 2 * side))
        )
    # RGBX: of RGBA, Pillow would divide the reduced colours by alpha; they stay multiplied by it.
    layer = _planes(Image.frombuffer("RGBX", pixels.shape, pixels).reduce(2))
    across, down = _coordinates(pose, side)
    lamp, ambient, grain = rng.uniform((-0.5, 0.92, 0), (0.5, 1.1, 0.04)).tolist()
    light = (ambient - 0.3 * np.square(across - lamp) - 0.08 * down).clip(0.45, 1.15)
    light += grain * (rng.random((side, side), np.float32) - 0.5)
    shown = layer[:3] * light + background * (1 - layer[3] / 255)
    return np.ascontiguousarray(shown.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _ink(look: Look) -> tuple[int, int, int, int]:
    """The dark or the light paint, whichever stands out from the body."""
    body, dark, light = (sum(look.colours[paint][:3]) for paint in (BODY, DARK, LIGHT))
    return look.colours[DARK if body - dark > light - body else LIGHT]


def _planes(picture: Image.Image) -> np.ndarray:
    """float32 [bands, height, width], contiguous, as operations on whole planes are several times
    faster."""
    return np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")


def _draw_parts(
    draw: ImageDraw.ImageDraw, look: Look, pose: Pose, size: int, fills: Sequence
) -> None:
    linear, centre = pose.linear.T * size, pose.centre * size
    for paint, points in look.silhouette(look.slim, look.detail):
        draw.polygon((points @ linear + centre).ravel().tolist(), fill=fills[paint])


def _coordinates(pose: Pose, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of each pixel in the silhouette: x and y, float32 [size, size]."""
    (a, b), (c, d) = pose.linear.tolist()
    area = a * d - b * c
    x, y = ((np.arange(size) + 0.5) / size - pose.centre[:, None]).astype(np.float32)
    return (d / area * x) - (b / area * y)[:, None], (a / area * y)[:, None] - (c / area * x)


def _pattern(look: Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which pixels have the second colour, bool like `x`."""
    name, x, y = look.pattern, x * look.pitch, y * look.pitch
    if name == "halves":
        return y > 0.15
    if name == "stripes":
        return _phase(y) < 0.5
    if name == "diagonals":
        return _phase(x + y) < 0.5
    if name == "chevrons":
        return _phase(y + np.abs(_phase(x) - 0.5)) < 0.5
    if name == "checks":
        return (_phase(x) < 0.5) ^ (_phase(y) < 0.5)
    if name == "diamonds":
        return np.abs(_phase(x) - 0.5) + np.abs(_phase(y) - 0.5) < 0.4
    return np.square(_phase(x) - 0.5) + np.square(_phase(y) - 0.5) < 0.1


def _phase(value: np.ndarray) -> np.ndarray:
    return value - np.floor(value)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """float32 [3, side, side]: mostly white, sometimes coloured, sometimes a cluttered room."""
    choice = rng.random()
    if choice < 0.72:
        return np.full((3, side, side), rng.uniform(244, 255), np.float32)
    grey, tint = rng.uniform(135, 235, (2, 1, 1, 1)), rng.uniform(-22, 22, (2, 3, 1, 1))
    top, bottom = (grey + tint).astype(np.float32)
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    plane = np.repeat(top * (1 - ramp) + bottom * ramp, side, axis=2)
    if choice < 0.87:
        return plane
    canvas = Image.fromarray(np.ascontiguousarray(plane.transpose(1, 2, 0), np.uint8))
    draw = ImageDraw.Draw(canvas)
    for x, y, width, height in (
        rng.uniform((0, 0, 0.1, 0.1), (1, 1, 0.5, 0.5), (5, 4)) * side
    ).tolist():
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        fill = tuple(rng.integers(100, 226) + rng.integers(-30, 30, 3))
        shape((x - width / 2, y - height / 2, x + width / 2, y + height / 2), fill=fill)
    return _planes(canvas)


def _shade(background: np.ndarray, pose: Pose, size: float, height: float) -> np.ndarray:
    """The background with a soft shadow under the product."""
    grid = np.linspace(0, 1, background.shape[-1], dtype=np.float32)
    x, y = pose.centre.tolist()
    across = np.exp(-np.square((grid - x) / (0.7 * size)))
    down = np.exp(-np.square((grid - y - 0.95 * size * height) / 0.06))
    return background * (1 - 0.22 * down[:, None] * across)


def _draw_figure(
    draw: ImageDraw.ImageDraw, look: Look, scale: float, centre: np.ndarray, size: int
) -> None:
    """The family's shape in greys, on white."""
    plain = replace(look, slim=0.0, detail=0.0)
    _draw_parts(draw, plain, _pose(0.0, scale, 1.0, centre), size, GREYS)


def _draw_carton(
    draw: ImageDraw.ImageDraw, look: Look, rng: np.random.Generator, size: int
) -> None:
    """A closed box seen from a corner, with a grey figure of the product on its label."""
    left, right, top, mid, bottom = (
        np.array([0.15, 0.85, 0.22, 0.4, 0.85]) * size + rng.uniform(-0.06, 0.06, 5) * size
    )
    edge = (left + right) / 2 + rng.uniform(-0.08, 0.12) * size
    tint = np.array([200, 160, 110]) + rng.integers(-40, 40, 3)
    drop = 0.08 * size
    draw.polygon([left, mid, edge, mid + drop, edge, bottom, left, bottom - drop], fill=tuple(tint))
    draw.polygon(
        [edge, mid + drop, right, mid, right, bottom - drop, edge, bottom], fill=tuple(tint - 35)
    )
    draw.polygon(
        [left, mid, (left + right) / 2, top, right, mid, edge, mid + drop], fill=tuple(tint + 15)
    )
    label, half = np.array([(left + edge) / 2, (mid + bottom) / 2]), 0.33 * (edge - left)
    draw.rectangle([*(label - half), *(label + half)], fill=GREYS[0])
    _draw_figure(draw, look, 0.8 * half / size, label / size, size)


def _draw_chart(draw: ImageDraw.ImageDraw, look: Look, rng: np.random.Generator, size: int) -> None:
    """A grey figure of the product, lines that look like text, and a table. Shows the family, not
    the category."""
    ink = tuple(rng.integers(20, 110, 3))
    _draw_figure(draw, look, 0.2, np.array([0.28, 0.3]), size)
    for row in np.arange(0.12, 0.5, 0.08) * size:
        x = 0.55 * size
        while (word := rng.uniform(0.04, 0.16) * size) + x < 0.95 * size:
            draw.rectangle((x, row, x + word, row + 0.03 * size), fill=ink)
            x += word + 0.03 * size
    for line in np.linspace(0.58, 0.92, 5) * size:
        draw.line((0.08 * size, line, 0.92 * size, line), fill=ink, width=2)
    for line in np.linspace(0.08, 0.92, 5) * size:
        draw.line((line, 0.58 * size, line, 0.92 * size), fill=ink, width=2)
