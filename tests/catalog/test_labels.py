"""Labels beside a dump, and what an analyst's corrections do to a store."""

from pathlib import Path

import pytest

from catalog.config import CatalogConfig
from catalog.errors import ShelfsortError
from catalog.ingest import ingest
from catalog.labels import read_labels
from catalog.store import Store
from tests.conftest import SmallDump


@pytest.mark.parametrize("header", ["_id,category_id", "product_id,category_id", "category_id,product_id,remark"])
def test_reads_either_name_of_the_id(tmp_path: Path, header: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(header + ("\n20,7,x\n" if header.startswith("cat") else "\n7,20\n"))
    assert read_labels(path) == {7: 20}


@pytest.mark.parametrize(("text", "found"), [("a,b\n1,2\n", "line 1"), ("_id,category_id\n1,2\n3,x\n", "line 3")])
def test_names_the_line_that_is_wrong(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ShelfsortError, match=found):
        read_labels(path)


def store_of(folder: Path, dump: SmallDump, corrections: dict[int, int] | None = None) -> Store:
    path = folder / "store.sqlite"
    ingest(path, [dump.path], dump.categories, CatalogConfig(), index_folder=folder, jobs=1, corrections=corrections)
    return Store(path)


def labels_and_splits(store: Store) -> dict[int, tuple[int, str]]:
    query = "SELECT product_id, category_id, split FROM products JOIN categories USING (class_index)"
    return {product: (category, split) for product, category, split in store.connection.execute(query)}


def test_corrections_overrule_the_dump_and_the_store(tmp_path: Path, small_dump: SmallDump) -> None:
    before = labels_and_splits(store_of(tmp_path / "old", small_dump))
    product = min(before)
    other = next(category for category, _ in before.values() if category != before[product][0])
    old = store_of(tmp_path / "old", small_dump, {product: other, 10**9: other})
    after = labels_and_splits(old)
    assert after == before | {product: (other, before[product][1])}  # its split stays, and nothing else moves
    query = "SELECT DISTINCT category_id FROM images JOIN categories USING (class_index) WHERE product_id = ?"
    assert old.connection.execute(query, (product,)).fetchall() == [(other,)]
    assert labels_and_splits(store_of(tmp_path / "new", small_dump, {product: other}))[product][0] == other
    again = labels_and_splits(store_of(tmp_path / "old", small_dump))
    assert again == after  # the dump itself, ingested again, brings no wrong label back


def test_a_correction_to_an_unknown_category_is_refused(tmp_path: Path, small_dump: SmallDump) -> None:
    with pytest.raises(ShelfsortError, match="category_id 5 is not in the taxonomy"):
        store_of(tmp_path, small_dump, {1: 5})
