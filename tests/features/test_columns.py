"""Codes of catalogue columns: what they tell apart, what is missing, and their file."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ArtifactError
from features.columns import BINS, LEAST, MISSING, RARE, Column, ColumnEncoder, giveaway

NOTHING = (None, float("nan"), "", "  ")


def test_frequent_texts_have_a_code_of_their_own_and_rare_ones_share() -> None:
    values = ["red"] * 9 + ["blue"] * LEAST + [f"rare {i}" for i in range(400)]
    column = Column.fit("colour", values)
    assert (column.kind, column.texts, column.size) == ("text", ("red", "blue"), 2 + RARE)
    codes = column.codes([" red", "blue", *NOTHING])
    assert codes.tolist() == [0, 1, *[MISSING] * 4]
    rare = column.codes([f"rare {i}" for i in range(400)])
    assert set(rare.tolist()) == set(range(2, column.size))
    assert column.codes(["never seen"] * 2).tolist() == [column.codes(["never seen"])[0]] * 2


def test_numbers_fall_into_bins_with_about_as_many_each() -> None:
    rng = np.random.default_rng(0)
    values = [*rng.lognormal(size=3200).tolist(), *NOTHING]
    column = Column.fit("price", values)
    codes = column.codes(values)
    assert (column.kind, column.categorical, column.size) == ("number", False, BINS)
    assert np.bincount(codes[:3200]).tolist() == pytest.approx([100] * BINS, abs=2)
    assert codes[3200:].tolist() == [MISSING] * 4
    order = np.argsort(values[:3200])
    assert (np.diff(codes[order]) >= 0).all()
    assert column.codes([-1e9, 1e9, "2.5", "2,5", float("inf")]).tolist() == [
        *(0, BINS - 1),
        *(column.codes([2.5])[0], MISSING, MISSING),
    ]


def test_few_numbers_and_dates_have_a_bin_each() -> None:
    assert Column.fit("year", [2011, 2015, None, 2012]).codes(
        [2011, 2012, 2015, "2015"]
    ).tolist() == [*(0, 1, 2, 2)]
    day = datetime.date(2026, 5, 31)
    moment = datetime.datetime(2026, 5, 31, 12, tzinfo=datetime.UTC)
    column = Column.fit("since", [day, moment, None])
    assert column.codes([{"date": "2026-05-31"}, {"date": moment.isoformat()}]).tolist() == [0, 1]
    assert (column.kind, column.codes([day, moment, "2026-05-31", None]).tolist()) == (
        "date",
        [0, 1, 0, MISSING],
    )


def test_a_column_of_numbers_and_texts_is_one_of_texts() -> None:
    column = Column.fit("size", [42.0, 42, "42", "42", "XL"])
    assert column.texts == ("42",) and column.codes([42.0, "42"]).tolist() == [0, 0]


def test_an_encoder_survives_its_file(tmp_path: Path) -> None:
    values = {"colour": ["red"] * 5 + [None], "price": [1.5, 2.5, 3.5, 4.5, 5.5, None]}
    encoder = ColumnEncoder.fit(values)
    encoder.save(tmp_path, {"store": "s"})
    again = ColumnEncoder.open(tmp_path / "columns.json")
    assert again == encoder and again.sizes == (1 + RARE, 5)
    np.testing.assert_array_equal(again.encode(values), encoder.encode(values))
    assert again.encode({"price": [3.5]}).tolist() == [[MISSING, 2]]
    assert again.encode({}, 2).tolist() == [[MISSING, MISSING]] * 2


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_an_error(tmp_path: Path, damage: str) -> None:
    ColumnEncoder.fit({"price": [1.0, 2.0]}).save(tmp_path, {})
    path = tmp_path / "columns.json"
    if damage == "gone":
        path.unlink()
    else:
        text = path.read_text()
        path.write_text(text[:-9] if damage == "cut" else text.replace("1.5", "1.6"))
    with pytest.raises(ArtifactError, match=r"columns\.json"):
        ColumnEncoder.open(path)


def test_codes_fit_in_the_features_file() -> None:
    """float16 holds whole numbers up to 2,048 exactly."""
    column = Column.fit("brand", [f"brand {i}" for i in range(3000) for _ in range(LEAST)])
    assert column.size < 2048
    codes = column.codes([f"brand {i}" for i in range(3000)])
    np.testing.assert_array_equal(codes.astype(np.float16).astype(int), codes)


def test_what_gives_the_category_away() -> None:
    classes = np.arange(100) % 5
    names = [f"category {c}" for c in classes]
    assert giveaway(names, classes, [*names[:99], None], classes) == 0.99
    assert giveaway(list(range(100)), classes, list(range(100, 200)), classes) == 0
    noise = np.random.default_rng(0).integers(3, size=100).tolist()
    assert giveaway(noise, classes, noise, classes) < 0.5
    assert giveaway([], classes[:0], [], classes[:0]) == 0


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    ColumnEncoder.fit({"c": ["x"] * 5}).save(tmp_path, {"store": "s"})
    content = json.loads((tmp_path / "columns.json").read_text())
    assert content["columns"] == [{"name": "c", "kind": "text", "texts": ["x"], "edges": []}]
