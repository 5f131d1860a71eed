"""The kept list of a folder, table or archive: the same as a fresh one, and current or not used."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest

import catalog.sources.photo_index
from catalog.arrays import read_npz, write_npz
from catalog.config import CatalogConfig
from catalog.sources.photo_list import PhotoList
from catalog.sources.source import ProductSource, open_source
from tests.conftest import jpeg

CONFIG = CatalogConfig(text="title", columns=("price", "since"))


def folder(root: Path) -> Path:
    for split in ("train", "test"):
        for i in range(6):
            place = root / "p" / split / "AB"[i % 2] / f"ö{i}_{split}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(jpeg(i))
    return root / "p"


def rows(root: Path) -> pandas.DataFrame:
    """Photos of six products, of which one is in two categories."""
    paths = sorted(path.relative_to(root) for path in folder(root).rglob("*.jpg"))
    return pandas.DataFrame(
        {
            "id": [f"k{i // 2}" for i in range(len(paths))],
            "image": list(map(str, paths)),
            "category": ["C", *(["Ä > X", "B"][i // 2 % 2] for i in range(1, len(paths)))],
            "title": [f" t{i} " for i in range(len(paths))],
            "price": [None, 2.5, 3.0] * (len(paths) // 3),
            "since": ["2024-05-06"] * len(paths),
            "group": ["g", None] * (len(paths) // 2),
        }
    )


def csv(root: Path) -> Path:
    rows(root).to_csv(root / "t.csv", index=False)
    return root / "t.csv"


def cells(root: Path) -> Path:
    table = rows(root)
    table["image"] = [{"bytes": jpeg(i), "path": None} for i in range(len(table))]
    table.to_parquet(root / "t.parquet")
    return root / "t.parquet"


def shards(root: Path) -> Path:
    add_shard(root, 0)
    add_shard(root, 1)
    return root / "s-*.tar"


def add_shard(root: Path, number: int) -> None:
    names = {f"{number}.jpg": jpeg(number), f"{number}.json": json.dumps(about(number)).encode()}
    with tarfile.open(root / f"s-{number}.tar", "w") as archive:
        for name, data in names.items():
            (root / name).write_bytes(data)
            archive.add(root / name, name)
            (root / name).unlink()


def about(number: int) -> dict:
    return {"product_id": f"p{number}", "category": "A", "title": "t", "price": number}


def content(source: ProductSource) -> list:
    """All that a source says."""
    return [
        [list(source.keys), source.keys.type, source.product_id.tolist(), source.fingerprint],
        [source.category_id.tolist(), source.category_names, source.n_images.tolist()],
        [source.digest.tolist(), source.roots, source.files, source.rejects],
        *(
            [str(source.read(row)), source.text(row), source.columns(row, CONFIG.columns)]
            + [
                source.split(row),
                source.group(row),
                source.location(row, 0),
                source.location(row, -1),
            ]
            + [source.photo_name(row, 0)]
            for row in range(len(source))
        ),
    ]


KINDS = [folder, csv, cells, shards]


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever a source is listed."""
    found: list[str] = []
    save = catalog.sources.photo_index.save

    def noted(path: Path, photos: PhotoList, settings: dict) -> None:
        found.append(photos.content)
        save(path, photos, settings)

    monkeypatch.setattr(catalog.sources.photo_index, "save", noted)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_start_says_the_same(
    tmp_path: Path, kind: Callable[[Path], Path], listings: list[str]
) -> None:
    source = kind(tmp_path)
    first, second = (open_source([source], tmp_path / "index", CONFIG) for _ in range(2))
    assert len(listings) == 1 and content(first) == content(second)
    whole = content(second)
    assert content(second[1:3])[3:] == whole[4:6]
    assert listings[0] == first.fingerprint


def add(root: Path) -> None:
    (root / "p/train/A/new.jpg").write_bytes(jpeg(77))


def remove(root: Path) -> None:
    next((root / "p/train/A").iterdir()).unlink()


def rename(root: Path) -> None:
    (root / "p/test").rename(root / "p/val")


def new_folder(root: Path) -> None:
    (root / "p/train/C").mkdir()


def longer(root: Path) -> None:
    path = next((root / "p/train/A").iterdir())
    path.write_bytes(path.read_bytes() + b"x")


def another_time(root: Path) -> None:
    os.utime(next((root / "p/train/A").iterdir()), ns=(1, 1))


def another_row(root: Path) -> None:
    table = next(root.glob("t.*"))
    stamp = table.stat().st_mtime_ns
    data = rows(root)
    data.loc[0, "title"] = "another"
    if table.suffix == ".csv":
        data.to_csv(table, index=False)
    else:
        cells(root)
    os.utime(table, ns=(stamp + 10**9, stamp + 10**9))


def one_more_shard(root: Path) -> None:
    add_shard(root, 2)


def another_shard(root: Path) -> None:
    add_shard(root, 3)
    (root / "s-3.tar").replace(root / "s-1.tar")


CHANGES = [
    *((folder, change) for change in (add, remove, rename, new_folder, longer, another_time)),
    *((csv, change) for change in (remove, longer, another_time, another_row)),
    (cells, another_row),
    *((shards, change) for change in (one_more_shard, another_shard)),
]


@pytest.mark.parametrize(("kind", "change"), CHANGES)
def test_a_list_that_is_not_current_is_not_used(
    tmp_path: Path,
    kind: Callable[[Path], Path],
    change: Callable[[Path], None],
    listings: list[str],
) -> None:
    source = kind(tmp_path)
    open_source([source], tmp_path / "index", CONFIG)
    change(tmp_path)
    found = open_source([source], tmp_path / "index", CONFIG)
    assert len(listings) == 2
    assert content(found) == content(open_source([source], tmp_path / "other", CONFIG))


def test_other_settings_list_again(tmp_path: Path, listings: list[str]) -> None:
    source = folder(tmp_path)
    for config in (CatalogConfig(), CatalogConfig(max_joined=1), CatalogConfig(seed=5)):
        open_source([source], tmp_path / "index", config)
    assert len(listings) == 3  # the seed shapes no list, but the last list had max_joined=1


def test_a_photo_that_is_missing_and_comes_is_seen(tmp_path: Path, listings: list[str]) -> None:
    (tmp_path / "t.csv").write_text("id,image\n1,late.jpg\n")
    open_source([tmp_path / "t.csv"], tmp_path / "index")
    (tmp_path / "late.jpg").write_bytes(jpeg(1))
    assert open_source([tmp_path / "t.csv"], tmp_path / "index").read(0) == [jpeg(1)]
    assert len(listings) == 2


def test_a_folder_with_lost_files_is_listed_each_time(tmp_path: Path, listings: list[str]) -> None:
    source = folder(tmp_path)
    (source / "train" / "broken.jpg").symlink_to(tmp_path / "absent.jpg")
    for _ in range(2):
        assert len(open_source([source], tmp_path / "index").rejects) == 1
    assert not listings


def test_a_damaged_list_is_made_again(
    tmp_path: Path, listings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = folder(tmp_path)
    expected = content(open_source([source], tmp_path / "index"))
    [index] = (tmp_path / "index").iterdir()
    whole = index.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 8]) + whole[middle + 1 :]
    for broken in (whole[:100], b"", flipped):
        index.write_bytes(broken)
        assert content(open_source([source], tmp_path / "index")) == expected
    assert len(listings) == 4 and "the source is listed again" in caplog.text


def test_a_list_of_another_schema_is_made_again(tmp_path: Path, listings: list[str]) -> None:
    source = folder(tmp_path)
    open_source([source], tmp_path / "index")
    [index] = (tmp_path / "index").iterdir()
    arrays = read_npz(index, "ingest")
    header = json.loads(arrays["header"].tobytes()) | {"schema": 0}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    write_npz(index, **arrays)
    open_source([source], tmp_path / "index")
    assert len(listings) == 2
