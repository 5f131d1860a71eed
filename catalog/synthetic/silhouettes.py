"""The shapes of the drawn products, one function per family: `(slim, detail) -> parts`, painted one
over the other.

A part is a paint's number and its outline, float64 [points, 2], from -1 to 1, y downwards. A
pattern covers BODY; CLEAR cuts a hole. `slim` runs from -1 (wide) to 1 (narrow), `detail` from -1
(small) to 1 (large): the handle, the brim, the legs. Both may go a little beyond.
"""

from collections.abc import Callable

import numpy as np

CLEAR, BODY, SECOND, ACCENT, DARK, LIGHT = range(6)
Part = tuple[int, np.ndarray]
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """An ellipse around (x, y), of half-axes `width` and `height`."""
    return _CIRCLE * (width, height) + (x, y)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def mirrored(*points: tuple[float, float]) -> np.ndarray:
    """A symmetric outline from its right half, given from top to bottom."""
    right = np.array(points)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def twins(paint: int, points: np.ndarray) -> list[Part]:
    """A part and its mirror image."""
    return [(paint, points), (paint, points * (-1, 1))]


def cup(slim: float, detail: float) -> list[Part]:
    """A cup with a handle."""
    width, handle = 0.55 - 0.12 * slim, 0.3 + 0.08 * detail
    return [
        (ACCENT, oval(width, 0, handle, 0.4)),
        (CLEAR, oval(width, 0, handle * 0.6, 0.26)),
        (BODY, mirrored((width, -0.65), (width * 0.8, 0.65))),
        (BODY, oval(0, 0.65, width * 0.8, 0.13)),
        (LIGHT, oval(0, -0.65, width, 0.15)),
        (DARK, oval(0, -0.64, width * 0.9, 0.11)),
    ]


def pan(slim: float, detail: float) -> list[Part]:
    """A frying pan, from above."""
    radius, handle = 0.6, 0.72 + 0.16 * detail
    height = radius - 0.09 * slim
    return [
        (DARK, box(0.2, -0.08, 0.2 + handle, 0.08)),
        (LIGHT, oval(0.12 + handle, 0, 0.04, 0.04)),
        (ACCENT, oval(-0.3, 0, radius, height)),
        (BODY, oval(-0.3, 0, radius * 0.85, height * 0.85)),
    ]


def bottle(slim: float, detail: float) -> list[Part]:
    """A bottle with a stopper."""
    width, neck = 0.4 - 0.09 * slim, 0.3 + 0.12 * detail
    return [
        (
            BODY,
            mirrored(
                (0.13, -0.8),
                (0.13, -0.8 + neck),
                (width, -0.55 + neck),
                (width, 0.85),
                (width * 0.85, 0.95),
            ),
        ),
        (ACCENT, box(-0.16, -0.98, 0.16, -0.78)),
    ]


def shirt(slim: float, detail: float) -> list[Part]:
    """A T-shirt."""
    width, sleeve = 0.5 - 0.11 * slim, 0.12 + 0.16 * detail
    x, y = 0.78 + 0.1 * detail, 0.02 + sleeve
    return [
        (
            BODY,
            mirrored(
                (0.2, -0.75),
                (width, -0.68),
                (x, y),
                (x - 0.24, y + 0.12),
                (width, -0.15),
                (width, 0.8),
            ),
        ),
        (ACCENT, oval(0, -0.74, 0.24, 0.16)),
        (CLEAR, oval(0, -0.79, 0.19, 0.13)),
    ]


def trousers(slim: float, detail: float) -> list[Part]:
    """Trousers with a belt."""
    width, leg = 0.46 - 0.08 * slim, 0.72 + 0.16 * detail
    return [
        (
            BODY,
            mirrored(
                (width * 0.85, -0.85),
                (width, -0.2),
                (width + 0.08, leg),
                (width * 0.3, leg),
                (0.05, -0.2),
            ),
        ),
        (ACCENT, box(-width * 0.86, -0.93, width * 0.86, -0.78)),
        (LIGHT, box(-0.05, -0.91, 0.05, -0.8)),
    ]


def cap(slim: float, detail: float) -> list[Part]:
    """A cap with a brim."""
    height, brim = 0.72 + 0.14 * slim, 0.62 + 0.18 * detail
    dome = oval(-0.15, 0.2, 0.65, height)
    return [
        (BODY, dome[dome[:, 1] <= 0.25]),
        (ACCENT, oval(0.3, 0.24, brim, 0.13)),
        (DARK, oval(-0.15, 0.2 - height, 0.09, 0.06)),
    ]


def chair(slim: float, detail: float) -> list[Part]:
    """A chair, from the front."""
    width, seat = 0.46 - 0.09 * slim, 0.4 - 0.12 * detail
    return [
        *twins(
            DARK,
            np.array(
                [(width - 0.1, seat), (width, seat), (width + 0.06, 0.95), (width - 0.02, 0.95)]
            ),
        ),
        (BODY, mirrored((width * 0.9, -0.95), (width, seat - 0.12))),
        (ACCENT, mirrored((width, seat - 0.16), (width + 0.12, seat), (width + 0.12, seat + 0.08))),
    ]


def lamp(slim: float, detail: float) -> list[Part]:
    """A table lamp."""
    width, shade = 0.6 - 0.13 * slim, 0.1 + 0.15 * detail
    return [
        (DARK, box(-0.06, shade, 0.06, 0.85)),
        (ACCENT, oval(0, 0.85, 0.36, 0.1)),
        (BODY, mirrored((width * 0.55, -0.9), (width, shade))),
        (LIGHT, oval(0, shade, width, 0.06)),
    ]


def sofa(slim: float, detail: float) -> list[Part]:
    """A sofa."""
    width, back = 0.92 - 0.13 * slim, 0.48 + 0.13 * detail
    return [
        *twins(DARK, box(width - 0.2, 0.5, width - 0.1, 0.68)),
        (BODY, mirrored((width - 0.12, 0.1 - back), (width - 0.05, 0.5))),
        (ACCENT, box(-width, 0.14, width, 0.34)),
        *twins(BODY, oval(width - 0.08, 0.18, 0.16, 0.34)),
    ]


def handbag(slim: float, detail: float) -> list[Part]:
    """A handbag with a strap."""
    width, strap = 0.68 - 0.12 * slim, 0.48 + 0.16 * detail
    return [
        (ACCENT, oval(0, -0.12, 0.4, strap)),
        (CLEAR, oval(0, -0.12, 0.3, strap - 0.1)),
        (BODY, mirrored((width * 0.75, -0.2), (width, 0.75), (width * 0.9, 0.85))),
        (DARK, box(-0.1, -0.22, 0.1, -0.06)),
    ]


def suitcase(slim: float, detail: float) -> list[Part]:
    """A suitcase on wheels."""
    width, pull = 0.5 - 0.1 * slim, 0.3 + 0.15 * detail
    return [
        (DARK, box(-0.22, -0.6 - pull, 0.22, -0.5)),
        (CLEAR, box(-0.15, -0.53 - pull, 0.15, -0.5)),
        *twins(DARK, oval(width - 0.12, 0.86, 0.1, 0.1)),
        (BODY, mirrored((width - 0.06, -0.58), (width, -0.5), (width, 0.76), (width - 0.06, 0.84))),
        (ACCENT, box(-width, 0.08, width, 0.16)),
    ]


def backpack(slim: float, detail: float) -> list[Part]:
    """A backpack."""
    width, pocket = 0.54 - 0.1 * slim, 0.3 + 0.13 * detail
    return [
        (DARK, oval(0, -0.74, 0.16, 0.2)),
        (CLEAR, oval(0, -0.74, 0.09, 0.13)),
        *twins(DARK, oval(width, 0.2, 0.13, 0.45)),
        (
            BODY,
            mirrored(
                (width * 0.6, -0.78), (width * 0.95, -0.5), (width, 0.75), (width * 0.9, 0.86)
            ),
        ),
        (ACCENT, mirrored((width * 0.7, 0.7 - pocket), (width * 0.7, 0.7))),
        (LIGHT, box(-0.2, 0.74 - pocket, 0.2, 0.78 - pocket)),
    ]


def watering_can(slim: float, detail: float) -> list[Part]:
    """A watering can."""
    width, spout = 0.46 - 0.1 * slim, 0.86 + 0.12 * detail
    return [
        (ACCENT, oval(-width, 0, 0.32, 0.4)),
        (CLEAR, oval(-width, 0, 0.23, 0.3)),
        (
            ACCENT,
            np.array([(width * 0.8, 0.2), (spout - 0.1, -0.55), (spout, -0.5), (width * 0.8, 0.5)]),
        ),
        (
            DARK,
            np.array(
                [(spout - 0.2, -0.62), (spout - 0.08, -0.74), (spout + 0.12, -0.44), (spout, -0.4)]
            ),
        ),
        (BODY, mirrored((width * 0.9, -0.45), (width, 0.75))),
        (DARK, oval(0, -0.45, width * 0.9, 0.09)),
    ]


def flower_pot(slim: float, detail: float) -> list[Part]:
    """A plant in a pot."""
    width, leaf = 0.56 - 0.12 * slim, 0.4 + 0.14 * detail
    return [
        *twins(
            ACCENT, np.array([(0, -0.1), (0.12, -0.15 - leaf), (0.42, -0.2 - leaf), (0.3, -0.3)])
        ),
        (ACCENT, oval(0, -0.25 - leaf * 0.6, 0.13, leaf * 0.75)),
        (BODY, mirrored((width * 0.9, 0.05), (width * 0.65, 0.9))),
        (DARK, mirrored((width, -0.12), (width, 0.1))),
    ]


def parasol(slim: float, detail: float) -> list[Part]:
    """A parasol on its stand."""
    height, drop = 0.62 + 0.14 * slim, 0.09 + 0.05 * detail
    dome = oval(0, -0.2, 0.92, height)
    return [
        (DARK, box(-0.035, -0.3, 0.035, 0.88)),
        (DARK, oval(0, 0.88, 0.26, 0.07)),
        (BODY, dome[dome[:, 1] <= -0.15]),
        *twins(ACCENT, oval(0.23, -0.2, 0.23, drop)),
        *twins(ACCENT, oval(0.69, -0.2, 0.23, drop)),
    ]


def car(slim: float, detail: float) -> list[Part]:
    """A car, from the side."""
    roof, wheel = 0.5 - 0.14 * slim, 0.19 + 0.04 * detail
    return [
        (BODY, np.array([(-0.6, -0.05), (-0.4, -roof), (0.3, -roof), (0.55, -0.05)])),
        (
            BODY,
            np.array(
                [
                    (-0.95, -0.02),
                    (-0.6, -0.06),
                    (0.55, -0.06),
                    (0.95, 0.05),
                    (0.95, 0.4),
                    (-0.95, 0.4),
                ]
            ),
        ),
        (
            LIGHT,
            np.array([(-0.46, -0.05), (-0.32, 0.1 - roof), (-0.08, 0.1 - roof), (-0.08, -0.05)]),
        ),
        (LIGHT, np.array([(0.02, -0.05), (0.02, 0.1 - roof), (0.24, 0.1 - roof), (0.4, -0.05)])),
        *twins(DARK, oval(0.52, 0.4, wheel, wheel)),
        *twins(ACCENT, oval(0.52, 0.4, wheel * 0.45, wheel * 0.45)),
    ]


def kite(slim: float, detail: float) -> list[Part]:
    """A kite with a tail."""
    width, bow = 0.62 - 0.13 * slim, 0.09 + 0.03 * detail
    tail = [(0.0, 0.4), (0.14, 0.58), (-0.02, 0.74), (0.12, 0.92)]
    return [
        (DARK, np.array([*tail, *((x + 0.035, y) for x, y in reversed(tail))])),
        *[
            (ACCENT, mirrored((bow * 1.6, -bow), (0, 0), (bow * 1.6, bow)) + knot)
            for knot in tail[1:]
        ],
        (BODY, mirrored((0, -0.95), (width, -0.35), (0, 0.45))),
    ]


def bear(slim: float, detail: float) -> list[Part]:
    """A teddy bear."""
    belly, ear = 0.46 - 0.1 * slim, 0.15 + 0.05 * detail
    return [
        *twins(BODY, oval(0.3, -0.8, ear, ear)),
        *twins(ACCENT, oval(0.3, -0.8, ear * 0.5, ear * 0.5)),
        *twins(BODY, oval(belly + 0.06, 0.12, 0.2, 0.3)),
        *twins(BODY, oval(belly * 0.7, 0.75, 0.2, 0.2)),
        (BODY, oval(0, 0.3, belly, 0.52)),
        (BODY, oval(0, -0.5, 0.42, 0.38)),
        (LIGHT, oval(0, -0.38, 0.18, 0.14)),
        (DARK, oval(0, -0.43, 0.07, 0.05)),
        *twins(DARK, oval(0.17, -0.58, 0.05, 0.06)),
    ]


def boot(slim: float, detail: float) -> list[Part]:
    """A boot."""
    width, heel = 0.32 - 0.08 * slim, 0.16 + 0.07 * detail
    left = -0.4
    right = left + 2 * width
    return [
        (
            BODY,
            np.array(
                [
                    (left, -0.85),
                    (right, -0.85),
                    (right, 0.2),
                    (0.6, 0.4),
                    (0.75, 0.7),
                    (left - 0.04, 0.7),
                ]
            ),
        ),
        (ACCENT, box(left - 0.04, -0.92, right + 0.04, -0.74)),
        (DARK, box(left - 0.05, 0.68, 0.77, 0.77)),
        (DARK, box(left - 0.05, 0.7, left + 0.25, 0.74 + heel)),
    ]


def sock(slim: float, detail: float) -> list[Part]:
    """A sock."""
    width, cuff = 0.3 - 0.07 * slim, 0.2 + 0.1 * detail
    left = -0.45
    right = left + 2 * width
    leg = [(left, -0.85), (right, -0.85), (right, 0.15)]
    return [
        (BODY, np.array([*leg, (0.6, 0.45), (0.68, 0.72), (0.5, 0.85), (left, 0.55)])),
        (ACCENT, oval(0.53, 0.65, 0.17, 0.21)),
        (ACCENT, oval(left + 0.13, 0.46, 0.17, 0.19)),
        (ACCENT, box(left - 0.02, -0.92, right + 0.02, -0.92 + cuff)),
    ]


def mitten(slim: float, detail: float) -> list[Part]:
    """A mitten."""
    width, thumb = 0.46 - 0.1 * slim, 0.34 + 0.08 * detail
    return [
        (BODY, oval(width + 0.06, 0.12, 0.19, thumb)),
        (BODY, oval(0, -0.35, width, 0.55)),
        (BODY, box(-width, -0.35, width, 0.55)),
        (ACCENT, box(-width - 0.04, 0.5, width + 0.04, 0.92)),
    ]


def guitar(slim: float, detail: float) -> list[Part]:
    """A guitar."""
    width, neck = 0.46 - 0.1 * slim, 0.66 + 0.08 * detail
    return [
        (DARK, box(-0.06, -0.25 - neck, 0.06, 0.2)),
        (ACCENT, box(-0.12, -0.36 - neck, 0.12, -0.18 - neck)),
        (BODY, oval(0, 0.05, width * 0.8, 0.34)),
        (BODY, oval(0, 0.52, width, 0.42)),
        (DARK, oval(0, 0.2, 0.13, 0.13)),
        (LIGHT, box(-0.2, 0.6, 0.2, 0.67)),
    ]


def watch(slim: float, detail: float) -> list[Part]:
    """A wrist watch."""
    width, dial = 0.28 - 0.07 * slim, 0.38 + 0.06 * detail
    return [
        (BODY, mirrored((width * 0.8, -0.98), (width, -0.2), (width, 0.2), (width * 0.8, 0.98))),
        (ACCENT, oval(0, 0, dial + 0.07, dial + 0.07)),
        (LIGHT, oval(0, 0, dial, dial)),
        (DARK, box(-0.03, -dial * 0.7, 0.03, 0.03)),
        (DARK, box(-0.03, -0.03, dial * 0.55, 0.03)),
        (DARK, box(dial + 0.06, -0.06, dial + 0.14, 0.06)),
    ]


def balloon(slim: float, detail: float) -> list[Part]:
    """A hot-air balloon."""
    width, basket = 0.72 - 0.12 * slim, 0.15 + 0.04 * detail
    return [
        *twins(
            DARK,
            np.array(
                [(width * 0.6, 0.1), (width * 0.66, 0.1), (basket, 0.72), (basket - 0.04, 0.72)]
            ),
        ),
        (BODY, oval(0, -0.32, width, 0.65)),
        (BODY, mirrored((width * 0.85, 0), (0.24, 0.46))),
        (ACCENT, mirrored((basket, 0.7), (basket * 0.8, 0.98))),
    ]


def book(slim: float, detail: float) -> list[Part]:
    """A book, from the front."""
    width, spine = 0.6 - 0.05 * slim, 0.1 + 0.02 * detail
    return [
        (LIGHT, box(-width, -0.86, width + 0.06, 0.94)),
        (BODY, box(-width, -0.92, width, 0.88)),
        (DARK, box(-width, -0.92, spine - width, 0.88)),
    ]


def packet(slim: float, detail: float) -> list[Part]:
    """A packet of groceries, from the front."""
    width, flap = 0.58 - 0.05 * slim, 0.1 + 0.02 * detail
    return [
        (BODY, box(-width, -0.88, width, 0.9)),
        (ACCENT, mirrored((width - 0.12, -0.88 - flap), (width, -0.88))),
        (SECOND, box(-width, 0.8, width, 0.9)),
    ]


FAMILIES: tuple[tuple[str, str, Callable[[float, float], list[Part]]], ...] = (
    ("KITCHEN", "CUPS", cup),
    ("KITCHEN", "PANS", pan),
    ("KITCHEN", "BOTTLES", bottle),
    ("CLOTHES", "T-SHIRTS", shirt),
    ("CLOTHES", "TROUSERS", trousers),
    ("CLOTHES", "CAPS", cap),
    ("FURNITURE", "CHAIRS", chair),
    ("FURNITURE", "LAMPS", lamp),
    ("FURNITURE", "SOFAS", sofa),
    ("LUGGAGE", "HANDBAGS", handbag),
    ("LUGGAGE", "SUITCASES", suitcase),
    ("LUGGAGE", "BACKPACKS", backpack),
    ("GARDEN", "WATERING CANS", watering_can),
    ("GARDEN", "FLOWER POTS", flower_pot),
    ("GARDEN", "PARASOLS", parasol),
    ("TOYS", "CARS", car),
    ("TOYS", "KITES", kite),
    ("TOYS", "TEDDY BEARS", bear),
    ("WINTER", "BOOTS", boot),
    ("WINTER", "SOCKS", sock),
    ("WINTER", "MITTENS", mitten),
    ("LEISURE", "GUITARS", guitar),
    ("LEISURE", "WATCHES", watch),
    ("LEISURE", "HOT-AIR BALLOONS", balloon),
)
"""Level 1, level 2, silhouette, sorted by level 1. Neighbours differ much: a small dump has only a
few of them."""
