"""The same products from whatever they come as; what products are called, and what is kept beside
them."""

import csv
import datetime
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import bson
import numpy as np
import pandas
import pytest

from catalog.config import Caps, CatalogConfig, Fields, TableColumns
from catalog.errors import ArtifactError, ShelfsortError
from catalog.sources.source import open_source
from catalog.splits import SPLITS
from catalog.store.ingest import IngestSummary, ingest_dump
from catalog.store.reader import Store
from tests.conftest import document, jpeg, write_bson

COLUMNS = CatalogConfig(columns=("brand", "price", "since"), text="title")


def ingest(
    folder: Path, source: Path, config: CatalogConfig | None = None, **more: object
) -> IngestSummary:
    return ingest_dump(
        folder / "store.sqlite",
        [source],
        None,
        config or CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=1,
        **more,  # type: ignore[arg-type]
    )


def stored(folder: Path) -> Store:
    return Store(folder / "store.sqlite")


def photos(key: int | str, n: int) -> list[bytes]:
    number = key if isinstance(key, int) else sum(map(ord, key))
    return [jpeg(number * 10 + i) for i in range(n)]


CATALOGUE = [(100 + i, ("Shoes > Boots", "Shoes > Sandals")[i % 2], 1 + i % 3) for i in range(40)]
"""Key, category and number of photos of each product."""


def as_bson(folder: Path) -> Path:
    return write_bson(
        folder / "a.bson", [document(key, c, photos(key, n)) for key, c, n in CATALOGUE]
    )


def as_folder(folder: Path) -> Path:
    for key, category, n in CATALOGUE:
        for position, photo in enumerate(photos(key, n)):
            place = folder / "photos" / category.replace(" > ", "/") / f"{key}_{position}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photo)
    return folder / "photos"


def as_product_folders(folder: Path) -> Path:
    for key, category, n in CATALOGUE:
        for position, photo in enumerate(photos(key, n)):
            place = folder / "photos" / category.replace(" > ", "/") / str(key) / f"{position}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photo)
    return folder / "photos"


def as_csv(folder: Path, separator: str = ",", suffix: str = "csv") -> Path:
    root = as_folder(folder)
    with open(folder / f"a.{suffix}", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["sku", "category", "photo"])
        for key, category, n in CATALOGUE:
            for position in range(n):
                name = f"{category.replace(' > ', '/')}/{key}_{position}.jpg"
                writer.writerow([key, category, f"{root.name}/{name}"])
    return folder / f"a.{suffix}"


def as_semicolons(folder: Path) -> Path:
    return as_csv(folder, ";", "CSV")


def as_tabs(folder: Path) -> Path:
    return as_csv(folder, "\t", "tsv")


def as_parquet(folder: Path) -> Path:
    rows = [
        {
            "_id": key,
            "category": category,
            "images": [{"bytes": photo, "path": None} for photo in photos(key, n)],
        }
        for key, category, n in CATALOGUE
    ]
    pandas.DataFrame(rows).to_parquet(folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet"


def as_zip(folder: Path) -> Path:
    """Deflated, and with what macOS adds."""
    root = as_folder(folder)
    with zipfile.ZipFile(folder / "a.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.jpg")):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/._1.jpg", b"x")
    return folder / "a.ZIP"


def as_tar(folder: Path) -> Path:
    root = as_folder(folder)
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(root, ".")
    return folder / "a.tar"


def as_webdataset(folder: Path) -> Path:
    """Two shards of shuffled samples."""
    samples = [
        (f"{number:05d}", {"product_id": key, "position": position, "category": category}, photo)
        for number, (key, category, n) in enumerate(CATALOGUE)
        for position, photo in enumerate(photos(key, n))
    ]
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as archive:
            for name, about, photo in samples[::-1][shard::2]:
                parts = {"jpg": photo, "json": json.dumps(about).encode()}
                for suffix, data in parts.items():
                    member = tarfile.TarInfo(f"{name}-{about['position']}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder / "shard-*.tar"


KINDS = [
    as_bson,
    as_folder,
    as_product_folders,
    as_csv,
    as_semicolons,
    as_tabs,
    as_parquet,
    as_zip,
    as_tar,
    as_webdataset,
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("expected")
    ingest(folder, as_bson(folder))
    return stored(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_products_give_the_same_store(
    kind: Callable[[Path], Path], expected: Store, tmp_path: Path
) -> None:
    config = CatalogConfig(product_folders=kind is as_product_folders)
    source = kind(tmp_path)
    assert ingest(tmp_path, source, config).products == 40
    store = stored(tmp_path)
    assert store.fingerprint == expected.fingerprint
    store.verify()
    ids = store.images().image_id
    assert store.read(ids) == expected.read(ids)
    assert not ingest(tmp_path, source, config).changed
    assert [(c.level1, c.level2, c.level3) for c in store.taxonomy.categories] == [
        ("Shoes", "", "Boots"),
        ("Shoes", "", "Sandals"),
    ]


# --- keys


@pytest.mark.parametrize(
    "keys",
    [
        [f"AB-{i}" for i in range(12)],
        [bson.ObjectId(f"{i:024x}") for i in range(12)],
        [2**62 + i for i in range(6)] + list(range(-3, 3)),
    ],
)
def test_the_store_speaks_the_shops_keys(tmp_path: Path, keys: list) -> None:
    dump = [document(key, 1 + i % 2, [jpeg(i)]) for i, key in enumerate(keys)]
    ingest(tmp_path, write_bson(tmp_path / "a.bson", dump))
    store = stored(tmp_path)
    shop = keys if isinstance(keys[0], int) else list(map(str, keys))
    ids = store.images().product_id
    assert store.key_type == ("int" if isinstance(keys[0], int) else "text")
    assert sorted(store.keys(ids)) == sorted(shop)
    assert store.numbers(store.keys(ids)).tolist() == ids.tolist()
    assert store.numbers(["none of them"]).tolist() == [-1]
    assert all(0 <= i < 2**49 for i in ids.tolist())
    better = {shop[0]: 2}
    assert ingest(tmp_path, tmp_path / "a.bson", corrections=better).changed
    [(class_index,)] = stored(tmp_path).connection.execute(
        "SELECT class_index FROM products WHERE product_id = ?", (int(store.numbers(shop[:1])[0]),)
    )
    assert class_index == 1


def test_integer_keys_are_the_ids_themselves(expected: Store) -> None:
    ids = expected.images().product_id
    assert expected.keys(ids) == ids.tolist() and expected.key_type == "int"
    assert expected.numbers([100, 7]).tolist() == [100, -1]
    assert expected.connection.execute("SELECT count(*) FROM keys").fetchone() == (0,)


def test_texts_among_integers_are_refused(tmp_path: Path) -> None:
    ingest(tmp_path, write_bson(tmp_path / "a.bson", [document(i, 1) for i in range(5)]))
    other = write_bson(tmp_path / "b.bson", [document("x", 1, [jpeg(9)])])
    with pytest.raises(ArtifactError, match=r"integers as keys, those of .*b\.bson texts, such as"):
        ingest(tmp_path, other)


def test_keys_with_one_hash_are_two_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "catalog.sources.keys._hash", lambda text, salt: (len(text) + 1000 * salt) % 2**49
    )
    shop = [f"key {i}" for i in range(9)]
    for name, some in (("a", shop[:6]), ("b", shop[4:])):
        dump = [document(key, 1, [jpeg(int(key[4:]))]) for key in some]
        ingest(tmp_path, write_bson(tmp_path / f"{name}.bson", dump))
    store = stored(tmp_path)
    assert sorted(store.keys(store.images().product_id)) == shop
    assert store.reject_counts() == {}


# --- columns


def product(i: int, **fields: object) -> dict:
    return document(i, 1 + i % 2, [jpeg(i)], title=f" t{i}", **fields)


def test_columns_of_documents(tmp_path: Path) -> None:
    since = datetime.datetime(2024, 5, 6, 7, 8)
    dump = [
        product(1, brand="Ö", price=2, since=since),
        product(2, price=2.5, brand=" "),
        product(3, brand="B", price=None, since=None),
    ]
    ingest(tmp_path, write_bson(tmp_path / "a.bson", dump), COLUMNS)
    frame = stored(tmp_path).columns(np.array([3, 1, 99, 2, 1]))
    assert frame.columns.tolist() == ["brand", "price", "since"]
    assert frame["brand"].tolist() == ["B", "Ö", None, None, "Ö"]
    np.testing.assert_array_equal(frame["price"], [np.nan, 2.0, np.nan, 2.5, 2.0])
    assert frame["price"].dtype == np.float64
    assert frame["since"].isna().tolist() == [True, False, True, True, False]
    assert frame["since"][1] == pandas.Timestamp(since)


def test_columns_of_tables_and_nested_fields(tmp_path: Path) -> None:
    rows = [(1, "a.jpg", "B", 1.5, "2024-05-06"), (2, "b.jpg", "", "", "")]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(ord(name)))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        header = ["id", "image", "brand", "price", "since", "category"]
        csv.writer(file).writerows([header, *([*row, "Shoes"] for row in rows)])
    ingest(tmp_path, tmp_path / "t.csv", CatalogConfig(columns=COLUMNS.columns))
    frame = stored(tmp_path).columns(np.array([2, 1]))
    assert frame["brand"].tolist() == [None, "B"] and frame["price"].tolist()[1] == 1.5
    assert frame["since"][1] == pandas.Timestamp("2024-05-06") and pandas.isna(frame["since"][0])
    dump = [document(i, 1, [jpeg(i)], offer={"price": {"eur": i}}) for i in (1, 2)]
    config = CatalogConfig(columns=("offer.price.eur",))
    (tmp_path / "n").mkdir()
    ingest(tmp_path / "n", write_bson(tmp_path / "n.bson", dump), config)
    frame = stored(tmp_path / "n").columns(np.array([2]))
    assert frame["offer.price.eur"].tolist() == [2.0]


def test_a_store_without_columns_has_none(expected: Store) -> None:
    assert expected.columns(np.array([100, 101])).shape == (2, 0)


# --- what is refused, and what is not


def test_a_source_without_a_usable_photo_is_an_error_and_makes_no_store(tmp_path: Path) -> None:
    dump = [{"_id": i, "category_id": 1, "imgs": [{"picture": "aGVsbG8="}]} for i in range(3)]
    for _ in range(2):
        with pytest.raises(ShelfsortError, match="found none in 3 products: no_picture 3"):
            ingest(tmp_path, write_bson(tmp_path / "a.bson", dump))
        assert not (tmp_path / "store.sqlite").exists()


UNUSABLE = {
    "no_picture": ({"picture": "aGVsbG8="}, "are catalog.fields the names of the fields"),
    "not_an_image": ({"picture": b"/9j/4AAQ"}, r"\(first: the file is a JPEG in base64\)"),
    "unreadable_file": ({"picture": "none.jpg"}, "relative to the dump"),
}


@pytest.mark.parametrize("reason", UNUSABLE)
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_later_source_without_a_usable_photo_leaves_the_store_as_it_is(
    tmp_path: Path, reason: str, rebuild: bool
) -> None:
    ingest(tmp_path, write_bson(tmp_path / "good.bson", [document(i) for i in range(6)]))
    before = (tmp_path / "store.sqlite").read_bytes()
    photo, remedy = UNUSABLE[reason]
    dump = [{"_id": 100 + i, "category_id": 1, "imgs": [photo]} for i in range(3)]
    dump.append(document(200, 77) if not rebuild else document(200, 1, [b""]))
    kind = "path" if reason == "unreadable_file" else "bytes"
    config = CatalogConfig(fields=Fields(picture_is=kind))  # type: ignore[arg-type]
    with pytest.raises(ShelfsortError, match=rf"bad\.bson: .* 4 products: {reason} 3.*{remedy}"):
        ingest(tmp_path, write_bson(tmp_path / "bad.bson", dump), config, rebuild=rebuild)
    assert (tmp_path / "store.sqlite").read_bytes() == before
    assert not (tmp_path / "store.sqlite-journal").exists()


def test_a_source_of_products_that_the_store_has_is_nothing_new(tmp_path: Path) -> None:
    good = [document(i) for i in range(6)]
    ingest(tmp_path, write_bson(tmp_path / "a.bson", good))
    before = stored(tmp_path).fingerprint
    broken = document(9, 1, [b"broken"])
    summary = ingest(tmp_path, write_bson(tmp_path / "b.bson", good[2:4]))
    assert (summary.copied, summary.products, stored(tmp_path).fingerprint) == (0, 6, before)
    summary = ingest(tmp_path, write_bson(tmp_path / "c.bson", [*good, broken]))
    assert (summary.copied, summary.rejects) == (1, {"not_an_image": 1})
    changed = [document(i, 1, [jpeg(50 + i)]) for i in range(6)]
    with pytest.raises(ShelfsortError, match=r"in 6 products: conflicting_product 6; .*--rebuild"):
        ingest(tmp_path, write_bson(tmp_path / "d.bson", changed))


def test_caps_that_leave_only_broken_photos_are_an_error(tmp_path: Path) -> None:
    dump = [document(i, 1, [jpeg(i) if i == 5 else b"broken"]) for i in range(200)]
    caps = Caps(train=1, reserve=1, val_a=1, val_b=1, test=1)
    with pytest.raises(
        ShelfsortError, match=r"catalog\.caps leave can be used: not_an_image .* caps"
    ):
        ingest(tmp_path, write_bson(tmp_path / "a.bson", dump), CatalogConfig(caps=caps))
    assert not (tmp_path / "store.sqlite").exists()


def test_pictures_by_path(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1.jpg").write_bytes(jpeg(1))
    dump = [{"_id": i, "category_id": 1, "imgs": [{"at": f"p/{i}.jpg"}]} for i in (1, 2)]
    config = CatalogConfig(fields=Fields(picture="at", picture_is="path"))
    summary = ingest(tmp_path, write_bson(tmp_path / "a.bson", dump), config)
    assert summary.rejects == {"unreadable_file": 1}
    [(name,)] = stored(tmp_path).connection.execute("SELECT name FROM images")
    assert name == "p/1.jpg"


@pytest.mark.parametrize("number", ["4.00638E+12", "1.0", "4,00638E+12"])
@pytest.mark.parametrize("role", ["id", "category"])
def test_what_a_spreadsheet_made_of_an_id_is_refused(
    tmp_path: Path, number: str, role: str
) -> None:
    row = {"id": "7", "category": "8", "image": "a.jpg"} | {role: number}
    pandas.DataFrame([row]).to_csv(tmp_path / "t.csv", index=False, sep=";")
    pandas.DataFrame([row]).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(ShelfsortError, match=rf"row 1 .*column {role} is {number[:3]}.*spread"):
            open_source([tmp_path / name], tmp_path)


def test_archives_that_cannot_be_read_at_random_or_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    (tmp_path / "a.zip").write_bytes(b"PK")
    (tmp_path / "a.tar").write_bytes(b"x" * 600)
    for name, problem in (
        ("a.tar.gz", "can't be read at random; unpack it"),
        ("a.zip", "not readable as an archive"),
        ("a.tar", "not readable as an archive"),
        ("b.tar", "no such file"),
    ):
        with pytest.raises(ShelfsortError, match=rf"{name}: .*{problem}"):
            open_source([tmp_path / name], tmp_path)


def test_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "t.csv").write_text("art;pic;id;cat\nX;a.jpg;9;Hats\n")
    table = TableColumns(product="art", image="pic", category="cat")
    source = open_source([tmp_path / "t.csv"], tmp_path, CatalogConfig(table=table))
    assert list(source.keys) == ["X"] and source.category_names == ("Hats",)
    with pytest.raises(ShelfsortError, match=r"expected a column nil \(image\), found art, pic"):
        open_source([tmp_path / "t.csv"], tmp_path, CatalogConfig(table=TableColumns(image="nil")))


def test_official_splits_and_groups(tmp_path: Path) -> None:
    for i in range(60):
        split = ("train", "train", "val", "test")[i % 4]
        place = tmp_path / "photos" / split / "AB"[i % 3 == 0] / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(i))
    ingest(tmp_path, tmp_path / "photos")
    store = stored(tmp_path)
    assert [c.name for c in store.taxonomy.categories] == ["A", "B"]
    dealt = {s: set((store.images(s).product_id % 4).tolist()) for s in SPLITS}
    assert dealt["test"] == {3} and dealt["val_a"] == dealt["val_b"] == {2}
    assert dealt["train"] == {0, 1} and dealt["reserve"] <= {0, 1}
    rows = [
        {"id": i, "image": "photos/train/A/1.jpg", "category": "A", "group": f"g{i % 12}"}
        for i in range(48)
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "g").mkdir()
    ingest(tmp_path / "g", tmp_path / "t.parquet")
    query = "SELECT count(DISTINCT split) FROM products GROUP BY product_id % 12"
    found = stored(tmp_path / "g").connection.execute(query).fetchall()
    assert found == [(1,)] * 12


@pytest.mark.parametrize("kind", [as_bson, as_folder, as_csv])
def test_groups_beside_a_source(tmp_path: Path, kind: Callable[[Path], Path]) -> None:
    """Products of one group are in one split, also those that come later; others are dealt as
    ever."""
    lines = [f"{key},session {key % 8}" for key, *_ in CATALOGUE if key < 132]
    (tmp_path / "g.csv").write_text("\n".join(["key,group", *lines, "135,"]))
    config = CatalogConfig(groups=tmp_path / "g.csv")
    ingest(tmp_path, kind(tmp_path), config)
    later = [document(key, "Shoes > Boots", [jpeg(key)]) for key in range(300, 330)]
    (tmp_path / "g.csv").write_text(
        "key,group\n" + "".join(f"{i},session {i % 8}\n" for i in range(300, 330))
    )
    ingest(tmp_path, write_bson(tmp_path / "later.bson", later), config)
    query = """SELECT count(DISTINCT split) FROM products WHERE product_id < 132
               OR product_id >= 300 GROUP BY product_id % 8"""
    assert stored(tmp_path).connection.execute(query).fetchall() == [(1,)] * 8
    query = "SELECT count(DISTINCT split) FROM products"
    assert stored(tmp_path).connection.execute(query).fetchone()[0] > 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("key,group\n7,a\n", r"expected keys of products in .*, such as 100, found none of them"),
        ("key,group\n100,a\n100,b\n", "line 3: product 100 has group b, .* keep one"),
        ("key\n100\n", "line 1: column group is missing"),
        ("key,group\n1.0,a\n", "line 2: as a product's key"),
    ],
)
def test_groups_that_are_wrong_make_no_store(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "g.csv").write_text(text)
    config = CatalogConfig(groups=tmp_path / "g.csv")
    with pytest.raises(ShelfsortError, match=rf"catalog\.groups: .*g\.csv: {problem}"):
        ingest(tmp_path, as_bson(tmp_path), config)
    assert not (tmp_path / "store.sqlite").exists()


# --- folders


def test_photos_are_joined_only_beyond_doubt(tmp_path: Path) -> None:
    def keys(*names: str, **config: object) -> dict:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        source = open_source([folder], tmp_path, CatalogConfig(**config))  # type: ignore[arg-type]
        return dict(zip(source.keys, source.n_images.tolist(), strict=True))

    assert keys("7.jpg", "7_1.jpg", "8_0.JPG", "8_1.jpg") == {7: 2, 8: 2}
    assert keys("a.jpg", "a_1.png") == {"a": 2}
    assert keys("Image_1.jpg", "Image_2.jpg") == {"Image_1": 1, "Image_2": 1}
    assert keys("A/1.jpg", "B/1.jpg") == {"A/1": 1, "B/1": 1}
    with pytest.raises(ShelfsortError, match="3 photos, 7_1 and others, would be one product"):
        keys("7.jpg", "7_1.jpg", "7_2.jpg", max_joined=2)
    assert len(keys("7.jpg", "7_1.jpg", "7_2.jpg", max_joined=1)) == 3


def test_what_lies_in_folders_beside_photos(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    for name in ("A/1.jpg", ".git/2.jpg", "__MACOSX/3.jpg", "A/._1.jpg", "A/.x/4.jpg"):
        (shop / name).parent.mkdir(parents=True, exist_ok=True)
        (shop / name).write_bytes(jpeg(1))
    (shop / "A" / "loop").symlink_to(shop)
    (shop / "A" / "gone.jpg").symlink_to(shop / "nowhere.jpg")
    os.mkfifo(shop / "A" / "pipe.jpg")
    source = open_source([shop], tmp_path)
    assert list(source.keys) == [1] and source.category_names == ("A",)
    assert [(r.source, r.reason) for r in source.rejects] == [
        (str(shop / "A" / "gone.jpg"), "unreadable_file"),
        (str(shop / "A" / "pipe.jpg"), "unreadable_file"),
    ]
    buffer = io.BytesIO(source.read(0)[0])  # type: ignore[arg-type]
    assert buffer.getvalue() == jpeg(1)
