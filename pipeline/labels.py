"""Predictions beside the true categories of a scored dump, where a CSV or the dump itself has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet

from catalog.errors import ShelfsortError
from pipeline.sources import Source


@dataclass(frozen=True)
class Comparison:
    """Products with a label, and the share of them that is right: value and 95% interval of both stages and of the change.

    A product without a prediction counts as wrong."""

    products: int
    stage1: tuple[float, float, float]
    two_stage: tuple[float, float, float]
    change: tuple[float, float, float]

    def text(self) -> str:
        """For a terminal."""
        first, second = (f"{v:.4f} [{low:.4f}, {high:.4f}]" for v, low, high in (self.stage1, self.two_stage))
        value, low, high = (100 * x for x in self.change)
        return (
            f"top-1 of {self.products} labelled products: stage 1 {first}, two-stage {second}, "
            f"change {value:+.2f} [{low:+.2f}, {high:+.2f}] points"
        )


def labels_of(source: Source) -> dict[int, int]:
    """Product id -> category id of the products that the source itself has a category of; of a repeated id, the first one's."""
    labelled = source.category_id >= 0
    ids, first = np.unique(source.product_id[labelled], return_index=True)
    return dict(zip(ids.tolist(), source.category_id[labelled][first].tolist(), strict=True))


def labels_in(source: Source, labels: dict[int, int], path: Path) -> dict[int, int]:
    """Those labels of the file `path` whose product stands in the source, readable or not. Raises ShelfsortError where none
    does."""
    products = chain(source.product_id.tolist(), (reject.product_id for reject in source.rejects))
    known = {product: labels[product] for product in products if product in labels}
    if not known:
        place = source.place(0, -1)[0] if len(source) else "the source"
        raise ShelfsortError(f"{path}: expected labels of the products in {place}, found {len(labels)} of others alone")
    return known


def compare(out: Path, labels: dict[int, int], resamples: int, seed: int) -> Comparison:
    """Compares all parts in the folder `out` with labels; intervals by the bootstrap over products."""
    right = dict.fromkeys(labels, (False, False))
    for part in sorted(out.glob("part-*.parquet")):
        columns = pyarrow.parquet.read_table(part, columns=["product_id", "stage1_category_id", "category_id"]).to_pydict()
        for product, first, second in zip(*columns.values(), strict=True):
            if product in labels:
                right[product] = (first == labels[product], second == labels[product])
    kinds = np.array([(first, second, second - first) for first in (0, 1) for second in (0, 1)])
    counts = np.bincount([2 * first + second for first, second in right.values()], minlength=len(kinds))
    # A resample of products is a draw of how many of each kind it has: the same bootstrap, at a cost that no dump's size raises.
    means = np.random.default_rng(seed).multinomial(len(right), counts / len(right), size=resamples) @ kinds / len(right)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return Comparison(len(right), *_triples(counts @ kinds / len(right), low, high))


def _triples(*columns: np.ndarray) -> Sequence[tuple[float, float, float]]:
    return [tuple(map(float, values)) for values in zip(*columns, strict=True)]
