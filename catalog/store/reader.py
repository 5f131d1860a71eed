"""Reader of a run's image store, one SQLite file: categories, products with their split, images,
their bytes, rejects. `catalog.store.schema` has the tables, `catalog.store.ingest` writes them."""

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
from catalog.image_table import POSITIONS, ImageTable
from catalog.splits import SPLITS
from catalog.store.schema import (
    FIRST_SCHEMA,
    REBUILD,
    RESUME,
    SCHEMA,
    USED,
    content_of,
    fetch_columns,
    read_taxonomy,
)
from catalog.taxonomy import Taxonomy

_CHUNK = 500


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
