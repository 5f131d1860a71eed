"""Accuracy of parts of the test split."""

from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.errors import ConfigError
from catalog.store.reader import Store
from pipeline.report.slices import read_columns, slices


def items(right: np.ndarray) -> pandas.DataFrame:
    n = len(right)
    return pandas.DataFrame(
        {
            "product_id": np.arange(n),
            "group": np.arange(n),
            "class_index": 1,
            "two_stage_class": np.where(right, 1, 0),
            "weight": 1.0,
        }
    )


def test_a_bad_shop_and_small_photos_stand_out():
    rng = np.random.default_rng(0)
    shop = np.array(["good", "bad"] * 200)
    right = rng.random(400) < np.where(shop == "good", 0.95, 0.4)
    columns = pandas.DataFrame({"shop": shop, "noise": rng.random(400), "one": 7.0})
    columns.loc[:9, "shop"] = None
    found = {part["column"]: part["slices"] for part in slices(items(right), columns)}
    assert set(found) == {"shop", "noise"}  # a column of one value says nothing
    shops = {row["name"]: row for row in found["shop"]}
    assert {name: row["verdict"] for name, row in shops.items() if name != "not known"} == {
        "good": "better",
        "bad": "worse",
    }
    assert shops["not known"]["accuracy"]["n"] == 10
    known = pandas.Series(right)[columns["shop"] == "bad"]
    assert shops["bad"]["accuracy"]["value"] == pytest.approx(known.mean())
    assert len(found["noise"]) == 4
    assert sum(row["accuracy"]["n"] for row in found["noise"]) == 400


def test_columns_of_a_file_come_by_the_shops_keys(small_store: Store, tmp_path: Path):
    ids = np.unique(small_store.images("test").product_id)[:3].tolist()
    path = tmp_path / "columns.csv"
    rows = [f"{ids[0]},1.5,a", f"{ids[1]},2,b", "999999999,3,c"]
    path.write_text("product_id,price,shop\n" + "\n".join(rows) + "\n")
    found = read_columns(path, small_store)
    assert found["price"].to_dict() == {ids[0]: 1.5, ids[1]: 2.0}
    assert found["shop"].to_dict() == {ids[0]: "a", ids[1]: "b"}
    path.write_text("product_id\n1\n")
    with pytest.raises(ConfigError, match="expected a column beside product_id"):
        read_columns(path, small_store)
