"""Accuracy of parts of the test split: by images per product, brightness and size of the photos, by
the catalogue's own columns, and by those of a CSV file."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from catalog.csv_file import CsvFile
from catalog.errors import ConfigError
from catalog.intervals import clustered_share
from catalog.labels import ID_COLUMNS
from catalog.store.reader import Store

BINS = 4
"""Of a column of numbers, by quantiles."""
VALUES = 12
"""Values of another column that are counted apart, the most frequent first."""


def slices(items: pandas.DataFrame, columns: pandas.DataFrame) -> list[dict[str, Any]]:
    """For each column of `columns` (indexed by product id) its slices: name, accuracy of both
    stages with its interval, weighted to the catalogue mix, and `verdict`: `worse` or `better` if
    the interval lies below or above the accuracy of all, else `alike`."""
    right = (items["two_stage_class"] == items["class_index"]).to_numpy()
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    whole = clustered_share(right, weight, group).value
    by_column = []
    for name in columns:
        values = columns[name].reindex(items["product_id"])
        rows = []
        for label, mask in _parts(values):
            share = clustered_share(right[mask], weight[mask], group[mask])
            worse = share.high is not None and whole is not None and share.high < whole
            better = share.low is not None and whole is not None and share.low > whole
            verdict = "worse" if worse else "better" if better else "alike"
            rows.append({"name": label, "accuracy": share.to_json(), "verdict": verdict})
        if len(rows) > 1:
            by_column.append({"column": str(name), "slices": rows})
    return by_column


def _parts(values: pandas.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask bool [N] of each slice; items without a value are one of their own."""
    known = values.notna().to_numpy()
    if pandas.api.types.is_numeric_dtype(values) and not pandas.api.types.is_bool_dtype(values):
        yield from _quantiles(values.to_numpy(dtype=np.float64), known)
    else:
        texts = values.astype(str).to_numpy()
        common = pandas.Series(texts[known]).value_counts().index[:VALUES]
        yield from ((str(value), known & (texts == value)) for value in common)
        if (others := known & ~np.isin(texts, common)).any():
            yield "all others", others
    if not known.all():
        yield "not known", ~known


def _quantiles(values: np.ndarray, known: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    distinct = np.unique(values[known])
    if len(distinct) <= BINS:
        yield from ((f"{value:g}", values == value) for value in distinct)
        return
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)))
    quantile = np.searchsorted(edges[1:-1], values, side="right")
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        yield f"{low:.3g} to {high:.3g}", known & (quantile == number)


def photo_columns(photos: pandas.DataFrame) -> pandas.DataFrame:
    """Brightness and size of the products' photos, on the mean, by product id."""
    size = np.sqrt(photos["width"] * photos["height"])
    columns = {
        "brightness of the photos": photos["brightness"],
        "sharpness of the photos": photos["sharpness"],
        "size of the photos, pixels": size,
    }
    return pandas.DataFrame(columns).groupby(photos["product_id"].to_numpy()).mean()


def read_columns(path: Path, store: Store) -> pandas.DataFrame:
    """A CSV of products (`product_id` or `_id`, the shop's keys) and any further columns, by
    product id; products that the store doesn't have are left out. Numbers are read as such.

    Raises ConfigError if it has no further column, ShelfsortError if it is not such a file.
    """
    file = CsvFile(path)
    names = [name for name in file.names() if name not in ID_COLUMNS]
    if not names:
        raise ConfigError(f"{path}: expected a column beside product_id, found none")
    rows = list(file.rows([ID_COLUMNS, *names]))
    ids = store.numbers([row[0] for row in rows])
    table = pandas.DataFrame([row[1:] for row in rows], columns=names, index=ids)
    table = table[(ids >= 0) & ~table.index.duplicated()].replace("", None)
    for name in names:
        numbers = pandas.to_numeric(table[name], errors="coerce")
        if numbers.notna().equals(table[name].notna()):
            table[name] = numbers
    return table
