"""The tables of the store: their schema, opening the file to write it, and queries that writer and
reader share."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from catalog.artifacts import require_same
from catalog.config import Caps, CatalogConfig
from catalog.sources.dump_index import Reject
from catalog.sources.keys import KeyType
from catalog.taxonomy import Category, Taxonomy

SCHEMA = 3
OLD_SCHEMAS = ("1", "2")
"""Older schemas that are read as well. Such a store keeps its number, because its fingerprint
covers the documents of the dump; the next ingest adds the tables and columns that it lacks."""

USED = "status IN ('ok', 'duplicate')"
"""SQL: images that are evaluated; of those the `ok` ones are fitted."""
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE dumps (fingerprint TEXT PRIMARY KEY, sources TEXT NOT NULL,
  products INTEGER NOT NULL, images INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('planned', 'complete')));
CREATE TABLE categories (class_index INTEGER PRIMARY KEY, category_id INTEGER NOT NULL UNIQUE,
  level1 TEXT NOT NULL, level2 TEXT NOT NULL, level3 TEXT NOT NULL);
CREATE TABLE products (product_id INTEGER PRIMARY KEY,
  class_index INTEGER NOT NULL REFERENCES categories, split TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'kept', 'dropped')),
  n_images INTEGER NOT NULL, digest INTEGER NOT NULL, text TEXT);
CREATE TABLE images (image_id INTEGER PRIMARY KEY,
  product_id INTEGER NOT NULL REFERENCES products, position INTEGER NOT NULL,
  class_index INTEGER NOT NULL, split TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('ok', 'duplicate', 'blank', 'undecodable')),
  duplicate_of INTEGER, digest BLOB NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL,
  n_bytes INTEGER NOT NULL, name TEXT);
CREATE INDEX images_by_digest ON images (digest);
CREATE TABLE blobs (image_id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rejects (source TEXT NOT NULL, offset INTEGER NOT NULL, position INTEGER NOT NULL,
  product_id NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
  PRIMARY KEY (source, offset, position)) WITHOUT ROWID;
"""
NEW_TABLES = """
CREATE TABLE IF NOT EXISTS keys (product_id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS columns (product_id INTEGER PRIMARY KEY, content TEXT NOT NULL)
"""
"""Of schema 3: keys that are not the product's id itself; further columns of products, as JSON."""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection to the store at `path`, which becomes an empty file if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = -16384")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE .. COMMIT, rolled back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether `create_tables` has completed."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'meta'"
    return connection.execute(query).fetchone() is not None


def create_tables(
    connection: sqlite3.Connection, config: CatalogConfig, taxonomy: Taxonomy, key_type: KeyType
) -> None:
    """Makes the tables of a new store and fills `meta` and `categories`, in one transaction."""
    meta = {
        "schema": str(SCHEMA),
        "settings": json.dumps(config.shape()),
        "taxonomy": taxonomy.fingerprint,
        "key_type": key_type,
    }
    categories = (
        (class_index, c.category_id, c.level1, c.level2, c.level3)
        for class_index, c in enumerate(taxonomy.categories)
    )
    with transaction(connection):
        for statement in (TABLES + NEW_TABLES).split(";"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.executemany("INSERT INTO categories VALUES (?, ?, ?, ?, ?)", categories)


def require_made_with(
    connection: sqlite3.Connection, path: Path, config: CatalogConfig, taxonomy: Taxonomy | None
) -> None:
    """Raises ArtifactError unless a store has this schema, these settings and, if one is given,
    this taxonomy. Adds what a store of an older schema lacks."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    old = meta.get("schema") in OLD_SCHEMAS
    if not old:
        require_same(path, {"schema": str(SCHEMA)}, {"schema": meta.get("schema")}, "ingest")
    # A key that is younger than the store has its default.
    settings = CatalogConfig().shape() | json.loads(meta["settings"])
    settings["caps"] = Caps().model_dump() | settings["caps"]
    expected = {
        "settings": config.shape(),
        "taxonomy": taxonomy.fingerprint if taxonomy else meta["taxonomy"],
    }
    require_same(path, expected, {"settings": settings, "taxonomy": meta["taxonomy"]}, "ingest")
    if old:
        _complete(connection)


def _complete(connection: sqlite3.Connection) -> None:
    """What a store of an older schema lacks; its content, and so its fingerprint, stay."""
    for table, name in (("products", "text"), ("images", "name")):
        columns = [column[1] for column in connection.execute(f"PRAGMA table_info ({table})")]
        if name not in columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} TEXT")
    for statement in NEW_TABLES.split(";"):
        connection.execute(statement)


def key_type_of(connection: sqlite3.Connection) -> KeyType:
    """What the keys of a store's products are: integers before schema 3."""
    query = "SELECT value FROM meta WHERE key = 'key_type'"
    row = connection.execute(query).fetchone()
    return "text" if row and row[0] == "text" else "int"


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether the store has a table, which those of older schemas may lack."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def add_rejects(connection: sqlite3.Connection, rejects: Iterable[Reject]) -> None:
    """Writes rejects; one of the same place is replaced."""
    rows = ((r.source, r.offset, r.position, r.product_id, r.reason, r.detail) for r in rejects)
    connection.executemany("INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?, ?)", rows)


def fetch_columns(
    connection: sqlite3.Connection, query: str, parameters: Sequence, width: int
) -> np.ndarray:
    """The result of a query over integers, as contiguous columns: int64 [width, rows]."""
    rows = np.fromiter(connection.execute(query, parameters), dtype=np.dtype((np.int64, width)))
    return np.ascontiguousarray(rows.T)


def read_taxonomy(connection: sqlite3.Connection) -> Taxonomy:
    """The table `categories`."""
    query = "SELECT category_id, level1, level2, level3 FROM categories ORDER BY class_index"
    return Taxonomy(Category(*row) for row in connection.execute(query))


def count_rejects(connection: sqlite3.Connection) -> dict[str, int]:
    """Rejects by reason, the most frequent first."""
    query = "SELECT reason, count(*) FROM rejects GROUP BY reason ORDER BY 2 DESC, 1"
    return dict(connection.execute(query))


_PRODUCTS = "SELECT product_id, class_index, split, state, n_images FROM products ORDER BY 1"
_OLD_PRODUCTS = _PRODUCTS.replace("n_images", "n_images, digest")
_FURTHER = {
    "keys": "SELECT * FROM keys ORDER BY product_id",
    "columns": "SELECT * FROM columns ORDER BY product_id",
}
"""Tables that older stores lack, and those that need none."""


def content_of(connection: sqlite3.Connection) -> str:
    """Fingerprint of a store's sorted rows; the digests of the images stand for their bytes."""
    state = xxhash.xxh3_128()
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    texts = "SELECT product_id, text FROM products WHERE text NOT NULL ORDER BY 1"
    # The same products give the same fingerprint, whether they came as documents or otherwise.
    products = _OLD_PRODUCTS if meta["schema"] in OLD_SCHEMAS else _PRODUCTS
    further = [query for name, query in _FURTHER.items() if has_table(connection, name)]
    queries = (
        "SELECT value FROM meta WHERE key IN ('schema', 'settings', 'taxonomy') ORDER BY key",
        products,
        "SELECT image_id, split, status, duplicate_of, hex(digest), width, height"
        " FROM images ORDER BY 1",
        *([texts] if json.loads(meta["settings"]).get("text") else []),
        *further,
    )
    for query in queries:
        for row in connection.execute(query):
            state.update(repr(row).encode())
    return state.hexdigest()[:16]
