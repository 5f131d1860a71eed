"""The drawn photos: every family is visible, patterned and lit, and misleading views hide the
category."""

import io

import numpy as np
import pytest
from PIL import Image

from catalog.synthetic.drawing import PATTERNS, Look, blank, encode, mislead, photograph, vary
from catalog.synthetic.silhouettes import BODY, FAMILIES

SIDE = 48


def product(silhouette=FAMILIES[0][2], pattern="plain", slim=0.0, detail=0.0, seed=0) -> Look:
    return vary(Look(silhouette, pattern, 2.0, slim, detail, 0.3), np.random.default_rng(seed))


def view(look: Look, seed: int) -> np.ndarray:
    return photograph(look, np.random.default_rng(seed), SIDE)


def on_white(look: Look) -> np.ndarray:
    """The first view with a white background, that is, with four white corners."""
    for seed in range(50):
        picture = view(look, seed)
        if picture[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 235:
            return picture.astype(int)
    raise LookupError("no view of 50 is on white")


@pytest.mark.parametrize("family", FAMILIES, ids=[name for _, name, _ in FAMILIES])
@pytest.mark.parametrize("slim, detail", [(-1.4, -0.9), (0, 0), (1.7, 1.8)])
def test_every_silhouette_fits_its_picture(family, slim, detail):
    parts = family[2](slim, detail)
    points = np.concatenate([outline for _, outline in parts])
    assert any(paint == BODY for paint, _ in parts)
    assert np.abs(points).max() < 1.3
    picture = on_white(product(family[2], slim=slim, detail=detail))
    assert 0.04 < (picture.min(axis=2) < 200).mean() < 0.75


def test_families_differ_in_outline():
    outlines = np.stack(
        [on_white(product(silhouette)).min(axis=2) < 200 for _, _, silhouette in FAMILIES]
    )
    assert len(np.unique(outlines.reshape(len(FAMILIES), -1), axis=0)) == len(FAMILIES)


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_paint_part_of_the_body(pattern):
    plain, patterned = view(product(), 3).astype(int), view(product(pattern=pattern), 3).astype(int)
    changed = (np.abs(plain - patterned).max(axis=2) > 25).mean()
    assert 0.02 < changed < 0.4


def test_products_of_a_look_differ_and_views_of_a_product_share_its_colours():
    one, other = product(seed=1), product(seed=2)
    assert one.colours[BODY] != other.colours[BODY]
    assert one.slim != other.slim
    assert (view(one, 1) != view(one, 2)).any()
    assert np.array_equal(view(one, 1), view(one, 1))


def test_size_charts_and_cartons_do_not_depend_on_pattern_and_proportion():
    looks = product(slim=-1.0), product(pattern="checks", slim=1.0, detail=1.0)
    same = [
        np.array_equal(*(mislead(look, np.random.default_rng(seed), SIDE) for look in looks))
        for seed in range(30)
    ]
    assert 10 <= sum(same) < 30  # the rest are close-ups


def test_pictures_are_rgb_bytes_of_the_side_asked_for():
    rng = np.random.default_rng(0)
    for picture in (photograph(product(), rng, 33), mislead(product(), rng, 33), blank(rng, 33)):
        assert picture.shape == (33, 33, 3)
        assert picture.dtype == np.uint8


def test_blank_is_constant_and_survives_encoding():
    picture = blank(np.random.default_rng(0), SIDE)
    decoded = np.asarray(Image.open(io.BytesIO(encode(picture, 75))))
    assert np.ptp(picture.reshape(-1, 3), axis=0).max() == 0
    assert np.ptp(decoded.reshape(-1, 3), axis=0).max() == 0
