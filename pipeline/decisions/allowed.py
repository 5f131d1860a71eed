"""Which categories a product may have: a brand's range, a department, what a supplier declared. A
table of pairs, read from a CSV; products that it doesn't name may have any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.csv_file import CsvFile, whole_number
from catalog.errors import ShelfsortError
from catalog.labels import ID_COLUMNS, read_key
from catalog.taxonomy import Taxonomy


@dataclass(frozen=True)
class Allowed:
    """What products may have: `row_of` numbers the keys of those that are named, as text; `pairs`
    int64 (sorted) has each pair of a product's number and a class index as one number, among so
    many `classes`."""

    row_of: Mapping[str, int]
    pairs: np.ndarray
    classes: int

    @classmethod
    def read(cls, path: Path, taxonomy: Taxonomy) -> "Allowed":
        """From a CSV with the columns `_id` or `product_id`, and `category_id`: a row for each
        category that a product may have.

        Raises ShelfsortError if the file can't be read, or names an unknown category.
        """
        keys, category_id = _columns(path)
        class_index = taxonomy.class_index(category_id).astype(np.int64)
        if (class_index < 0).any():
            unknown = category_id[int(np.argmin(class_index))]
            raise ShelfsortError(f"{path}: category_id {unknown} is not in the taxonomy")
        row_of = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        rows = np.array([row_of[key] for key in keys], dtype=np.int64)
        return cls(row_of, np.unique(rows * len(taxonomy) + class_index), len(taxonomy))

    def mask(self, keys: Sequence[int | str], class_index: np.ndarray) -> np.ndarray:
        """Whether products, by the shop's keys [N], may have categories [N, T], bool [N, T]."""
        rows = np.array([self.row_of.get(str(key), -1) for key in keys], dtype=np.int64)
        pairs = rows[:, None] * self.classes + class_index
        return np.isin(pairs, self.pairs) | (rows < 0)[:, None]


def _columns(path: Path) -> tuple[list[str], np.ndarray]:
    """Keys as text, and category ids int64."""
    file = CsvFile(path)
    rows: list[tuple[str, int]] = []
    for product, category in file.rows([ID_COLUMNS, "category_id"]):
        try:
            rows.append((str(read_key(product)), whole_number(category, 2**63 - 1)))
        except ValueError as error:
            raise file.fault(f"as product id and category_id: {error}") from error
    return [key for key, _ in rows], np.array([c for _, c in rows], dtype=np.int64)
