"""Predictions beside the true categories of a scored dump, where a CSV has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet

from catalog.errors import ShelfsortError


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


def compare(out: Path, labels: dict[int, int], resamples: int, seed: int) -> Comparison:
    """Compares all parts in the folder `out` with labels; intervals by the bootstrap over products."""
    right = dict.fromkeys(labels, (False, False))
    for part in sorted(out.glob("part-*.parquet")):
        columns = pyarrow.parquet.read_table(part, columns=["product_id", "stage1_category_id", "category_id"]).to_pydict()
        for product, first, second in zip(*columns.values(), strict=True):
            if product in labels:
                right[product] = (first == labels[product], second == labels[product])
    hits = np.array(list(right.values()), dtype=float).reshape(-1, 2)
    if not len(hits):
        raise ShelfsortError("the labels name no product, expected at least one")
    hits = np.column_stack([hits, hits[:, 1] - hits[:, 0]])
    rng = np.random.default_rng(seed)
    means = np.stack([hits[rng.integers(len(hits), size=len(hits))].mean(axis=0) for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return Comparison(len(hits), *_triples(hits.mean(axis=0), low, high))


def _triples(*columns: np.ndarray) -> Sequence[tuple[float, float, float]]:
    return [tuple(map(float, values)) for values in zip(*columns, strict=True)]
