"""Parquet files are whole or absent."""

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from catalog.errors import ShelfsortError
from catalog.tables import write_table

TABLE = pyarrow.table({"a": [1, 2], "b": ["x", None]})


def test_a_table_round_trip(tmp_path: Path) -> None:
    write_table(tmp_path / "folder" / "a.parquet", TABLE)
    assert pyarrow.parquet.read_table(tmp_path / "folder" / "a.parquet").equals(TABLE)
    assert os.listdir(tmp_path / "folder") == ["a.parquet"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShelfsortError, match=r"file/a\.parquet: can't be written"):
        write_table(tmp_path / "file" / "a.parquet", TABLE)
