"""Columns of products from a file beside the dump."""

import datetime
from pathlib import Path

import pandas
import pytest

from catalog.errors import ShelfsortError
from catalog.sources.column_table import ColumnTable

CSV = "_id,colour,price,since\n7,red,1.5,2026-05-31\n9,,2,\n"


def written(path: Path, text: str = CSV) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet"])
def test_has_the_values_of_products_in_any_order(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "a.csv", CSV.replace(",", ";") if kind == "semicolons" else CSV)
    if kind == "parquet":
        frame = pandas.DataFrame({"_id": [7, 9], "colour": ["red", None], "price": [1.5, 2.0]})
        frame["since"] = [datetime.date(2026, 5, 31), None]
        path = str(tmp_path / "a.parquet")
        frame.to_parquet(path)
    table = ColumnTable.read(path)
    assert table.known([7, 8, "9"]) == 2
    assert table.values([9, 7, 8]) == {
        "colour": [None, "red", None],
        "price": [2.0, 1.5, None],
        "since": [None, datetime.date(2026, 5, 31), None],
    }
    assert ColumnTable.read(path, ["price"]).values([7]) == {"price": [1.5]}


def test_keys_keep_their_zeros(tmp_path: Path) -> None:
    table = ColumnTable.read(written(tmp_path / "a.csv", "sku,price\n007,1\n7,2\n"))
    assert table.values(["7", "007"]) == {"price": [2, 1]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("colour,price\nred,1\n", "expected a column product_id or _id or id or sku or name"),
        ("_id,price,price\n1,2,3\n", "each name once, found _id, price, price"),
        ("_id,price\n1,2\n1,3\n", "_id 1 occurs twice, expected it once"),
        ("_id,size\n1,2\n", "expected a column price, found _id, size"),
        ("_id,price\n1,2,3\n", "not readable as a table"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ShelfsortError, match=problem):
        ColumnTable.read(written(tmp_path / "a.csv", text), ["price"])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShelfsortError, match=r"expected a table of columns, \.csv"):
        ColumnTable.read(written(tmp_path / "a.xlsx"))
    with pytest.raises(ShelfsortError, match=r"none\.parquet: can't be read"):
        ColumnTable.read(str(tmp_path / "none.parquet"))
