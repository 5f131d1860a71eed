"""What sources say of a product's category."""

import numpy as np
import pytest

from catalog.sources.categories import MALFORMED, NONE, CategoryColumn, resolved, whole_number
from catalog.taxonomy import Category, Taxonomy


def read(*values: object) -> tuple[list[int], tuple[str, ...] | None]:
    column = CategoryColumn()
    ids, names = column.finish(np.array([column.code(value) for value in values], dtype=np.int64))
    return ids.tolist(), names


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), (7.0, 7), (7.5, None), (True, None), ("7", None), (2.0**60, None), (-3.0, -3)],
)
def test_whole_numbers(value: object, expected: int | None) -> None:
    assert whole_number(value) == expected


def test_ids_as_numbers_and_texts() -> None:
    assert read(3, "04", 5.0, None, "") == ([3, 4, 5, NONE, NONE], None)


def test_what_is_no_category() -> None:
    assert read(3, -4, 1.5, True, [1], {"a": 1}) == ([3, *[MALFORMED] * 5], None)


def test_a_name_among_ids_is_malformed_and_names_alone_are_places() -> None:
    assert read("Shoes", 3) == ([MALFORMED, 3], None)
    assert read("B", "A", None, "B") == ([0, 1, NONE, 0], ("B", "A"))
    assert read("A>B", " A  >  B ", "A > B") == ([0, 0, 0], ("A > B",))


def test_a_column_without_any_category() -> None:
    assert read(None, "") == ([NONE, NONE], None)


def test_names_become_ids_of_a_taxonomy() -> None:
    taxonomy = Taxonomy([Category(10, "Shoes", "", "Boots"), Category(20, "Hats", "", "Caps")])
    ids, names = read("Hats > Caps", "Boots", None, "Gloves")
    found = resolved(np.array(ids), names, taxonomy)
    assert found.tolist() == [20, 10, NONE, MALFORMED]
    assert resolved(np.array([20, 99, NONE]), None, taxonomy).tolist() == [20, 99, NONE]
