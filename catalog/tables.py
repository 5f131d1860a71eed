"""Parquet files, whole or absent. Not in `catalog.artifacts`, because pyarrow takes a moment to
load."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

from catalog.artifacts import atomic_path


def write_table(path: str | Path, table: pyarrow.Table) -> None:
    """Writes a Parquet file, atomically. Raises ShelfsortError if the system refuses."""
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
