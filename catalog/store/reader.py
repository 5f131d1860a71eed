"""The image store of a run, one SQLite file: categories, products with their split, images, their
bytes, rejects.

This module holds the schema and the reader; `catalog.store.ingest` writes. The original bytes are
kept, never re-encoded.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import xxhash
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from catalog.taxonomy import Category, Taxonomy

SCHEMA = 2
FIRST_SCHEMA = 1
"""Stores of it are read too: their products have no column `text`, which the next ingest adds."""
POSITIONS = 2**14
"""image id = product id * POSITIONS + position of the image in its product."""

REBUILD = "shelfsort ingest --rebuild"
RESUME = "the same `shelfsort ingest` command, which resumes"
USED = "status IN ('ok', 'duplicate')"
"""SQL: images that are evaluated; of those the `ok` ones are fitted."""
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE dumps (fingerprint TEXT PRIMARY KEY, sources TEXT NOT NULL, products INTEGER NOT NULL, images INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('planned', 'complete')));
CREATE TABLE categories (class_index INTEGER PRIMARY KEY, category_id INTEGER NOT NULL UNIQUE,
  level1 TEXT NOT NULL, level2 TEXT NOT NULL, level3 TEXT NOT NULL);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, class_index INTEGER NOT NULL REFERENCES categories,
  split TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('pending', 'kept', 'dropped')),
  n_images INTEGER NOT NULL, digest INTEGER NOT NULL, text TEXT);
CREATE TABLE images (image_id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL REFERENCES products, position INTEGER NOT NULL,
  class_index INTEGER NOT NULL, split TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('ok', 'duplicate', 'blank', 'undecodable')),
  duplicate_of INTEGER, digest BLOB NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, format TEXT NOT NULL,
  n_bytes INTEGER NOT NULL);
CREATE INDEX images_by_digest ON images (digest);
CREATE TABLE blobs (image_id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE rejects (source TEXT NOT NULL, offset INTEGER NOT NULL, position INTEGER NOT NULL, product_id INTEGER NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (source, offset, position)) WITHOUT ROWID;
"""
_CHUNK = 500


def image_ids(product_id: np.ndarray, n_images: np.ndarray) -> np.ndarray:
    """Ids int64 of all images of some products, one product after another."""
    position = np.arange(n_images.sum()) - np.repeat(np.cumsum(n_images) - n_images, n_images)
    return np.repeat(product_id, n_images) * POSITIONS + position


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
    """Rejects by reason, the commonest first."""
    return dict(
        connection.execute(
            "SELECT reason, count(*) FROM rejects GROUP BY reason ORDER BY 2 DESC, 1"
        )
    )


def content_of(connection: sqlite3.Connection) -> str:
    """Fingerprint of a store's sorted rows but for the bytes of the images, which their digests
    stand for."""
    state = xxhash.xxh3_128()
    settings = connection.execute("SELECT value FROM meta WHERE key = 'settings'").fetchone()[0]
    texts = "SELECT product_id, text FROM products WHERE text NOT NULL ORDER BY 1"
    queries = (
        "SELECT value FROM meta WHERE key IN ('schema', 'settings', 'taxonomy') ORDER BY key",
        "SELECT product_id, class_index, split, state, n_images, digest FROM products ORDER BY 1",
        "SELECT image_id, split, status, duplicate_of, hex(digest), width, height FROM images ORDER BY 1",
        *([texts] if json.loads(settings).get("text") else []),
    )
    for query in queries:
        for row in connection.execute(query):
            state.update(repr(row).encode())
    return state.hexdigest()[:16]


def digest_number(digest: bytes) -> int:
    """The first 8 bytes of an image's digest as a number."""
    return int.from_bytes(digest[:8], "big")


class Store:
    """Reader of a finished store. Opens lazily, once per process, so that it can be pickled and
    forked.

    Raises ArtifactError, naming the command that rebuilds it, where the file is missing, damaged,
    unfinished or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_connection": None, "_pid": None}

    @property
    def connection(self) -> sqlite3.Connection:
        """A read-only connection of this process, for queries beyond this class."""
        if self._connection is None or self._pid != os.getpid():
            self._connection, self._pid = self._connect(), os.getpid()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise ArtifactError(self.path, "no such file", REBUILD)
        try:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            connection.execute("PRAGMA mmap_size = 2147483648")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            unfinished = connection.execute(
                "SELECT sources FROM dumps WHERE state = 'planned'"
            ).fetchone()
        except sqlite3.Error as error:
            if Path(
                f"{self.path}-journal"
            ).exists():  # left by a killed writer, who alone may roll it back
                raise ArtifactError(self.path, "its ingest is unfinished", RESUME) from error
            raise ArtifactError(self.path, f"not readable as a store ({error})", REBUILD) from error
        if meta.get("schema") not in (str(FIRST_SCHEMA), str(SCHEMA)):
            raise ArtifactError(
                self.path, f"store of schema {meta.get('schema')}, expected {SCHEMA}", REBUILD
            )
        if unfinished or "content" not in meta:
            sources = ", ".join(json.loads(unfinished[0])) if unfinished else "its dump"
            raise ArtifactError(self.path, f"the ingest of {sources} was interrupted", RESUME)
        return connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        try:
            yield connection
        except sqlite3.Error as error:
            raise ArtifactError(self.path, f"not readable ({error})", REBUILD) from error

    def verify(self) -> None:
        """Reads every row, a few seconds a million, but not the images' bytes, which `read` checks.
        Raises ArtifactError where one is not what ingest wrote: SQLite has no checksums of its
        own."""
        strays = """SELECT count(*) FROM images LEFT JOIN products USING (product_id) WHERE products.split IS NOT images.split
                    OR products.class_index IS NOT images.class_index OR image_id != product_id * ? + position"""
        with self._reading() as connection:
            whole = content_of(connection) == self.fingerprint and read_taxonomy(
                connection
            ).fingerprint == self.meta("taxonomy")
            if not whole or connection.execute(strays, (POSITIONS,)).fetchone()[0]:
                raise ArtifactError(
                    self.path,
                    "its rows are not those that ingest wrote; the file is damaged",
                    REBUILD,
                )

    def meta(self, key: str) -> str:
        """One value of the table `meta`."""
        with self._reading() as connection:
            return connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

    @property
    def fingerprint(self) -> str:
        """Of the sorted content: products, splits, images. The same dump gives the same one, in any
        order, with any workers."""
        return self.meta("content")

    @property
    def settings(self) -> dict:
        """The catalog section of the configuration that the store was made with."""
        return json.loads(self.meta("settings"))

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories, in class-index order."""
        with self._reading() as connection:
            return read_taxonomy(connection)

    def images(self, *splits: str) -> ImageTable:
        """The usable images (`ok` and `duplicate`) of some splits, or of all where none is named,
        in store order."""
        tables = [self._images_of(name) for name in SPLITS if name in (splits or SPLITS)]
        return ImageTable(
            *(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(ImageTable))
        )

    def _images_of(self, split: str) -> ImageTable:
        query = f"""SELECT image_id, product_id, class_index, status = 'ok' FROM images
                    WHERE split = ? AND {USED} ORDER BY class_index, image_id"""
        with self._reading() as connection:
            image_id, product_id, class_index, fit = fetch_columns(connection, query, (split,), 4)
        split_index = np.full(len(image_id), SPLITS.index(split), dtype=np.uint8)
        return ImageTable(
            image_id, product_id, class_index.astype(np.int32), split_index, fit.astype(bool)
        )

    def read(self, image_ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The bytes of some images, in the order asked. Raises ArtifactError where one is missing
        or damaged."""
        wanted = [int(i) for i in image_ids]
        found: dict[int, bytes] = {}
        with self._reading() as connection:
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT image_id, data, digest FROM blobs JOIN images USING (image_id) WHERE image_id IN ({marks})"
                for image_id, data, digest in connection.execute(query, part):
                    if xxhash.xxh3_128_digest(data) != digest:  # SQLite has no checksums of its own
                        raise ArtifactError(self.path, f"image {image_id} is damaged", REBUILD)
                    found[image_id] = data
        if missing := [i for i in wanted if i not in found]:
            raise ArtifactError(self.path, f"image {missing[0]} is missing", REBUILD)
        return [found[i] for i in wanted]

    def texts(self, product_ids: np.ndarray) -> list[str]:
        """The texts of some products, in the order asked; empty where a product has none."""
        wanted, found = product_ids.tolist(), {}
        with self._reading() as connection:
            for start in range(0, len(wanted) if self.settings.get("text") else 0, _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT product_id, text FROM products WHERE product_id IN ({marks}) AND text NOT NULL"
                found |= dict(connection.execute(query, part))
        return [found.get(i, "") for i in wanted]

    def digests(self) -> np.ndarray:
        """The distinct numbers of all images' digests, uint64, sorted."""
        rows = self.connection.execute("SELECT DISTINCT digest FROM images ORDER BY digest")
        return np.unique(np.fromiter((digest_number(row[0]) for row in rows), dtype=np.uint64))

    def natural_counts(self, unit: str) -> np.ndarray:
        """Images or products (`unit` is `image` or `product`) of each class in the catalogue, int64
        [K]: train and reserve, kept or dropped; never validation or test."""
        what = {"image": "sum(n_images)", "product": "count(*)"}[unit]
        query = f"SELECT class_index, {what} FROM products WHERE split IN ('train', 'reserve') GROUP BY class_index"
        with self._reading() as connection:
            counts = np.zeros(
                connection.execute("SELECT count(*) FROM categories").fetchone()[0], dtype=np.int64
            )
            for class_index, n in connection.execute(query):
                counts[class_index] = n
        return counts

    def sharing(self, *splits: str) -> np.ndarray:
        """Pairs of products that share an identical image, int64 [P, 2], both on the given splits
        (all where none is named)."""
        names = splits or SPLITS
        marks = ",".join("?" * len(names))
        query = f"""SELECT DISTINCT a.product_id, b.product_id FROM images a JOIN images b
                    ON a.digest = b.digest AND a.product_id < b.product_id
                    WHERE a.digest IN (SELECT digest FROM images WHERE {USED} GROUP BY digest HAVING count(*) > 1)
                    AND a.{USED} AND b.{USED} AND a.split IN ({marks}) AND b.split IN ({marks})"""
        with self._reading() as connection:
            return fetch_columns(connection, query, [*names, *names], 2).T

    def groups_of(self, product_id: np.ndarray, *splits: str) -> np.ndarray:
        """Group number from 0 of each item, int64 [N], by its product on the given splits: products
        that share a picture there, directly or through others, are one group."""
        products, place = np.unique(product_id, return_inverse=True)
        pairs = self.sharing(*splits)
        pairs = np.searchsorted(products, pairs[np.isin(pairs, products).all(axis=1)])
        links = coo_matrix(
            (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(products),) * 2
        )
        return connected_components(links, directed=False)[1].astype(np.int64)[place]

    def linked(self, split: str) -> np.ndarray:
        """Products of a split that share an identical image with a product of another split, int64,
        sorted."""
        query = f"""SELECT DISTINCT product_id FROM images a WHERE split = ? AND {USED} AND EXISTS
                    (SELECT 1 FROM images b WHERE b.digest = a.digest AND b.split != a.split AND b.{USED}) ORDER BY 1"""
        with self._reading() as connection:
            return np.fromiter(
                (row[0] for row in connection.execute(query, (split,))), dtype=np.int64
            )

    def unseen(self, split: str) -> int:
        """Kept products of a split without a photo that is used: all of them are blank, or can't be
        decoded."""
        query = f"""SELECT count(*) FROM products p WHERE split = ? AND state = 'kept' AND NOT EXISTS
                    (SELECT 1 FROM images WHERE image_id >= p.product_id * ? AND image_id < (p.product_id + 1) * ? AND {USED})"""
        with self._reading() as connection:
            return connection.execute(query, (split, POSITIONS, POSITIONS)).fetchone()[0]
