"""Predictions beside the true categories of a scored dump, where a CSV or the dump itself has them."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet

from catalog.errors import ShelfsortError
from catalog.intervals import Estimate, clustered_change, clustered_share
from catalog.sources.categories import resolved
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource
from catalog.taxonomy import Taxonomy
from pipeline.scoring.parts import PREDICTIONS


@dataclass(frozen=True)
class Comparison:
    """Top-1 of the labelled products that count: stage 1, the shifted stage 1, both stages, and the
    change of the last two, as `evaluate` has them. A product counts if a photo of it can be read
    and shows something, and the model knows its category: `without_photo` is how many have no such
    photo, `unknown` how many of the others are of categories that no answer could name."""

    stage1: Estimate
    shifted: Estimate
    two_stage: Estimate
    change: Estimate
    without_photo: int
    unknown: int

    def text(self) -> str:
        """For a terminal."""
        n = self.two_stage.n
        apart = {
            "have no photo that can be read and shows something": self.without_photo,
            "are of categories that the model doesn't know": self.unknown,
        }
        left_out = "".join(
            f"; {count} more {why}, and don't count" for why, count in apart.items() if count
        )
        if not n:
            return f"top-1: no labelled product to count{left_out}"
        systems = {"stage 1": self.stage1, "shifted": self.shifted, "two-stage": self.two_stage}
        shares = ", ".join(
            f"{name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for name, e in systems.items()
        )
        value, low, high = (100 * x for x in self.change[:3] if x is not None)
        return (
            f"top-1 of {n} labelled products: {shares}, two-stage over shifted {value:+.2f} [{low:+.2f}, {high:+.2f}] points"
            f"{left_out}"
        )


def labels_of(source: ProductSource, taxonomy: Taxonomy) -> dict[Key, int]:
    """Key -> category id of the products that the source itself has a category of; of a repeated
    key, the first one's."""
    category_id = resolved(source.category_id, source.category_names, taxonomy)
    rows = np.flatnonzero(category_id >= 0)[::-1].tolist()  # so that the first one stays
    return {source.keys[row]: int(category_id[row]) for row in rows}


def labels_in(
    source: ProductSource, labels: dict[Key, int], path: Path, taxonomy: Taxonomy
) -> dict[Key, int]:
    """Those labels of the file `path` whose product stands in the source, readable or not. Raises
    ShelfsortError if there are none, or all are of categories that the taxonomy doesn't have."""
    products = chain(source.keys, (reject.product_id for reject in source.rejects))
    given = {str(key): label for key, label in labels.items()}  # a text may be in figures
    known = {product: given[str(product)] for product in products if str(product) in given}
    if not known:
        place = source.place(0, -1)[0] if len(source) else "the source"
        raise ShelfsortError(
            f"{path}: expected labels of the products in {place}, found {len(labels)} of others alone"
        )
    if not _known(known, taxonomy).any():
        raise ShelfsortError(
            f"{path}: expected categories of the run, found {len(known)} labels of others alone, "
            f"such as category_id {next(iter(known.values()))}; "
            "give the labels that belong to the run's category_names.csv"
        )
    return known


def _known(labels: dict[Key, int], taxonomy: Taxonomy) -> np.ndarray:
    """Which of the labels are of categories of the taxonomy, bool [N]."""
    return taxonomy.class_index(np.array(list(labels.values()), dtype=np.int64)) >= 0


def compare(out: Path, labels: dict[Key, int], taxonomy: Taxonomy) -> Comparison:
    """Compares all parts in the folder `out` with labels, of a model with these categories."""
    columns = ["product_id", "stage1_category_id", "shifted_category_id", "category_id", "blank"]
    parts = [
        pyarrow.parquet.read_table(part, columns=columns)
        for part in sorted(out.glob("part-*.parquet"))
    ]
    table = pyarrow.concat_tables(parts or [PREDICTIONS.empty_table().select(columns)]).to_pandas()
    table = table[table["product_id"].isin(labels.keys()) & ~table["blank"]]
    seen, known = (
        len(table),
        [k for k, here in zip(labels, _known(labels, taxonomy), strict=True) if here],
    )
    table = table[table["product_id"].isin(known)]
    truth = table["product_id"].map(labels)
    right = {
        name: (table[f"{name}category_id"] == truth).to_numpy()
        for name in ("stage1_", "shifted_", "")
    }
    ones, product = np.ones(len(table)), np.arange(len(table))
    stage1, shifted, two_stage = (clustered_share(hit, ones, product) for hit in right.values())
    change = clustered_change(right[""].astype(np.float64) - right["shifted_"], ones, product)
    without_photo, unknown = len(labels) - seen, seen - len(table)
    return Comparison(stage1, shifted, two_stage, change, without_photo, unknown)
