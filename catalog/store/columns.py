"""Further columns of products (`catalog.columns`): as JSON in the store, as a table for readers."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas


def encode(values: Sequence[Any]) -> str:
    """The values of one product's columns, as a source gives them (`catalog.sources.plain`)."""
    return json.dumps(values, ensure_ascii=False)


def frame(names: Sequence[str], rows: Sequence[str | None]) -> pandas.DataFrame:
    """One row per product, one column per name: float64 if all values are numbers, datetime64 (UTC,
    without a zone) if all are dates, else texts (object). What is missing is NaN, NaT, None."""
    decoded = [json.loads(row) if row else [None] * len(names) for row in rows]
    return pandas.DataFrame(
        {name: _column([row[column] for row in decoded]) for column, name in enumerate(names)},
        index=range(len(rows)),
    )


def _column(values: Sequence[Any]) -> Any:
    present = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in present):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if all(isinstance(value, dict) for value in present):
        dates = [None if value is None else value["date"] for value in values]
        moments = pandas.to_datetime(pandas.Series(dates, dtype=object), format="ISO8601", utc=True)
        return moments.dt.tz_localize(None).to_numpy()
    texts = [value["date"] if isinstance(value, dict) else value for value in values]
    return pandas.Series([None if t is None else str(t) for t in texts], dtype=object)
