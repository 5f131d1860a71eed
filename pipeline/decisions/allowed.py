"""Which categories a product may have: a brand's range, a department, what a supplier declared. A
table of pairs, read from a CSV; products that it doesn't name may have any.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.csv_file import CsvFile, whole_number
from catalog.errors import ShelfsortError
from catalog.image_table import MAX_PRODUCT_ID
from catalog.labels import ID_COLUMNS
from catalog.taxonomy import Taxonomy


@dataclass(frozen=True)
class Allowed:
    """Pairs of product id and class index as one number each, `pairs` int64 (sorted), the products
    that have any, int64 (sorted), and the number of categories."""

    pairs: np.ndarray
    products: np.ndarray
    classes: int

    @classmethod
    def read(cls, path: Path, taxonomy: Taxonomy) -> "Allowed":
        """From a CSV with the columns `_id` or `product_id`, and `category_id`: a row for each
        category that a product may have.

        Raises ShelfsortError if the file can't be read, or names an unknown category.
        """
        product_id, category_id = _columns(path)
        class_index = taxonomy.class_index(category_id).astype(np.int64)
        if (class_index < 0).any():
            unknown = category_id[int(np.argmin(class_index))]
            raise ShelfsortError(f"{path}: category_id {unknown} is not in the taxonomy")
        classes = len(taxonomy)
        return cls(np.unique(product_id * classes + class_index), np.unique(product_id), classes)

    def mask(self, product_id: np.ndarray, class_index: np.ndarray) -> np.ndarray:
        """Whether products [N] may have categories [N, T], bool [N, T]."""
        pairs = product_id[:, None] * self.classes + class_index
        return np.isin(pairs, self.pairs) | ~np.isin(product_id, self.products)[:, None]


def _columns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Product ids and category ids, int64 each."""
    file = CsvFile(path)
    rows: list[tuple[int, int]] = []
    for product, category in file.rows([ID_COLUMNS, "category_id"]):
        try:
            rows.append((whole_number(product, MAX_PRODUCT_ID), whole_number(category, 2**63 - 1)))
        except ValueError as error:
            raise file.fault(f"as product id and category_id: {error}") from error
    found = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
