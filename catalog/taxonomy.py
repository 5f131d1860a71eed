"""Categories: their ids, class indices and three level names.

The class index is the row of a category in category_names.csv, where neighbours are similar.
Level-3 names are not unique, so the id is the key everywhere.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from catalog.arrays import find_rows
from catalog.artifacts import atomic_path, fingerprint
from catalog.csv_file import CsvFile
from catalog.errors import TaxonomyError

COLUMNS = ("category_id", "category_level1", "category_level2", "category_level3")
SCHEMA = 1
_ID = re.compile("[0-9]{1,18}")  # fits an int64


@dataclass(frozen=True)
class Category:
    """One category: its id in the dump and its names from the widest level to the narrowest."""

    category_id: int
    level1: str
    level2: str
    level3: str

    @property
    def name(self) -> str:
        """The narrowest name that is not empty, or the id."""
        return self.level3 or self.level2 or self.level1 or str(self.category_id)


class Taxonomy:
    """All categories of a catalogue, in class-index order.

    Raises TaxonomyError on a repeated category id.
    """

    def __init__(self, categories: Iterable[Category], source: str = "taxonomy") -> None:
        self.categories = tuple(categories)
        self.category_ids = np.array([c.category_id for c in self.categories], dtype=np.int64)
        self._order = np.argsort(self.category_ids)
        ordered = self.category_ids[self._order]
        if (repeated := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            raise TaxonomyError(
                f"{source}: category_id {repeated[0]} has two rows, expected one per category"
            )
        if not self.categories:
            raise TaxonomyError(f"{source}: no categories, expected at least one row")

    @classmethod
    def from_csv(cls, path: str | Path) -> "Taxonomy":
        """Reads category_names.csv, as `catalog.csv_file` says. Raises TaxonomyError."""
        return cls(_rows(CsvFile(path, TaxonomyError)), str(path))

    @classmethod
    def from_ids(cls, category_ids: Iterable[int]) -> "Taxonomy":
        """Without names: the distinct ids in ascending order."""
        return cls(Category(int(i), "", "", "") for i in sorted({int(i) for i in category_ids}))

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "Taxonomy":
        """Of names or paths `A > B > C` alone: ids are dealt from 1 in their order, so that
        neighbours are similar. Below the third level names are joined."""
        paths = sorted({_path(name) for name in names})
        return cls(Category(number, *levels) for number, levels in enumerate(paths, 1))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Taxonomy":
        """Inverse of to_json."""
        try:
            if value["schema"] != SCHEMA:
                raise TaxonomyError(f"taxonomy of schema {value['schema']}, expected {SCHEMA}")
            return cls(Category(**row) for row in value["categories"])
        except (KeyError, TypeError) as error:
            raise TaxonomyError(
                f"not a taxonomy, expected `schema` and a list `categories`: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """The content of taxonomy.json."""
        return {"schema": SCHEMA, "categories": [vars(c) for c in self.categories]}

    def to_csv(self, path: str | Path) -> None:
        """Writes category_names.csv."""
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            rows = ((c.category_id, c.level1, c.level2, c.level3) for c in self.categories)
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])

    def __len__(self) -> int:
        return len(self.categories)

    def __getitem__(self, class_index: int) -> Category:
        return self.categories[class_index]

    def class_index(self, category_ids: np.ndarray) -> np.ndarray:
        """Class index (int32) of each category id; -1 if the taxonomy doesn't have it."""
        wanted = np.asarray(category_ids, dtype=np.int64)
        return find_rows(self.category_ids, wanted, self._order).astype(np.int32)

    def named(self, names: Iterable[str]) -> np.ndarray:
        """Class index (int32) of each name or path `A > B > C`: of the category with these levels,
        or else of the only one whose narrowest name this is; -1 if there is none."""
        by_path = {(c.level1, c.level2, c.level3): i for i, c in enumerate(self.categories)}
        by_name: dict[str, int] = {}
        for class_index, category in enumerate(self.categories):
            by_name[category.name] = -1 if category.name in by_name else class_index
        class_indices = [by_path.get(_path(name), by_name.get(name, -1)) for name in names]
        return np.array(class_indices, dtype=np.int32)

    @cached_property
    def families(self) -> np.ndarray:
        """Ancestors of each class, int32 [K, 2]: the numbers of its level-1 name and of its
        (level-1, level-2) pair, in order of appearance."""
        level1: dict[str, int] = {}
        level2: dict[tuple[str, str], int] = {}
        rows = [
            (
                level1.setdefault(c.level1, len(level1)),
                level2.setdefault((c.level1, c.level2), len(level2)),
            )
            for c in self.categories
        ]
        return np.array(rows, dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """Changes if an id, a name or the order changes."""
        return fingerprint(self.to_json())


def _path(name: str) -> tuple[str, str, str]:
    """The three levels of a name or path; those that it lacks are the middle ones, then the first,
    as the narrowest name always is level 3."""
    *above, narrowest = (level.strip() for level in name.split(">"))
    first, *middle = above or [""]
    return first, " > ".join(middle), narrowest


def _rows(names: CsvFile) -> Iterable[Category]:
    for category_id, *levels in names.rows(COLUMNS):
        if not _ID.fullmatch(category_id):
            expected = f"expected an integer from 0 to {10**18 - 1}"
            raise names.fault(f"category_id is {category_id!r}, {expected}")
        yield Category(int(category_id), *levels)
