"""Photos for other tools, and back."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from catalog.config import Caps, CatalogConfig
from catalog.errors import ShelfsortError
from catalog.splits import SPLITS
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from pipeline.cli import main
from pipeline.exchange.image_folder import write_bson, write_shards, write_tree
from tests.conftest import document
from tests.conftest import write_bson as write_dump


def fitted(store: Store, split: str) -> np.ndarray:
    table = store.images(split)
    return table.image_id[table.fit]


def test_a_tree_is_read_by_torchvision(small_store: Store, tmp_path: Path) -> None:
    counts = write_tree(small_store, tmp_path / "tree")
    assert counts == {
        split: len(fitted(small_store, split))
        for split in ("train", "reserve", "val_a", "val_b", "test")
    }
    read = ImageFolder(tmp_path / "tree" / "train")
    assert len(read) == counts["train"]
    assert [name.split("-")[1] for name in read.classes] == list(
        map(str, small_store.taxonomy.category_ids)
    )
    path = next((tmp_path / "tree" / "train").rglob("*.jpg"))
    product, position = map(int, path.stem.split("_"))
    assert path.read_bytes() == small_store.read([product * 16384 + position])[0]
    assert (
        Taxonomy.from_csv(tmp_path / "tree" / "category_names.csv").categories
        == small_store.taxonomy.categories
    )


@pytest.mark.parametrize("write", [write_tree, write_bson])
def test_what_was_unpacked_is_ingested_as_the_same_photos_of_the_same_products(
    small_store: Store, tmp_path: Path, write: Callable
) -> None:
    photos = sum(write(small_store, tmp_path / "out").values())
    dumps = list((tmp_path / "out").glob("*.bson")) or [tmp_path / "out"]
    summary = ingest_dump(
        tmp_path / "store.sqlite",
        dumps,
        tmp_path / "out" / "category_names.csv",
        CatalogConfig(),
        index_folder=tmp_path / "dumps",
        jobs=1,
    )
    assert summary.images == photos and summary.rejects == {}
    again = Store(tmp_path / "store.sqlite")
    assert again.taxonomy.categories == small_store.taxonomy.categories
    kept = np.unique(small_store.images().product_id[small_store.images().fit])
    query = "SELECT product_id, class_index, split FROM products ORDER BY 1"
    if write is write_bson:  # its files are no official splits
        query = query.replace(", split", "")
    found, before = again.connection.execute(query), small_store.connection.execute(query)
    assert found.fetchall() == [row for row in before if row[0] in set(kept.tolist())]


def test_what_the_cap_of_train_cut_is_unpacked_too_and_cut_again(tmp_path: Path) -> None:
    config = CatalogConfig(caps=Caps(train=10, extra=5))
    dump = write_dump(tmp_path / "a.bson", [document(i, 1 + i % 2) for i in range(80)])

    def ingest(folder: Path, source: Path) -> Store:
        store = folder / "store.sqlite"
        ingest_dump(store, [source], None, config, index_folder=folder / "dumps", jobs=1)
        return Store(store)

    first = ingest(tmp_path / "first", dump)
    counts = write_tree(first, tmp_path / "tree")
    assert counts == {s: len(first.images(s)) for s in SPLITS} and counts["extra"] == 10
    again = ingest(tmp_path / "again", tmp_path / "tree")
    for split in SPLITS:
        products = (store.images(split).product_id.tolist() for store in (first, again))
        assert next(products) == next(products), split


def test_shards_hold_every_photo_once_and_are_the_same_each_time(
    small_store: Store, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_shards(small_store, tmp_path / name, size=30)
    train = sorted((tmp_path / "a").glob("train-*.tar"))
    assert len(train) == -(-len(fitted(small_store, "train")) // 30)
    ids, classes = [], []
    for path in train:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        keys = dict.fromkeys(name.partition(".")[0] for name in members)
        assert list(members) == [
            f"{key}.{suffix}" for key in keys for suffix in ("jpg", "cls", "json")
        ]
        for key in keys:
            about = json.loads(members[f"{key}.json"])
            assert key == f"{about['product_id']}_{about['position']}"
            ids.append(about["product_id"] * 16384 + about["position"])
            classes.append(int(members[f"{key}.cls"]))
            assert members[f"{key}.jpg"] == small_store.read(ids[-1:])[0]
            assert small_store.taxonomy.category_ids[classes[-1]] == about["category_id"]
    assert sorted(ids) == sorted(fitted(small_store, "train").tolist())
    assert classes != sorted(classes), "shuffled"


def test_a_folder_that_exists_is_refused(small_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ShelfsortError, match="exists, expected the name of a new folder"):
        write_tree(small_store, tmp_path)


def test_unpack_says_how_many(
    small_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "store.sqlite").hardlink_to(small_store.path)
    assert main(["unpack", "--run", str(run), "--out", str(tmp_path / "shards"), "--shards"]) == 0
    assert f"train {len(fitted(small_store, 'train'))}, reserve" in capsys.readouterr().out
