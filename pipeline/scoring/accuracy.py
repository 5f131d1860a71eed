"""Predictions beside the true categories of a scored dump, if a CSV or the dump itself has them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet

from catalog.errors import ShelfsortError
from catalog.intervals import Estimate, clustered_change, clustered_share
from catalog.sources.categories import resolved
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource
from catalog.taxonomy import Taxonomy
from pipeline.scoring.predictions import PREDICTIONS, category_path


@dataclass(frozen=True)
class LabelComparison:
    """Top-1 of the labelled products that count: stage 1, the same adjusted, both stages, and the
    change of the last two, as `evaluate` has them. A product counts if a photo of it can be read
    and shows something, and the model knows its category: `without_photo` is how many have no such
    photo, `unknown` how many of the others are of categories that no answer could name. `accepted`:
    the share of right answers among those that a rule accepts, in `all` and by level; empty if
    there is no rule."""

    stage1: Estimate
    shifted: Estimate
    two_stage: Estimate
    change: Estimate
    without_photo: int
    unknown: int
    accepted: Mapping[str, Estimate]

    def systems(self) -> dict[str, Estimate]:
        """Each answer's top-1, by its name in summary.json."""
        return {"stage 1": self.stage1, "shifted": self.shifted, "two-stage": self.two_stage}

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        apart = {
            "have no photo that can be read and shows something": self.without_photo,
            "are of categories that the model doesn't know": self.unknown,
        }
        left_out = "".join(
            f"; {count} more {why}, and don't count" for why, count in apart.items() if count
        )
        if not self.two_stage.n:
            yield f"top-1: no labelled product to count{left_out}"
            return
        stage1, adjusted, two_stage = map(_percent, (self.stage1, self.shifted, self.two_stage))
        value, low, high = (100 * (x or 0.0) for x in self.change[:3])
        yield (
            f"top-1 of {self.two_stage.n} labelled products: stage 1 {stage1}, "
            f"adjusted {adjusted}, two-stage {two_stage}; two-stage over adjusted "
            f"{value:+.2f} [{low:+.2f}, {high:+.2f}] points{left_out}"
        )
        counted = {name: e for name, e in self.accepted.items() if e.n}
        if counted:
            yield "right among the accepted: " + ", ".join(
                f"{name} {_percent(e)} (n {e.n})" for name, e in counted.items()
            )


def _percent(estimate: Estimate) -> str:
    value, low, high = (100 * (x or 0.0) for x in estimate[:3])
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


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
    given = {str(key): label for key, label in labels.items()}  # a text may consist of digits
    known = {product: given[str(product)] for product in products if str(product) in given}
    if not known:
        name = source.location(0, -1)[0] if len(source) else "the source"
        raise ShelfsortError(
            f"{path}: expected labels of the products in {name}, "
            f"found {len(labels)} of others alone"
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


def compare_with_labels(out: Path, labels: dict[Key, int], taxonomy: Taxonomy) -> LabelComparison:
    """Compares all parts in the folder `out` with labels, of a model with these categories."""
    columns = ["product_id", "stage1_category_id", "shifted_category_id", "category_id", "blank"]
    columns += ["level", "category_path", "accepted"]
    parts = [
        pyarrow.parquet.read_table(path, columns=columns)
        for path in sorted(out.glob("part-*.parquet"))
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
    accepted = _accepted(table, truth.to_numpy(), taxonomy)
    return LabelComparison(stage1, shifted, two_stage, change, without_photo, unknown, accepted)


def _accepted(
    table: pandas.DataFrame, truth: np.ndarray, taxonomy: Taxonomy
) -> dict[str, Estimate]:
    """The share of right answers among the accepted ones, in `all` and by level."""
    rows = table["accepted"].eq(True).to_numpy()
    accepted, truth = table[rows], taxonomy.class_index(truth[rows].astype(np.int64))
    level = accepted["level"].to_numpy()
    right = np.zeros(len(accepted), dtype=bool)
    if not len(right):
        return {}
    for i, (c, number, path, answer) in enumerate(
        zip(
            truth.tolist(),
            level.tolist(),
            accepted["category_path"],
            accepted["category_id"],
            strict=True,
        )
    ):
        if c < 0:
            continue  # a category that the run doesn't know
        if number == 3:
            right[i] = taxonomy.category_ids[c] == answer
        else:
            right[i] = category_path(taxonomy, c, number) == path
    ones, product = np.ones(len(right)), np.arange(len(right))
    shares = {"all": clustered_share(right, ones, product)}
    for number in sorted(set(level.tolist()), reverse=True):
        on = level == number
        shares[f"level {number}"] = clustered_share(right[on], ones[on], product[on])
    return shares
