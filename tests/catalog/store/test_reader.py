"""The reader of the store: what it gives, in every process, and how it refuses a file that isn't
whole."""

import io
import os
import pickle
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import POSITIONS, image_ids
from catalog.sources.bson_reader import products
from catalog.splits import SPLITS
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.store.schema import content_of
from catalog.taxonomy import Taxonomy
from tests.catalog.processes import as_nobody
from tests.conftest import SmallDump, document, jpeg, on_two_sides, write_bson


def test_image_ids_are_those_of_existing_files() -> None:
    """Stores, features and tables of scores hold them: another rule would be another format."""
    assert image_ids(np.array([3, 0, 7]), np.array([2, 1, 3])).tolist() == [
        49152,
        49153,
        0,
        114688,
        114689,
        114690,
    ]


def test_every_image_of_the_dump_with_its_own_bytes(
    small_dump: SmallDump, small_store: Store
) -> None:
    expected = {
        p.key * POSITIONS + i: d
        for p in products([small_dump.path])
        for i, d in enumerate(p.images)
    }
    blank = {
        i
        for (i,) in small_store.connection.execute(
            "SELECT image_id FROM images WHERE status = 'blank'"
        )
    }
    table = small_store.images()
    assert set(table.image_id.tolist()) | blank == set(expected)
    assert blank and not blank & set(table.image_id.tolist())
    ids = [*table.image_id.tolist(), *blank]
    assert small_store.read(ids) == [expected[i] for i in ids]
    assert small_store.read([]) == []
    some = table.image_id[[5, 0, 5, 70]]
    assert small_store.read(some) == [expected[i] for i in some.tolist()]


def test_equal_pictures_have_equal_digests(small_store: Store) -> None:
    image_id = small_store.images().image_id[::-1]
    digests = small_store.picture_digests(image_id)
    expected = [xxhash.xxh3_128_hexdigest(data) for data in small_store.read(image_id)]
    assert digests == expected and small_store.picture_digests(image_id[:0]) == []


def test_images_come_in_store_order_with_their_dtypes(
    small_dump: SmallDump, small_store: Store
) -> None:
    table = small_store.images()
    keys = list(
        zip(table.split.tolist(), table.class_index.tolist(), table.image_id.tolist(), strict=True)
    )
    assert keys == sorted(keys)
    assert [
        getattr(table, n).dtype.name
        for n in ("image_id", "product_id", "class_index", "split", "fit")
    ] == [
        "int64",
        "int64",
        "int32",
        "uint8",
        "bool",
    ]
    np.testing.assert_array_equal(table.image_id // POSITIONS, table.product_id)
    categories = {p.key: p.category for p in products([small_dump.path])}
    classes = small_store.taxonomy.class_index(
        np.array([categories[i] for i in table.product_id.tolist()])
    )
    np.testing.assert_array_equal(table.class_index, classes)
    assert 0 < (~table.fit).sum() < len(table)


def test_splits_can_be_asked_for_one_by_one(small_store: Store) -> None:
    whole = small_store.images()
    for number, name in enumerate(SPLITS):
        part = small_store.images(name)
        np.testing.assert_array_equal(part.image_id, whole[whole.split == number].image_id)
        assert bool(len(part)) == (name != "extra") and (part.split == number).all()
    both = small_store.images("test", "reserve")  # the order of the splits is the store's
    np.testing.assert_array_equal(both.image_id, whole[np.isin(whole.split, (1, 4))].image_id)
    assert len(whole[:7]) == 7


def test_taxonomy_and_settings_are_those_of_the_ingest(
    small_dump: SmallDump, small_store: Store
) -> None:
    assert small_store.taxonomy.fingerprint == Taxonomy.from_csv(small_dump.categories).fingerprint
    assert small_store.settings["duplicates"] == "drop"
    assert len(small_store.fingerprint) == 16


def test_natural_counts_are_of_train_and_reserve_alone(small_store: Store) -> None:
    table = small_store.images("train", "reserve")
    by_product = small_store.natural_counts("product")
    by_image = small_store.natural_counts("image")
    blank = small_store.connection.execute(
        "SELECT count(*) FROM images WHERE status = 'blank' AND split IN ('train', 'reserve')"
    ).fetchone()[0]
    assert by_image.sum() == len(table) + blank
    assert (by_image >= by_product).all() and by_product.dtype == np.int64
    stored = small_store.connection.execute(
        "SELECT count(*) FROM products WHERE split IN ('train', 'reserve')"
    )
    assert by_product.sum() == stored.fetchone()[0]
    with pytest.raises(KeyError):
        small_store.natural_counts("banana")


def test_sharing_pairs_products_with_an_identical_image(small_store: Store) -> None:
    query = "SELECT digest, product_id, split FROM images WHERE status != 'blank'"
    holders: dict[bytes, set] = {}
    for digest, product_id, split in small_store.connection.execute(query):
        holders.setdefault(digest, set()).add((product_id, split))
    pairs = {(a, b) for group in holders.values() for a in group for b in group if a[0] < b[0]}
    assert pairs
    assert {tuple(p) for p in small_store.sharing().tolist()} == {(a[0], b[0]) for a, b in pairs}
    train = {(a[0], b[0]) for a, b in pairs if a[1] == b[1] == "train"}
    assert {tuple(p) for p in small_store.sharing("train").tolist()} == train
    assert small_store.sharing("val_b").shape == (0, 2)


def test_linked_products_share_a_picture_with_another_split(small_store: Store) -> None:
    query = "SELECT digest, product_id, split FROM images WHERE status IN ('ok', 'duplicate')"
    rows = small_store.connection.execute(query).fetchall()
    found = {}
    for split in SPLITS:
        elsewhere = {digest for digest, _, other in rows if other != split}
        expected = sorted(
            {product for digest, product, own in rows if own == split and digest in elsewhere}
        )
        assert small_store.linked(split).tolist() == expected
        found[split] = len(expected)
    assert any(found.values())


def test_groups_join_products_through_others(small_store: Store) -> None:
    """Every pair that shares a picture is of one group, the smallest such groups, whatever the
    order of the products."""
    ids = np.unique(small_store.images().product_id)[::-1]
    group = dict(zip(ids.tolist(), small_store.groups_of(ids).tolist(), strict=True))
    names = {product: product for product in group}
    pairs = small_store.sharing().tolist()
    for _ in pairs:
        for a, b in pairs:
            names[a] = names[b] = min(names[a], names[b])
    assert (
        len({(group[p], names[p]) for p in names})
        == len(set(names.values()))
        == len(set(group.values()))
        < len(ids)
    )
    alone = small_store.groups_of(np.repeat(ids, 2), "val_b")  # no two of it share one
    assert alone[::2].tolist() == alone[1::2].tolist() and len(set(alone.tolist())) == len(ids)


def test_unseen_products_have_no_photo_that_shows_something(
    small_store: Store, tmp_path: Path
) -> None:
    kept = small_store.connection.execute(
        "SELECT product_id, split FROM products WHERE state = 'kept'"
    ).fetchall()
    seen = set(small_store.images().product_id.tolist())
    expected = [
        sum(own == split and product not in seen for product, own in kept) for split in SPLITS
    ]
    assert [small_store.unseen(split) for split in SPLITS] == expected and any(expected)
    path = copy(small_store, tmp_path)
    product = int(small_store.images("test").product_id[0])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE images SET status = 'blank' WHERE product_id = ?", (product,))
    assert Store(path).unseen("test") == small_store.unseen("test") + 1


def ingested(
    folder: Path, dump: Path, config: CatalogConfig | None = None, **options: object
) -> Store:
    """The store at `folder`/store.sqlite after this dump."""
    config = config or CatalogConfig()
    index_folder = folder / "dumps"
    path = folder / "store.sqlite"
    ingest_dump(path, [dump], None, config, index_folder=index_folder, jobs=1, **options)
    return Store(path)


def rows(store: Store, query: str) -> list[tuple]:
    return store.connection.execute(query).fetchall()


def test_counts_are_of_all_rows(small_store: Store) -> None:
    images = rows(small_store, "SELECT status FROM images")
    counts = small_store.counts()
    assert counts.products == len(rows(small_store, "SELECT 1 FROM products")) == 120
    assert counts.images == len(images)
    assert counts.duplicates == images.count(("duplicate",)) > 0
    assert counts.blanks == images.count(("blank",)) > 0


def test_image_counts_are_of_the_usable_images_of_a_split(small_store: Store) -> None:
    for split in SPLITS:
        expected = np.bincount(small_store.images(split).class_index, minlength=6)
        np.testing.assert_array_equal(small_store.image_counts(split), expected)
    assert small_store.image_counts("train").sum() > 0


def test_dumps_are_named_in_the_order_of_their_ingests(
    small_dump: SmallDump, tmp_path: Path
) -> None:
    later = write_bson(tmp_path / "a.bson", [document(900_000)])
    known = int(ingested(tmp_path, small_dump.path).taxonomy.category_ids[0])
    store = ingested(tmp_path, later, corrections={900_000: known})
    assert store.dump_sources() == [str(small_dump.path), str(later)]


def test_formats_and_images_of_a_product(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.effect_noise((16, 16), 80).save(png, "PNG")
    photos = [jpeg(1), png.getvalue(), b"no image", b""]
    dump = write_bson(tmp_path / "a.bson", [document(3, 1, photos), document(4)])
    config = CatalogConfig(drop_undecodable=False)
    ingest_dump(
        tmp_path / "store.sqlite", [dump], None, config, index_folder=tmp_path / "dumps", jobs=1
    )
    store = Store(tmp_path / "store.sqlite")
    first = 3 * POSITIONS
    assert store.image_ids_of(3) == [first, first + 1]
    assert store.image_ids_of(5) == []
    ids = np.array([first + 1, 4 * POSITIONS, first, first + 2])
    assert store.formats(ids) == ["PNG", "JPEG", "JPEG", "unknown"]
    assert store.formats(ids[:0]) == []


def test_conflicts_are_one_picture_in_several_categories(tmp_path: Path) -> None:
    one, two, same = jpeg(1), jpeg(2), jpeg(3)
    dump = write_bson(
        tmp_path / "a.bson",
        [
            document(1, 10, [one, jpeg(11)]),
            document(2, 20, [two, one]),
            document(3, 30, [same, two]),
            document(4, 30, [same]),
        ],
    )
    found = ingested(tmp_path, dump).conflicts()
    pictures = {
        tuple(zip(found.product_id[mask].tolist(), found.class_index[mask].tolist(), strict=True))
        for mask in (found.group == 0, found.group == 1)
    }
    assert pictures == {((1, 0), (2, 1)), ((2, 1), (3, 2))}
    np.testing.assert_array_equal(found.image_id // POSITIONS, found.product_id)
    assert [column.dtype for column in found] == [np.int64] * 4
    key = list(zip(found.group.tolist(), found.image_id.tolist(), strict=True))
    assert key == sorted(key)


def test_rejects_and_blanks_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    white = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(white, "PNG")
    dump = write_bson(
        tmp_path / "a.bson",
        [
            document(2, 1, [b"no image", jpeg(2), white.getvalue()]),
            document(1, 1, [b"neither", white.getvalue(), jpeg(1)]),
            {"_id": 3, "category_id": 1, "imgs": []},
        ],
    )
    store = ingested(tmp_path, dump)
    rejects = [(r.reason, r.product_id, r.position) for r in store.rejects(10)]
    assert rejects == [("no_images", 3, -1), ("not_an_image", 1, 0), ("not_an_image", 2, 0)]
    assert store.rejects(1) == store.rejects(10)[:1]
    assert store.rejects(1)[0].source == str(dump)
    assert list(store.reject_counts().items()) == [("not_an_image", 2), ("no_images", 1)]
    assert store.blanks(10) == [(1, 1, 0), (2, 2, 0)]
    assert store.blanks(1) == [(1, 1, 0)]


def test_digests_are_the_first_eight_bytes_of_each_picture_once(small_store: Store) -> None:
    found = small_store.digests()
    digests = {bytes(d) for (d,) in small_store.connection.execute("SELECT digest FROM images")}
    assert found.tolist() == sorted(int(digest.hex()[:16], 16) for digest in digests)
    assert found.dtype == np.uint64 and len(found) < 208  # images: copies count once


def test_no_product_and_no_fitted_picture_stands_on_two_sides(small_store: Store) -> None:
    assert on_two_sides(small_store) == {"products": 0, "pictures": 0, "strays": 0}


def test_a_store_is_pickled_as_its_path(small_store: Store) -> None:
    ids = small_store.images("test").image_id
    data = pickle.dumps(small_store)
    assert len(data) < 1000
    other = pickle.loads(data)
    assert other.read(ids) == small_store.read(ids)
    assert other.connection is not small_store.connection


def test_a_forked_process_opens_its_own_connection(small_store: Store) -> None:
    ids = small_store.images("train").image_id
    expected, connection = small_store.read(ids), small_store.connection
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            good = small_store.read(ids) == expected and small_store.connection is not connection
            os._exit(0 if good else 1)
        children.append(child)
    assert small_store.read(ids) == expected
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert small_store.connection is connection  # once per process


def test_other_threads_read_through_the_same_connection(small_store: Store) -> None:
    ids = small_store.images("train").image_id
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(small_store.read, ids).result() == small_store.read(ids)


def test_a_store_cannot_be_changed_through_the_reader(small_store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        small_store.connection.execute("DELETE FROM images")


def read_all(path: Path) -> None:
    store = Store(path)
    assert len(store.taxonomy) and store.fingerprint and store.settings
    store.read(store.images().image_id)
    store.natural_counts("image")
    store.sharing()


def copy(store: Store, folder: Path) -> Path:
    return Path(shutil.copy(store.path, folder / "a store ä.sqlite"))


def refusal(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.step == "ingest"
    return caught.value


def test_a_missing_store(tmp_path: Path) -> None:
    assert refusal(tmp_path / "store.sqlite").problem == "no such file"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"garbage " * 1000, bytes(40_000), b"SQLite format 3\0" + bytes(10_000)]
)
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.sqlite").write_bytes(content)
    assert "not readable as a store" in refusal(tmp_path / "store.sqlite").problem


def test_a_truncated_store_is_refused(small_store: Store, tmp_path: Path) -> None:
    path = copy(small_store, tmp_path)
    size = path.stat().st_size
    read_all(path)
    for cut in (size - 4096, size // 2, size // 2 + 77, 20_000, 4096, 100):
        with open(path, "rb+") as file:
            file.truncate(cut)
        assert "not readable" in refusal(path).problem


def test_a_store_with_pages_lost_is_refused(small_store: Store, tmp_path: Path) -> None:
    path = copy(small_store, tmp_path)
    whole = path.read_bytes()
    for start in range(4096, len(whole), 65_536):
        path.write_bytes(whole[:start] + bytes(65_536) + whole[start + 65_536 :])
        assert refusal(path).problem


def test_a_flipped_bit_in_an_image_is_noticed(small_store: Store, tmp_path: Path) -> None:
    path = copy(small_store, tmp_path)
    whole, found = path.read_bytes(), 0
    table = small_store.images()
    ids = table.image_id[table.fit][::20].tolist()
    for image_id, data in zip(ids, small_store.read(ids), strict=True):
        place = whole.find(data[-60:-30])  # a piece of it: a longer image lies on several pages
        if whole.count(data[-60:-30]) == 1:  # and a copy of it on others
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            assert refusal(path).problem == f"image {image_id} is damaged"
            found += 1
    assert found > 5


def test_an_image_that_is_gone_is_named(small_store: Store, tmp_path: Path) -> None:
    path = copy(small_store, tmp_path)
    first = int(small_store.images().image_id[0])
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM blobs WHERE image_id = ?", (first,))
    assert refusal(path).problem == f"image {first} is missing"


@pytest.mark.parametrize(
    "statement, problem, resume",
    [
        (
            "UPDATE meta SET value = '9' WHERE key = 'schema'",
            "store of schema 9, expected 3",
            False,
        ),
        ("DELETE FROM meta WHERE key = 'schema'", "store of schema None, expected 3", False),
        ("UPDATE dumps SET state = 'planned'", "train.bson was interrupted", True),
        ("DELETE FROM meta WHERE key = 'content'", "was interrupted", True),
        ("DROP TABLE dumps", "no such table", False),
        ("DROP TABLE images", "no such table", False),
    ],
)
def test_other_schemas_and_unfinished_stores_are_refused(
    small_store: Store, tmp_path: Path, statement: str, problem: str, resume: bool
) -> None:
    path = copy(small_store, tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    error = refusal(path)
    assert problem in error.problem
    assert error.resume == resume


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE images SET class_index = class_index + 1
           WHERE image_id = (SELECT min(image_id) FROM images)""",
        """UPDATE images SET status = 'blank'
           WHERE image_id = (SELECT min(image_id) FROM images WHERE status = 'ok')""",
        """UPDATE products SET n_images = n_images + 1
           WHERE product_id = (SELECT min(product_id) FROM products)""",
        "UPDATE categories SET level3 = level3 || 'x' WHERE class_index = 3",
        "UPDATE meta SET value = 'f' WHERE key = 'content'",
    ],
)
def test_a_row_that_ingest_did_not_write_is_noticed(
    small_store: Store, tmp_path: Path, change: str
) -> None:
    path = Path(shutil.copy(small_store.path, tmp_path))
    Store(path).verify()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    with pytest.raises(
        ArtifactError,
        match=r"store\.sqlite: its rows are not those that ingest wrote.*step ingest",
    ):
        Store(path).verify()


def altered(store: Store, folder: Path, *statements: str) -> Store:
    """A copy of a store after some SQL, with a new fingerprint of its content."""
    path = copy(store, folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'content'", (content_of(connection),)
        )
    return Store(path)


def test_a_store_of_the_first_schema_is_read(small_store: Store, tmp_path: Path) -> None:
    first = "UPDATE meta SET value = '1' WHERE key = 'schema'"
    store = altered(small_store, tmp_path, "ALTER TABLE products DROP COLUMN text", first)
    store.verify()
    read_all(store.path)
    assert store.texts(store.images().product_id[:2]) == ["", ""]


def test_texts_come_in_the_order_asked_and_count_as_content(
    small_store: Store, tmp_path: Path
) -> None:
    named = "UPDATE meta SET value = json_set(value, '$.text', 'title') WHERE key = 'settings'"
    ids = np.unique(small_store.images().product_id)[::-1]
    given = f"UPDATE products SET text = 'no. ' || product_id WHERE product_id != {ids[-1]}"
    store = altered(small_store, tmp_path, named, given)
    assert store.texts(ids) == [*(f"no. {i}" for i in ids[:-1]), ""]
    store.verify()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute(
            """UPDATE products SET text = 'else'
               WHERE product_id = (SELECT max(product_id) FROM products)"""
        )
    with pytest.raises(ArtifactError, match="not those that ingest wrote"):
        Store(store.path).verify()


@pytest.mark.parametrize("keys", [["b 2", "17", "a/1"], [40, 7, 123_456_789_012_345]])
def test_keys_and_numbers_are_each_other_s_inverse(tmp_path: Path, keys: list) -> None:
    dump = write_bson(tmp_path / "a.bson", [document(k, 1, [jpeg(i)]) for i, k in enumerate(keys)])
    store = ingested(tmp_path, dump)
    numbers = store.numbers([keys[2], keys[0], keys[2], keys[1]])
    assert numbers.dtype == np.int64 and len(set(numbers.tolist())) == 3 and (numbers >= 0).all()
    assert store.keys(numbers) == [keys[2], keys[0], keys[2], keys[1]]
    assert store.key_type == ("int" if isinstance(keys[0], int) else "text")
    strange = ["b", "٣", "x" * 20, "1" * 15, "1" * 16, "1" * 40, keys[1]]
    assert store.numbers(strange).tolist() == [-1] * 6 + [numbers[3]]


def test_columns_come_in_the_order_asked(small_store: Store, tmp_path: Path) -> None:
    some = [
        document(1, price=2.5, colour="red"),
        document(2, price=4.0),
        document(3, colour="blue"),
    ]
    dump = write_bson(tmp_path / "a.bson", some)
    store = ingested(tmp_path, dump, CatalogConfig(columns=["price", "colour"]))
    found = store.columns(np.array([3, 1, 3, 2]))
    assert found["price"].isna().tolist() == [True, False, True, False]
    assert found["price"].dropna().tolist() == [2.5, 4.0]
    assert found["colour"].fillna("").tolist() == ["blue", "red", "blue", ""]
    ids = small_store.images().product_id[:4]
    assert small_store.columns(ids).shape == (4, 0)


def test_earlier_labels_are_those_that_were_written(small_store: Store, tmp_path: Path) -> None:
    assert small_store.earlier_labels == []
    given = """REPLACE INTO meta VALUES ('earlier_labels', '["a", "b"]')"""
    assert altered(small_store, tmp_path, given).earlier_labels == ["a", "b"]


def test_what_a_killed_ingest_left_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"garbage " * 1000)
    Path(f"{path}-journal").write_bytes(b"")
    refused = refusal(path)
    assert "its ingest is unfinished" in refused.problem and refused.resume


def test_a_store_without_permission_is_not_damaged(small_store: Store, tmp_path: Path) -> None:
    shutil.copy(small_store.path, tmp_path / "store.sqlite")
    (tmp_path / "store.sqlite").chmod(0)

    def read() -> None:
        with pytest.raises(ShelfsortError, match="can't be opened: no permission") as caught:
            Store("store.sqlite").images()
        assert not isinstance(caught.value, ArtifactError)

    as_nobody(tmp_path, read)


def test_a_store_that_is_being_written_is_not_damaged(small_store: Store, tmp_path: Path) -> None:
    shutil.copy(small_store.path, tmp_path / "store.sqlite")
    with sqlite3.connect(tmp_path / "store.sqlite") as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ShelfsortError, match="database is locked") as caught:
            Store(tmp_path / "store.sqlite").images()
        assert not isinstance(caught.value, ArtifactError)
        writer.execute("ROLLBACK")
    assert len(Store(tmp_path / "store.sqlite").images())
