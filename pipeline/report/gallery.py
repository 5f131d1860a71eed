"""Thumbnails for the report: of the products an analyst will want to see first, as many as a budget
of bytes allows."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from PIL import Image

from catalog.config import MOST_PIXELS
from catalog.images import decode
from catalog.progress import progress
from catalog.store.reader import Store

SIDES = (180, 144, 112, 88, 72)
"""Pixels of a thumbnail's longer side: the largest at which the photos that matter most fit the
budget."""
SAMPLE = 40
QUALITY = 55
MOST_IMAGES = 4
_PROBLEMS = 24
"""Photos of each kind of problem."""
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


@dataclass(frozen=True)
class Wanted:
    """What photos are wanted of: evaluated `items`, the `review` of labels, the `evidence` beside
    doubts and errors, and the `problems` of photos (pipeline.report.findings)."""

    items: pandas.DataFrame
    review: pandas.DataFrame
    evidence: pandas.DataFrame
    problems: pandas.DataFrame

    def photos_of(self, product_ids: Sequence[int]) -> dict[int, int]:
        """How many photos of each product: of those that only stand beside others a single one."""
        tables = (self.items, self.review, self.problems)
        shown = set(np.concatenate([table["product_id"] for table in tables]).tolist())
        return {i: MOST_IMAGES if i in shown else 1 for i in product_ids}


def make_gallery(store: Store | None, wanted: Wanted, budget: int) -> Gallery:
    """Thumbnails of at most `budget` bytes: likely label errors first, then round by round the
    wrong and the most uncertain products of each category, those that lose most products first;
    each with the photos that stand beside it. Without a store the gallery is empty."""
    if store is None:
        nothing = np.zeros(1, dtype=np.uint32)
        return Gallery(np.zeros(0), nothing, nothing, b"")
    products: list[int] = []
    counts: list[int] = []
    sizes: list[int] = []
    parts: list[bytes] = []
    left = budget
    order = wanted.photos_of(list(_in_order(wanted)))
    items = wanted.items
    wrong = int((items["two_stage_class"] != items["class_index"]).sum())
    side = _side(store, order, wrong, budget)
    with progress(len(order), "thumbnails", "product") as bar:
        for product_id, most in order.items():
            photos = store.read(store.image_ids_of(product_id)[:most])
            thumbnails = [thumbnail(data, side) for data in photos]
            left -= sum(map(len, thumbnails))
            if left < 0:
                break
            bar.update()
            if thumbnails:
                products.append(product_id)
                counts.append(len(thumbnails))
                sizes += map(len, thumbnails)
                parts += thumbnails
    starts, offsets = (
        np.concatenate([[0], np.cumsum(n)]).astype(np.uint32) for n in (counts, sizes)
    )
    return Gallery(np.array(products, dtype=np.float64), starts, offsets, b"".join(parts))


def _side(store: Store, order: Mapping[int, int], wrong: int, budget: int) -> int:
    """The largest of SIDES at which twice as many products as are wrong fit the budget, by a sample
    of them."""
    products = list(order)[: max(2 * wrong, SAMPLE)]
    sample = products[:: max(1, len(products) // SAMPLE)]
    photos = [data for i in sample for data in store.read(store.image_ids_of(i)[: order[i]])]
    for side in SIDES:
        size = sum(len(thumbnail(data, side)) for data in photos)
        if size / max(1, len(sample)) * len(products) <= budget:
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


def _in_order(wanted: Wanted) -> Iterator[int]:
    """Product ids by importance, each once, those beside a product right after it."""
    review, items, evidence = wanted.review, wanted.items, wanted.evidence
    doubts, conflicts = (
        review.loc[review["kind"] == kind, "product_id"] for kind in ("doubt", "conflict")
    )
    beside = evidence[evidence["kind"] == "nearest"].groupby("product_id")["shown"].apply(list)
    typical = evidence.loc[evidence["kind"] == "typical", "shown"]
    problems = wanted.problems.groupby("kind").head(_PROBLEMS)
    chosen = items["product_id"].to_numpy()[by_interest(items)]
    each = [
        *(i for product in doubts.head(150) for i in (product, *beside.get(product, []))),
        *conflicts.head(200),
        *problems["product_id"],
        *problems.loc[problems["other"] >= 0, "other"],
        *typical,
        *(i for product in chosen for i in (product, *beside.get(product, []))),
    ]
    yield from dict.fromkeys(map(int, each))


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
