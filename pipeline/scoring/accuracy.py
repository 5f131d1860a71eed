"""Predictions beside the true categories of a scored dump, where a CSV or the dump itself has them."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet

from catalog.errors import ShelfsortError
from catalog.intervals import Estimate, clustered_change, clustered_share
from catalog.sources.source import ProductSource
from pipeline.scoring.predictions import PREDICTIONS


@dataclass(frozen=True)
class Comparison:
    """Top-1 of the labelled products that count: stage 1, the shifted stage 1, both stages, and the
    change of the last two, as `evaluate` has them. A product counts if a photo of it can be read
    and shows something; `without_photo` is how many don't."""

    stage1: Estimate
    shifted: Estimate
    two_stage: Estimate
    change: Estimate
    without_photo: int

    def text(self) -> str:
        """For a terminal."""
        n = self.two_stage.n
        left_out = f"; {self.without_photo} more have no photo that can be read and shows something, and don't count"
        if not n:
            return f"top-1: no labelled product to count{left_out if self.without_photo else ''}"
        systems = {"stage 1": self.stage1, "shifted": self.shifted, "two-stage": self.two_stage}
        shares = ", ".join(
            f"{name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for name, e in systems.items()
        )
        value, low, high = (100 * x for x in self.change[:3])
        return (
            f"top-1 of {n} labelled products: {shares}, two-stage over shifted {value:+.2f} [{low:+.2f}, {high:+.2f}] points"
            f"{left_out if self.without_photo else ''}"
        )


def labels_of(source: ProductSource) -> dict[int, int]:
    """Product id -> category id of the products that the source itself has a category of; of a
    repeated id, the first one's."""
    labelled = source.category_id >= 0
    ids, first = np.unique(source.product_id[labelled], return_index=True)
    return dict(zip(ids.tolist(), source.category_id[labelled][first].tolist(), strict=True))


def labels_in(source: ProductSource, labels: dict[int, int], path: Path) -> dict[int, int]:
    """Those labels of the file `path` whose product stands in the source, readable or not. Raises
    ShelfsortError where none does."""
    products = chain(source.product_id.tolist(), (reject.product_id for reject in source.rejects))
    known = {product: labels[product] for product in products if product in labels}
    if not known:
        place = source.place(0, -1)[0] if len(source) else "the source"
        raise ShelfsortError(
            f"{path}: expected labels of the products in {place}, found {len(labels)} of others alone"
        )
    return known


def compare(out: Path, labels: dict[int, int]) -> Comparison:
    """Compares all parts in the folder `out` with labels."""
    columns = ["product_id", "stage1_category_id", "shifted_category_id", "category_id", "blank"]
    parts = [
        pyarrow.parquet.read_table(part, columns=columns)
        for part in sorted(out.glob("part-*.parquet"))
    ]
    table = pyarrow.concat_tables([PREDICTIONS.empty_table().select(columns), *parts]).to_pandas()
    table = table[table["product_id"].isin(labels.keys()) & ~table["blank"]]
    truth = table["product_id"].map(labels)
    right = {
        name: (table[f"{name}category_id"] == truth).to_numpy()
        for name in ("stage1_", "shifted_", "")
    }
    ones, product = np.ones(len(table)), np.arange(len(table))
    shares = (clustered_share(hit, ones, product) for hit in right.values())
    change = clustered_change(right[""].astype(np.float64) - right["shifted_"], ones, product)
    return Comparison(*shares, change, without_photo=len(labels) - len(table))
