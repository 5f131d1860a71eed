"""What lies beside an error or a doubtful label: the fitted photos nearest to it under its label
and under the other category, and photos typical of both. evaluation/evidence.parquet."""

from collections.abc import Sequence

import numpy as np
import pandas

from features.neighbours import unit
from features.store import FeatureStore

NEAREST, TYPICAL = 2, 2
"""Products that are shown of each category."""
COLUMNS = ("kind", "product_id", "class_index", "shown", "cosine")


def nearest_photos(stores: Sequence[FeatureStore], cases: pandas.DataFrame) -> pandas.DataFrame:
    """The NEAREST fitted products of both categories of each case, as COLUMNS, kind `nearest`.

    `cases` have product_id, class_index and suggested_class (-1: none). Compared are the mean unit
    features of the case's photos, all views side by side; its own product is left out.
    """
    wanted = pandas.concat(
        [
            cases[["product_id", "class_index"]],
            cases[["product_id", "suggested_class"]].set_axis(
                ["product_id", "class_index"], axis=1
            ),
        ]
    )
    wanted = wanted[wanted["class_index"] >= 0].drop_duplicates()
    queries = _means(stores, np.unique(wanted["product_id"]))
    tables = []
    for class_index, rows in wanted.groupby("class_index"):
        known = rows["product_id"].isin(queries.index)
        nearest = _nearest(stores, queries.loc[rows["product_id"][known]], int(class_index))
        tables.append(nearest.assign(class_index=class_index))
    none = pandas.DataFrame(columns=[name for name in COLUMNS if name != "kind"])
    return pandas.concat(tables or [none], ignore_index=True).assign(kind="nearest")


def typical_photos(opinions: pandas.DataFrame) -> pandas.DataFrame:
    """The TYPICAL products of each category whose label the judge finds likeliest, as COLUMNS, kind
    `typical`; the answer is the label (`pipeline.report.label_issues`)."""
    right = opinions[opinions["answer"] == opinions["class_index"]]
    best = right.sort_values(["self_confidence", "product_id"], ascending=[False, True])
    best = best.drop_duplicates("product_id").groupby("class_index").head(TYPICAL)
    return pandas.DataFrame(
        {
            "kind": "typical",
            "product_id": -1,
            "class_index": best["class_index"],
            "shown": best["product_id"],
            "cosine": np.nan,
        }
    )


def _joined(stores: Sequence[FeatureStore], rows: np.ndarray) -> np.ndarray:
    """Unit features float32 [N, D] of ascending rows, all views side by side."""
    return unit(np.concatenate([unit(store.features_at(rows)) for store in stores], axis=1))


def _means(stores: Sequence[FeatureStore], product_ids: np.ndarray) -> pandas.DataFrame:
    """Mean features of products, a row per product that has any."""
    table = stores[0].table
    rows = np.flatnonzero(np.isin(table.product_id, product_ids))
    return pandas.DataFrame(_joined(stores, rows)).groupby(table.product_id[rows]).mean()


def _nearest(
    stores: Sequence[FeatureStore], queries: pandas.DataFrame, class_index: int
) -> pandas.DataFrame:
    """The nearest fitted products of a class for each query, one row per pair."""
    span, table = stores[0].of_class("train", class_index), stores[0].table
    rows = np.arange(span.start, span.stop)[table.fit[span]]
    if not len(rows) or not len(queries):
        return pandas.DataFrame({"product_id": [], "shown": [], "cosine": []})
    cosines = unit(queries.to_numpy()) @ _joined(stores, rows).T
    owner = table.product_id[rows]
    cosines[queries.index.to_numpy()[:, None] == owner] = -np.inf
    best = pandas.DataFrame(
        {
            "product_id": np.repeat(queries.index.to_numpy(), len(rows)),
            "shown": np.tile(owner, len(queries)),
            "cosine": cosines.ravel(),
        }
    )
    best = best[np.isfinite(best["cosine"])]
    best = best.sort_values(["product_id", "cosine"], ascending=[True, False], kind="stable")
    return best.drop_duplicates(["product_id", "shown"]).groupby("product_id").head(NEAREST)
