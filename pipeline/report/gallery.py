"""Thumbnails for the report: of the products an analyst will want to see first, as many as a budget
of bytes allows."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas
from PIL import Image

from catalog.config import MOST_PIXELS
from catalog.images import decode
from catalog.store.reader import Store

SIDES = (180, 144, 112, 88, 72)
"""Pixels of a thumbnail's longer side: the largest at which the photos that matter most fit the
budget."""
SAMPLE = 40
QUALITY = 55
MOST_IMAGES = 4
WRONG, UNCERTAIN = 3, 1
"""Photos of a category in each round of choosing."""


@dataclass(frozen=True)
class Gallery:
    """WebP thumbnails: product i has `starts[i]` to `starts[i + 1]`; thumbnail j is
    `data[offsets[j] : offsets[j + 1]]`."""

    product_id: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    data: bytes


def make_gallery(
    store: Store | None, items: pandas.DataFrame, review: pandas.DataFrame, budget: int
) -> Gallery:
    """Thumbnails of at most `budget` bytes: likely label errors first, then round by round the
    wrong and the most uncertain products of each category, those that lose most products first.
    Without a store the gallery is empty."""
    if store is None:
        nothing = np.zeros(1, dtype=np.uint32)
        return Gallery(np.zeros(0), nothing, nothing, b"")
    products: list[int] = []
    counts: list[int] = []
    sizes: list[int] = []
    parts: list[bytes] = []
    left = budget
    order = list(_in_order(items, review))
    side = _side(
        store, order, int((items["two_stage_class"] != items["class_index"]).sum()), budget
    )
    for product_id in order:
        thumbnails = [
            thumbnail(data, side)
            for data in store.read(store.image_ids_of(product_id)[:MOST_IMAGES])
        ]
        left -= sum(map(len, thumbnails))
        if left < 0:
            break
        if thumbnails:
            products.append(product_id)
            counts.append(len(thumbnails))
            sizes += map(len, thumbnails)
            parts += thumbnails
    starts, offsets = (
        np.concatenate([[0], np.cumsum(n)]).astype(np.uint32) for n in (counts, sizes)
    )
    return Gallery(np.array(products, dtype=np.float64), starts, offsets, b"".join(parts))


def _side(store: Store, order: list[int], wrong: int, budget: int) -> int:
    """The largest of SIDES at which twice as many products as are wrong fit the budget, by a sample
    of them."""
    wanted = order[: max(2 * wrong, SAMPLE)]
    sample = wanted[:: max(1, len(wanted) // SAMPLE)]
    photos = [
        data
        for product_id in sample
        for data in store.read(store.image_ids_of(product_id)[:MOST_IMAGES])
    ]
    for side in SIDES:
        if (
            sum(len(thumbnail(data, side)) for data in photos) / max(1, len(sample)) * len(wanted)
            <= budget
        ):
            return side
    return SIDES[-1]


def thumbnail(data: bytes, side: int) -> bytes:
    """A picture's bytes as a small WebP, its longer side `side` pixels at most. Raises ImageError
    where it can't be decoded."""
    image = Image.fromarray(decode(data, MOST_PIXELS))
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=2)
    return out.getvalue()


def _in_order(items: pandas.DataFrame, review: pandas.DataFrame) -> Iterator[int]:
    """Product ids by importance, each once."""
    doubts, conflicts = (
        review.loc[review["kind"] == kind, "product_id"] for kind in ("doubt", "conflict")
    )
    seen: set[int] = set()
    chosen = items["product_id"].to_numpy()[by_interest(items)]
    for product_id in [*doubts.head(150), *conflicts.head(200), *chosen]:
        if product_id not in seen:
            seen.add(int(product_id))
            yield int(product_id)


def by_interest(items: pandas.DataFrame) -> np.ndarray:
    """Row numbers round by round: in each some wrong and some uncertain items of each category, the
    worst category first."""
    truth, wrong = (
        items["class_index"].to_numpy(),
        (items["two_stage_class"] != items["class_index"]).to_numpy(),
    )
    lost = np.bincount(truth[wrong], minlength=int(truth.max(initial=0)) + 1)
    chosen = []
    for column, mask, share in (
        ("two_stage_true_confidence", wrong, WRONG),
        ("two_stage_confidence", ~wrong, UNCERTAIN),
    ):
        rows = np.flatnonzero(mask)
        rows = rows[np.lexsort((items[column].to_numpy()[rows], truth[rows]))]
        rank = np.arange(len(rows)) - np.searchsorted(truth[rows], truth[rows])
        chosen.append(np.stack([rank // share, -lost[truth[rows]], truth[rows], rank, rows]))
    table = np.concatenate(chosen, axis=1)
    return table[4, np.lexsort((table[3], table[2], table[1], table[0]))]
