"""Labels beside a dump, and what an analyst's corrections do to a store."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from catalog.config import CatalogConfig
from catalog.errors import ShelfsortError
from catalog.labels import read_labels
from catalog.sources.bson_reader import documents, expand
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from tests.conftest import SmallDump, document, write_bson


@pytest.mark.parametrize(
    "header", ["_id,category_id", "product_id,category_id", "category_id,product_id,remark"]
)
def test_reads_either_name_of_the_id(tmp_path: Path, header: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(header + ("\n20,7,x\n" if header.startswith("cat") else "\n7,20\n"))
    assert read_labels(path) == {7: 20}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b\n1,2\n", "line 1"),
        ("_id,category_id\n1,2\n3,x\n", "line 3"),
        ("_id,category_id\n4.00638E+12,2\n", "line 2: .*a spreadsheet has rounded it"),
        ("_id,category_id\n1.0,2\n", "line 2: .*expected an integer, found '1.0'"),
        (f"_id,category_id\n1,2\n3,{2**63}\n", f"line 3: .* {2**63} is not from 0 to {2**63 - 1}"),
    ],
)
def test_names_the_line_that_is_wrong(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ShelfsortError, match=found):
        read_labels(path)


def test_keys_are_integers_or_text(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"_id,category_id\nAB-7,1\n007,2\n{2**62},3\n-5,4\n")
    assert read_labels(path) == {"AB-7": 1, "007": 2, 2**62: 3, -5: 4}


def store_of(
    folder: Path,
    dump: SmallDump,
    corrections: Mapping[int, int] = {},
    path: Path | None = None,
) -> Store:
    """Of the whole dump, or of another one at `path`."""
    store, dumps = folder / "store.sqlite", [path or dump.path]
    ingest_dump(
        store,
        dumps,
        dump.categories,
        CatalogConfig(),
        index_folder=folder,
        jobs=1,
        corrections=corrections,
    )
    return Store(store)


def labels_and_splits(store: Store) -> dict[int, tuple[int, str]]:
    query = (
        "SELECT product_id, category_id, split FROM products JOIN categories USING (class_index)"
    )
    return {
        product: (category, split) for product, category, split in store.connection.execute(query)
    }


def test_corrections_overrule_the_dump_and_the_store(tmp_path: Path, small_dump: SmallDump) -> None:
    before = labels_and_splits(store_of(tmp_path / "old", small_dump))
    product = min(before)
    other = next(category for category, _ in before.values() if category != before[product][0])
    old = store_of(tmp_path / "old", small_dump, {product: other, 10**9: other})
    after = labels_and_splits(old)
    assert after == before | {
        product: (other, before[product][1])
    }  # its split stays, and nothing else moves
    query = """SELECT DISTINCT category_id FROM images JOIN categories USING (class_index)
               WHERE product_id = ?"""
    assert old.connection.execute(query, (product,)).fetchall() == [(other,)]
    assert (
        labels_and_splits(store_of(tmp_path / "new", small_dump, {product: other}))[product][0]
        == other
    )
    again = labels_and_splits(store_of(tmp_path / "old", small_dump))
    assert again == after  # the dump itself, ingested again, brings no wrong label back


def test_corrections_are_heard_whatever_was_ingested_before(
    tmp_path: Path, small_dump: SmallDump
) -> None:
    before = labels_and_splits(store_of(tmp_path, small_dump))
    product, others = min(before), sorted({category for category, _ in before.values()})
    fingerprints = {}
    for category in (
        others[0],
        others[1],
        others[0],
        before[product][0],
    ):  # A, B, A again, and what the dump itself says
        store = store_of(tmp_path, small_dump, {product: category})
        assert labels_and_splits(store) == before | {product: (category, before[product][1])}
        assert store.fingerprint == fingerprints.setdefault(category, store.fingerprint)
    assert len(set(fingerprints.values())) == len(fingerprints) > 1


def test_corrections_of_one_dump_come_with_another(tmp_path: Path, small_dump: SmallDump) -> None:
    first, second = tmp_path / "train1.bson", tmp_path / "train2.bson"
    parts = [found.data for found in documents(expand([small_dump.path])[0])]
    write_bson(first, parts[:60])
    write_bson(second, parts[60:])
    product, (category, split) = min(
        labels_and_splits(store_of(tmp_path, small_dump, path=first)).items()
    )
    before = labels_and_splits(store_of(tmp_path, small_dump, path=second))
    other = next(found for found, _ in before.values() if found != category)
    store = store_of(tmp_path, small_dump, {product: other}, second)
    assert labels_and_splits(store) == before | {product: (other, split)}
    assert store_of(tmp_path, small_dump, {product: other}, second).fingerprint == store.fingerprint


def test_a_corrected_product_is_no_reject_any_more(tmp_path: Path) -> None:
    names, dump = (
        tmp_path / "names.csv",
        write_bson(tmp_path / "a.bson", [document(1, 5), document(2, 99), document(3, 98)]),
    )
    names.write_text("category_id,category_level1,category_level2,category_level3\n5,a,b,c\n")
    counts = []
    for corrections in ({}, {2: 5}, {2: 5, 3: 5}):
        found = ingest_dump(
            tmp_path / "s",
            [dump],
            names,
            CatalogConfig(),
            index_folder=tmp_path,
            jobs=1,
            corrections=corrections,
        )
        counts.append((found.products, found.rejects))
    assert counts == [(1, {"unknown_category": 2}), (2, {"unknown_category": 1}), (3, {})]


def test_a_correction_to_an_unknown_category_is_refused(
    tmp_path: Path, small_dump: SmallDump
) -> None:
    for _ in "new", "known":
        with pytest.raises(ShelfsortError, match="product 1: category_id 5 is not in the taxonomy"):
            store_of(tmp_path, small_dump, {1: 5})
        store_of(tmp_path, small_dump)
