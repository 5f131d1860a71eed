"""Keys of a shop and the numbers that stand for them."""

import numpy as np
import pytest

from catalog.image_table import MAX_PRODUCT_ID
from catalog.sources import keys
from catalog.sources.keys import Keys, as_keys, deal_numbers


def test_small_integers_are_their_own_numbers() -> None:
    found = Keys.of([3, 0, MAX_PRODUCT_ID])
    assert found.texts is None and found.type == "int"
    assert found.numbers.tolist() == [3, 0, MAX_PRODUCT_ID] == list(found)


def test_large_and_negative_integers_stay_integers_with_numbers_of_their_own() -> None:
    shop = [5, -1, MAX_PRODUCT_ID + 1, 2**63 - 1]
    found = Keys.of(shop)
    assert found.type == "int" and list(found) == shop and all(type(k) is int for k in found)
    assert found.numbers[0] == 5 and len(set(found.numbers.tolist())) == 4
    assert found.numbers.min() >= 0 and found.numbers.max() <= MAX_PRODUCT_ID


def test_texts_among_integers_make_all_texts() -> None:
    found = Keys.of([7, "x", -2])
    assert found.type == "text" and list(found) == ["7", "x", "-2"]


def test_a_key_has_the_same_number_whatever_comes_with_it() -> None:
    alone, among = Keys.of(["b"]), Keys.of(["a", "b", "c"])
    assert alone.numbers[0] == among.numbers[1]
    assert Keys.of(["7"]).numbers[0] == Keys.of([7, "x"]).numbers[0]


def test_slices_and_equal_keys() -> None:
    found = Keys.of(["a", "b", "a"])
    assert found.numbers[0] == found.numbers[2] != found.numbers[1]
    assert list(found.slice(slice(1, 3))) == ["b", "a"] and len(found.slice(slice(1, 3))) == 2


def test_keys_in_a_catalogue_of_another_type() -> None:
    integers, texts = Keys.of([1, 2]), Keys.of(["a", "1"])
    assert integers.of_type("int", {}) is integers and texts.of_type("text", {}) is texts
    as_text = integers.of_type("text", {"2": 77})
    assert list(as_text) == ["1", "2"] and as_text.numbers[1] == 77 and as_text.type == "text"
    assert texts.of_type("text", {"a": 5}).numbers[0] == 5
    with pytest.raises(ValueError, match="texts among integers"):
        texts.of_type("int", {})


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "20"], [1, 20]),
        (["1", "020"], ["1", "020"]),
        (["1", "-2"], ["1", "-2"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["1", "²"], ["1", "²"]),
        (["9" * 18], [int("9" * 18)]),
        (["9" * 19], ["9" * 19]),
        (["0"], [0]),
        ([], []),
    ],
)
def test_texts_are_integers_if_all_are_written_as_one_is(texts: list, expected: list) -> None:
    assert list(as_keys(texts)) == expected


def test_keys_of_one_hash_get_numbers_of_their_own_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "_hash", lambda text, salt: 100 * salt + len(text))
    shop = ["aa", "b", "cc", "dd"]
    dealt = dict(zip(shop, deal_numbers(shop, {}).tolist(), strict=True))
    assert dealt == {"b": 1, "aa": 2, "cc": 102, "dd": 202}
    again = deal_numbers(shop[::-1], {}).tolist()
    assert dict(zip(shop[::-1], again, strict=True)) == dealt
    later = deal_numbers(["ee", "cc"], dealt).tolist()
    assert later == [302, 102]  # the catalogue's keep theirs


def test_numbers_are_dealt_to_every_key_of_many() -> None:
    shop = [f"k{i % 700}" for i in range(2_000)]
    numbers = deal_numbers(shop, {})
    assert len(np.unique(numbers)) == 700
