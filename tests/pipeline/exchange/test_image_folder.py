"""Photos for other tools, and back."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from catalog.config import CatalogConfig
from catalog.errors import ShelfsortError
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from pipeline.cli import main
from pipeline.exchange.image_folder import pack_tree, write_shards, write_tree
from tests.conftest import jpeg
from tests.pipeline.tiny import documents


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


def test_packed_again_it_is_the_same_photos_of_the_same_products(
    small_store: Store, tmp_path: Path
) -> None:
    write_tree(small_store, tmp_path / "tree")
    products, photos = pack_tree(tmp_path / "tree", tmp_path / "dump")
    assert photos == len(list((tmp_path / "tree").rglob("*.jpg")))
    ingest_dump(
        tmp_path / "store.sqlite",
        [tmp_path / "dump" / "train.bson"],
        tmp_path / "dump" / "category_names.csv",
        CatalogConfig(),
        index_folder=tmp_path / "dumps",
        jobs=1,
    )
    again = Store(tmp_path / "store.sqlite")
    assert again.taxonomy.categories == small_store.taxonomy.categories
    kept = np.unique(small_store.images().product_id[small_store.images().fit])
    assert products == len(kept)
    query = "SELECT product_id, class_index FROM products ORDER BY 1"
    classes, before = (
        dict(again.connection.execute(query)),
        dict(small_store.connection.execute(query)),
    )
    assert classes == {product: before[product] for product in kept.tolist()}


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


def test_a_plain_tree_gets_numbers(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("shoes/red.jpg", "shoes/red_1.jpg", "bags/12.jpg", "caps/deep/x.jpg")
    ):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    assert main(["pack", str(tmp_path / "tree"), "--out", str(tmp_path / "dump")]) == 0
    taxonomy = Taxonomy.from_csv(tmp_path / "dump" / "category_names.csv")
    assert [(c.category_id, c.level3) for c in taxonomy.categories] == [
        (1, "bags"),
        (2, "deep"),
        (3, "shoes"),
    ]
    found = {
        d["category_id"]: (d["_id"], len(d["imgs"]))
        for d in documents(tmp_path / "dump" / "train.bson")
    }
    assert {category: count for category, (_, count) in found.items()} == {1: 1, 2: 1, 3: 2}
    assert all(0 <= product < 2**49 for product, _ in found.values())


def test_what_is_no_tree_is_refused(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "loose.jpg").write_bytes(jpeg(1))
    with pytest.raises(ShelfsortError, match="lies in no folder, expected one folder per category"):
        pack_tree(tmp_path, tmp_path / "dump")
    (tmp_path / "shoes").mkdir()
    (tmp_path / "loose.jpg").rename(tmp_path / "shoes" / "1.jpg")
    small_store.taxonomy.to_csv(tmp_path / "category_names.csv")
    with pytest.raises(ShelfsortError, match="folder shoes does not end in a category id"):
        pack_tree(tmp_path, tmp_path / "dump")
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
