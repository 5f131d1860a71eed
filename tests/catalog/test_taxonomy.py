"""Categories: order, names, lookups, and every malformed file a TaxonomyError that names the
place."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import TaxonomyError
from catalog.taxonomy import Category, Taxonomy
from tests.conftest import outside_data

HEADER = "category_id,category_level1,category_level2,category_level3\n"


def read(tmp_path: Path, text: str | bytes) -> Taxonomy:
    path = tmp_path / "category_names.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Taxonomy.from_csv(path)


def test_the_order_of_the_file_is_the_class_index(tmp_path: Path) -> None:
    taxonomy = read(tmp_path, HEADER + '30,A,"B, b",C\n10,A,D,OTHER\n20,É,F,OTHER \n')
    assert len(taxonomy) == 3
    assert taxonomy[0] == Category(30, "A", "B, b", "C")
    assert [c.name for c in taxonomy.categories] == ["C", "OTHER", "OTHER"]
    assert taxonomy.class_index(np.array([10, 20, 30, 5, 25, 99, -1])).tolist() == [
        1,
        2,
        0,
        -1,
        -1,
        -1,
        -1,
    ]
    assert taxonomy.families.tolist() == [[0, 0], [0, 1], [1, 2]]


def test_a_byte_order_mark_other_columns_and_windows_lines(tmp_path: Path) -> None:
    text = "extra,category_level3,category_id,category_level1,category_level2\r\nx,C,7,A,B\r\n\r\n"
    assert read(tmp_path, b"\xef\xbb\xbf" + text.encode()).categories == (
        Category(7, "A", "B", "C"),
    )


def test_a_category_without_names_is_called_by_the_next_wider_name_or_its_id() -> None:
    taxonomy = Taxonomy.from_ids([30, 10, 20, 10])
    assert taxonomy.category_ids.tolist() == [10, 20, 30]
    assert taxonomy[1].name == "20"
    assert Category(1, "A", "B", "").name == "B"
    assert Category(1, "A", "", "").name == "A"


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30, unique=True),
    st.integers(0, 2**63 - 1),
)
def test_ids_and_class_indices_are_inverse(ids: list[int], other: int) -> None:
    taxonomy = Taxonomy(Category(i, "a", "b", "c") for i in ids)
    assert taxonomy.class_index(np.array(ids)).tolist() == list(range(len(ids)))
    assert taxonomy.class_index(np.array([other])).tolist() == [
        ids.index(other) if other in ids else -1
    ]


def test_json_round_trip_and_fingerprint() -> None:
    categories = [Category(2, "a", "b", "<script>"), Category(1, "ä", "b", 'd"')]
    taxonomy = Taxonomy(categories)
    again = Taxonomy.from_json(json.loads(json.dumps(taxonomy.to_json())))
    assert again.categories == taxonomy.categories
    assert again.fingerprint == taxonomy.fingerprint
    changed = [categories[::-1], categories[:1], [categories[0], Category(1, "ä", "b", "d")]]
    assert len({taxonomy.fingerprint, *(Taxonomy(c).fingerprint for c in changed)}) == 4


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"schema": 2, "categories": []},
        {"schema": 1},
        {"schema": 1, "categories": [{"category_id": 1}]},
        {"schema": 1, "categories": [{"id": 1}]},
        {"schema": 1, "categories": 5},
        {"schema": 1, "categories": []},
    ],
)
def test_json_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(TaxonomyError):
        Taxonomy.from_json(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "column category_id is missing"),
        (
            "category_id,category_level1,category_level3\n1,a,c\n",
            "column category_level2 is missing",
        ),
        (HEADER, "no categories"),
        (HEADER + "1,a,b,c\n2,a,b\n", "line 3: found 3 fields, expected 4"),
        (HEADER + "1,a,b,c\nabc,a,b,c\n", "line 3: category_id is 'abc'"),
        (HEADER + ",a,b,c\n", "category_id is ''"),
        (HEADER + "-1,a,b,c\n", "category_id is '-1'"),
        (HEADER + "1.0,a,b,c\n", "category_id is '1.0'"),
        (HEADER + "1_000,a,b,c\n", "category_id is '1_000'"),
        (HEADER + "9" * 30 + ",a,b,c\n", "category_id is '999"),
        (HEADER + "1,a,b,c\n2,a,b,c\n1,d,e,f\n", "category_id 1 has two rows"),
        (HEADER + '1,"a,b,c\n2,a,b,c\n', "line 2: not CSV"),
        (HEADER + "1,a,b," + "c" * 200_000 + "\n", "line 2: not CSV"),
        (b"\xff\xfe\x00c", "the file is UTF-16"),
        (
            HEADER.encode() + b"1,\xe9,b,c\n",
            "line 2: byte 0xe9 is not UTF-8; the file may be Latin-1",
        ),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(TaxonomyError, match=r"category_names\.csv: ") as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(TaxonomyError, match=str(path)):
            Taxonomy.from_csv(path)


def test_cdiscounts_own_names() -> None:
    taxonomy = Taxonomy.from_csv(outside_data("cdiscount") / "category_names.csv")
    assert len(taxonomy) == 5270
    assert taxonomy.families.max(axis=0).tolist() == [
        48,
        485,
    ]  # 483 names, three of them under two level-1 names
    assert (
        len({c.level3 for c in taxonomy.categories}) == 5261
    )  # two more differ by a blank at the end
