"""Codes of catalogue columns (price, colour, date of arrival): small whole numbers, one for each
column of a product. Experts make them one-hot, trees take them as categories and numbers.

Fitted on the train split only. A number or a date has the code of its quantile bin; a text that is
frequent one of its own, any other one of RARE, by a hash; what is missing has MISSING. On disk,
without pickles: columns.json. Needs numpy alone, because an exported model reads it too.
"""

import datetime
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from catalog.artifacts import read_sealed, write_sealed
from catalog.errors import ArtifactError

SCHEMA = 1
FILE = "columns.json"
MISSING = -1
BINS = 32
"""Quantile bins of numbers and dates, at most."""
LEAST = 4
"""Products of train with a text that has a code of its own, at least."""
MOST = 512
"""Texts of a column that have one, at most: the most frequent."""
RARE = 32
"""Codes that all other texts share."""
Kind = Literal["text", "number", "date"]
Value = float | str | datetime.date | None


@dataclass(frozen=True)
class Column:
    """How the values of one column become codes from 0 to `size` - 1: `texts` are those with a code
    of their own, `edges` float64 part the bins of numbers, or of dates in seconds."""

    name: str
    kind: Kind
    texts: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @classmethod
    def fit(cls, name: str, values: Sequence[Any]) -> "Column":
        """Fits on the values of labelled products: the column is one of numbers, or of dates, if
        all that is not missing is."""
        present = [value for value in values if not _is_missing(value)]
        for column_type, types in (("date", datetime.date), ("number", (int, float, np.number))):
            if present and all(isinstance(value, types) for value in present):
                numbers = np.array([_number(value) for value in present])
                return cls(name, cast("Kind", column_type), edges=_edges(numbers))
        counts = Counter(map(_text, present))
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        return cls(name, "text", tuple(text for text, count in frequent if count >= LEAST))

    @property
    def categorical(self) -> bool:
        """Whether the order of the codes says nothing."""
        return self.kind == "text"

    @property
    def size(self) -> int:
        """Number of codes besides MISSING."""
        return len(self.texts) + RARE if self.categorical else len(self.edges) + 1

    def codes(self, values: Sequence[Any]) -> np.ndarray:
        """Codes int64 [N]; a text that is no number is missing in a column of numbers."""
        if not self.categorical:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
            bins = np.searchsorted(np.array(self.edges), numbers, side="right")
            return np.where(np.isnan(numbers), MISSING, bins)
        own = {text: code for code, text in enumerate(self.texts)}
        texts = (None if _is_missing(value) else _text(value) for value in values)
        return np.array([MISSING if t is None else own.get(t, self._rare(t)) for t in texts], int)

    def _rare(self, text: str) -> int:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return len(self.texts) + int.from_bytes(digest, "big") % RARE


def _edges(numbers: np.ndarray) -> tuple[float, ...]:
    """Between BINS bins with about as many numbers each, or between all distinct ones."""
    distinct = np.unique(numbers)
    if len(distinct) > BINS:
        edges = np.quantile(numbers, np.arange(1, BINS) / BINS)
    else:
        edges = (distinct[1:] + distinct[:-1]) / 2
    return tuple(np.unique(edges).tolist())


def _is_missing(value: Any) -> bool:
    """None, NaN and NaT (the only values that differ from themselves), and empty texts."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float:
    """A number, or a date in seconds; NaN for what is neither."""
    if _is_missing(value):
        return float("nan")
    if isinstance(value, Mapping):  # as sources write dates, catalog.sources.plain
        return _seconds(value["date"])
    if isinstance(value, datetime.date):
        return _seconds(value.isoformat())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _seconds(str(value))
    return number if np.isfinite(number) else float("nan")


def _seconds(text: str) -> float:
    """The date that a text writes in ISO 8601, in seconds; NaN if it is none."""
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return float("nan")
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()


def _text(value: Any) -> str:
    """A value as text; whole numbers without a point, as other files may have them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        value = value["date"]
    return str(value).strip()


@dataclass(frozen=True)
class ColumnEncoder:
    """What makes codes of the M columns of products.

    encoder = ColumnEncoder.fit({"colour": ["red", None], "price": [9.5, 12.0]})
    encoder.encode({"price": [10.0]})  # the colour is missing: [[-1., 0.]]
    """

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, values: Mapping[str, Sequence[Any]]) -> "ColumnEncoder":
        """Fits on the values of labelled products, by name of the column."""
        return cls(tuple(Column.fit(name, column) for name, column in values.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes of each column."""
        return tuple(column.size for column in self.columns)

    @property
    def categorical(self) -> tuple[bool, ...]:
        """Whether the order of a column's codes says nothing."""
        return tuple(column.categorical for column in self.columns)

    def encode(self, values: Mapping[str, Sequence[Any]], rows: int | None = None) -> np.ndarray:
        """Codes float32 [N, M] of N products; a column that is not among `values` is missing, and
        with none of them N is `rows`."""
        count = rows if rows is not None else len(next(iter(values.values()), ()))
        codes = np.full((count, len(self.columns)), MISSING, dtype=np.float32)
        for position, column in enumerate(self.columns):
            if column.name in values:
                codes[:, position] = column.codes(values[column.name])
        return codes

    def save(self, folder: Path, made_from: dict[str, Any]) -> None:
        """Writes columns.json, atomically."""
        columns = [
            {"name": c.name, "kind": c.kind, "texts": c.texts, "edges": c.edges}
            for c in self.columns
        ]
        write_sealed(folder / FILE, {"schema": SCHEMA, "made_from": made_from, "columns": columns})

    @classmethod
    def open(cls, path: Path) -> "ColumnEncoder":
        """Reads what `save` wrote. Raises ArtifactError if the file is missing or damaged."""
        content = read_sealed(path, "features", SCHEMA)
        try:
            columns = tuple(
                Column(c["name"], c["kind"], tuple(c["texts"]), tuple(c["edges"]))
                for c in content["columns"]
            )
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                path, f"not the encoding of columns ({error})", "features"
            ) from error
        return cls(columns)


def giveaway(
    train: Sequence[Any], train_class: np.ndarray, held: Sequence[Any], held_class: np.ndarray
) -> float:
    """Share of held-out products whose category the column alone names: the commonest one among the
    products of train with the very same value."""
    votes: dict[str, Counter[int]] = {}
    for value, class_index in zip(train, train_class.tolist(), strict=True):
        if not _is_missing(value):
            votes.setdefault(_text(value), Counter())[class_index] += 1
    named = {text: counts.most_common(1)[0][0] for text, counts in votes.items()}
    answers = [None if _is_missing(value) else named.get(_text(value)) for value in held]
    right = [answer == c for answer, c in zip(answers, held_class.tolist(), strict=True)]
    return float(np.mean(right)) if right else 0.0
