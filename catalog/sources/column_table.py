"""Columns of products from a file beside the dump: CSV, TSV, with semicolons, or Parquet; one row
per product, by its key. Nothing is put on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from catalog.errors import ShelfsortError
from catalog.files import ACCESS, open_file
from catalog.sources.keys import Key
from catalog.sources.table import TABLES, USUAL, csv_header, read_csv


@dataclass(frozen=True)
class ColumnTable:
    """The columns of a file, without that of the keys, and the row of each key.

    table = ColumnTable.read("attributes.csv", ["colour"])
    table.values(["4711", "4712"])  # {"colour": ["red", None]}
    """

    path: str
    content: pyarrow.Table
    row_of: dict[str, int]

    @classmethod
    def read(cls, path: str, names: Sequence[str] = ()) -> "ColumnTable":
        """Reads the columns `names`, or all of them if none is named. Raises ShelfsortError if the
        file can't be read, lacks a column, or has a product twice."""
        if not path.lower().endswith(TABLES):
            raise ShelfsortError(f"{path}: expected a table of columns, {', '.join(TABLES)}")
        try:
            content, key = _open(path)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ShelfsortError(f"{path}: not readable as a table: {reason}") from error
        if missing := [name for name in names if name not in content.column_names]:
            columns = ", ".join(content.column_names)
            raise ShelfsortError(f"{path}: expected a column {missing[0]}, found {columns}")
        row_of: dict[str, int] = {}
        for row, value in enumerate(content[key].to_pylist()):
            text = str(value).strip()
            if row_of.setdefault(text, row) != row:
                raise ShelfsortError(f"{path}: {key} {text} occurs twice, expected it once")
        return cls(path, content.select(names) if names else content.drop_columns(key), row_of)

    def values(self, keys: Sequence[Key]) -> dict[str, list[Any]]:
        """Each column's values of some products; None of those that the table doesn't have."""
        rows = [self.row_of.get(str(key)) for key in keys]
        return {
            name: self.content[name].take(pyarrow.array(rows, pyarrow.int64())).to_pylist()
            for name in self.content.column_names
        }

    def known(self, keys: Sequence[Key]) -> int:
        """How many of some products the table has."""
        return sum(str(key) in self.row_of for key in keys)


def _open(path: str) -> tuple[pyarrow.Table, str]:
    """The content, and the name of the column of keys, which are read as text."""
    if path.lower().endswith(".parquet"):
        with open_file(path) as stream:
            content = pyarrow.parquet.read_table(stream)
        return content, _key(path, content.column_names)
    names, separator = csv_header(path, ACCESS)
    key = _key(path, names)
    return read_csv(path, separator, [key], ACCESS), key


def _key(path: str, names: Sequence[str]) -> str:
    usual = USUAL["product"]
    key = next((name for name in usual if name in names), None)
    if key is None or len(set(names)) < len(names):
        expected = f"a column {' or '.join(usual)}, and each name once"
        raise ShelfsortError(f"{path}: expected {expected}, found {', '.join(names)}")
    return key
