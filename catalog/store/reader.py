"""Reader of a run's image store, one SQLite file: categories, products with their split, images,
their bytes, rejects. `catalog.store.schema` has the tables, `catalog.store.ingest` writes them."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas
import xxhash
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from catalog.artifacts import unreadable
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import POSITIONS, ImageTable
from catalog.sources.dump_index import Reject
from catalog.sources.keys import Key, KeyType
from catalog.splits import SPLITS
from catalog.store.columns import frame
from catalog.store.schema import (
    OLD_SCHEMAS,
    SCHEMA,
    USED,
    content_of,
    count_rejects,
    fetch_columns,
    has_table,
    key_type_of,
    read_taxonomy,
)
from catalog.taxonomy import Taxonomy

_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CHUNK = 500
"""Rows that one query asks for by id."""


def digest_number(digest: bytes) -> int:
    """The first 8 bytes of an image's digest as a number."""
    return int.from_bytes(digest[:8], "big")


class StoreCounts(NamedTuple):
    """Rows of a store: products kept or dropped, and images, of which some are copies or blank."""

    products: int
    images: int
    duplicates: int
    blanks: int


class BlankImage(NamedTuple):
    """An image that shows nothing."""

    product_id: int
    position: int
    class_index: int


class Conflicts(NamedTuple):
    """Images with the same bytes in different categories, int64 [N] each: `group` numbers the
    pictures; rows in order of group and image id."""

    group: np.ndarray
    image_id: np.ndarray
    product_id: np.ndarray
    class_index: np.ndarray


def _require_opens(path: Path) -> None:
    """Raises ArtifactError if there is no such file, ShelfsortError if the system refuses to open
    it: SQLite says no more than that it can't."""
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise ArtifactError(path, "no such file", "ingest") from None
    except OSError as error:
        raise unreadable(path, f"not readable ({error})", "ingest", error) from error


def _unreadable(path: Path, error: sqlite3.Error) -> ShelfsortError:
    """The error to raise for SQLite's. One that says nothing about the file's content has nothing
    rebuilt."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_USE:
        return ShelfsortError(f"{path}: can't be read: {error}; another program writes it")
    return ArtifactError(path, f"not readable as a store ({error})", "ingest")


class Store:
    """Reader of a finished store. Opens lazily, once per process, so that it can be pickled and
    forked.

        store = Store("runs/first/store.sqlite")
        table = store.images("val_a")
        jpegs = store.read(table.image_id[:32])

    Raises ArtifactError if the file is missing, damaged, unfinished or of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_connection": None, "_pid": None}

    @property
    def connection(self) -> sqlite3.Connection:
        """A read-only connection of this process."""
        if self._connection is None or self._pid != os.getpid():
            self._connection, self._pid = self._connect(), os.getpid()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        _require_opens(self.path)
        try:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            connection.execute("PRAGMA mmap_size = 2147483648")
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            query = "SELECT sources FROM dumps WHERE state = 'planned'"
            unfinished = connection.execute(query).fetchone()
        except sqlite3.Error as error:
            # Left by a killed writer; only a writer may roll it back.
            if Path(f"{self.path}-journal").exists():
                raise ArtifactError(
                    self.path, "its ingest is unfinished", "ingest", resume=True
                ) from error
            raise _unreadable(self.path, error) from error
        if (schema := meta.get("schema")) not in (*OLD_SCHEMAS, str(SCHEMA)):
            raise ArtifactError(self.path, f"store of schema {schema}, expected {SCHEMA}", "ingest")
        if unfinished or "content" not in meta:
            sources = ", ".join(json.loads(unfinished[0])) if unfinished else "its dump"
            raise ArtifactError(
                self.path, f"the ingest of {sources} was interrupted", "ingest", resume=True
            )
        return connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        try:
            yield connection
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error

    def _rows(self, query: str, parameters: Sequence = ()) -> list[tuple]:
        with self._reading() as connection:
            return connection.execute(query, parameters).fetchall()

    def _columns(self, query: str, parameters: Sequence, width: int) -> np.ndarray:
        """int64 [width, rows]"""
        with self._reading() as connection:
            return fetch_columns(connection, query, parameters, width)

    def _rows_of(self, query: str, ids: Sequence[int | str]) -> Iterator[tuple]:
        """The rows of a query that ends in `IN`, for some ids, in any order."""
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            yield from self._rows(f"{query} ({','.join('?' * len(chunk))})", chunk)

    def verify(self) -> None:
        """Reads every row, a few seconds per million, but not the images' bytes, which `read`
        checks. Raises ArtifactError if one is not what ingest wrote: SQLite has no checksums of its
        own."""
        strays = """SELECT count(*) FROM images LEFT JOIN products USING (product_id)
                    WHERE products.split IS NOT images.split
                    OR products.class_index IS NOT images.class_index
                    OR image_id != product_id * ? + position"""
        with self._reading() as connection:
            whole = (
                content_of(connection) == self.fingerprint
                and read_taxonomy(connection).fingerprint == self.meta("taxonomy")
                and not connection.execute(strays, (POSITIONS,)).fetchone()[0]
            )
        if not whole:
            problem = "its rows are not those that ingest wrote; the file is damaged"
            raise ArtifactError(self.path, problem, "ingest")

    def meta(self, key: str) -> str:
        """One value of the table `meta`."""
        return self._rows("SELECT value FROM meta WHERE key = ?", (key,))[0][0]

    @property
    def fingerprint(self) -> str:
        """Of the sorted content: products, splits, images. The same dump gives the same one, in any
        order, with any workers."""
        return self.meta("content")

    @property
    def earlier_labels(self) -> list[str]:
        """Fingerprints that the store had before corrections of labels, which changed no picture
        and no split since."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'earlier_labels'")
        return json.loads(rows[0][0]) if rows else []

    @property
    def settings(self) -> dict:
        """The catalog section of the configuration that the store was made with."""
        return json.loads(self.meta("settings"))

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories, in class-index order."""
        with self._reading() as connection:
            return read_taxonomy(connection)

    def dump_sources(self) -> list[str]:
        """Paths or URLs of the dumps' files, in the order of their ingests."""
        rows = self._rows("SELECT sources FROM dumps ORDER BY rowid")
        return [path for (text,) in rows for path in json.loads(text)]

    def counts(self) -> StoreCounts:
        """How much the store holds."""
        [(products,)] = self._rows("SELECT count(*) FROM products")
        query = """SELECT count(*), count(*) FILTER (WHERE status = 'duplicate'),
                   count(*) FILTER (WHERE status = 'blank') FROM images"""
        return StoreCounts(products, *self._rows(query)[0])

    def images(self, *splits: str) -> ImageTable:
        """The usable images (`ok` and `duplicate`) of some splits, or of all if none is named, in
        store order."""
        tables = [self._images_of(name) for name in SPLITS if name in (splits or SPLITS)]
        return ImageTable(
            *(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(ImageTable))
        )

    def _images_of(self, split: str) -> ImageTable:
        query = f"""SELECT image_id, product_id, class_index, status = 'ok' FROM images
                    WHERE split = ? AND {USED} ORDER BY class_index, image_id"""
        image_id, product_id, class_index, fit = self._columns(query, (split,), 4)
        split_index = np.full(len(image_id), SPLITS.index(split), dtype=np.uint8)
        return ImageTable(
            image_id, product_id, class_index.astype(np.int32), split_index, fit.astype(bool)
        )

    def image_ids_of(self, product_id: int) -> list[int]:
        """The stored images of a product that can be decoded, blank ones included, in order."""
        span = (product_id * POSITIONS, (product_id + 1) * POSITIONS)
        query = """SELECT image_id FROM blobs JOIN images USING (image_id)
                   WHERE image_id >= ? AND image_id < ? AND status != 'undecodable' ORDER BY 1"""
        return [image_id for (image_id,) in self._rows(query, span)]

    def read(self, image_ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The bytes of some images, in the order asked. Raises ArtifactError if one is missing or
        damaged."""
        wanted = [int(i) for i in image_ids]
        bytes_of: dict[int, bytes] = {}
        query = """SELECT image_id, data, digest FROM blobs JOIN images USING (image_id)
                   WHERE image_id IN"""
        for image_id, data, digest in self._rows_of(query, wanted):
            if xxhash.xxh3_128_digest(data) != digest:
                raise ArtifactError(self.path, f"image {image_id} is damaged", "ingest")
            bytes_of[image_id] = data
        if missing := [i for i in wanted if i not in bytes_of]:
            raise ArtifactError(self.path, f"image {missing[0]} is missing", "ingest")
        return [bytes_of[i] for i in wanted]

    def formats(self, image_ids: np.ndarray) -> list[str]:
        """The format (`JPEG`, `PNG` ...) of some stored images, in the order asked."""
        wanted = image_ids.tolist()
        query = "SELECT image_id, format FROM images WHERE image_id IN"
        format_of = dict(self._rows_of(query, wanted))
        return [format_of[i] for i in wanted]

    def texts(self, product_ids: np.ndarray) -> list[str]:
        """The texts of some products, in the order asked; empty if a product has none."""
        wanted: list[int] = product_ids.tolist()
        if not self.settings.get("text"):
            return [""] * len(wanted)
        query = "SELECT product_id, text FROM products WHERE text NOT NULL AND product_id IN"
        text_of = dict(self._rows_of(query, wanted))
        return [text_of.get(i, "") for i in wanted]

    def columns(self, product_ids: np.ndarray) -> pandas.DataFrame:
        """The columns of some products that the store was told to keep (`catalog.columns`), one row
        per product in the order asked. What is missing is NaN, NaT or None.

        store.columns(store.images("train").product_id)["price"]
        """
        names, wanted = self.settings.get("columns", []), product_ids.tolist()
        rows: dict[int, str] = {}
        if names:
            query = "SELECT product_id, content FROM columns WHERE product_id IN"
            rows = dict(self._rows_of(query, list(dict.fromkeys(wanted))))
        return frame(names, [rows.get(i) for i in wanted])

    @property
    def key_type(self) -> KeyType:
        """What the shop's own keys are, `int` or `text`."""
        with self._reading() as connection:
            return key_type_of(connection)

    def keys(self, product_ids: np.ndarray) -> list[Key]:
        """The shop's own keys of some products, in the order asked. Inverse: `numbers`."""
        wanted = product_ids.tolist()
        text_of: dict[int, str] = {}
        if self._has_keys():
            query = "SELECT product_id, key FROM keys WHERE product_id IN"
            text_of = dict(self._rows_of(query, list(dict.fromkeys(wanted))))
        typed = int if self.key_type == "int" else str
        return [typed(text_of.get(i, i)) for i in wanted]

    def numbers(self, keys: Sequence[Key]) -> np.ndarray:
        """The product ids of the shop's own keys, int64 [N]; -1 for what the store doesn't have."""
        texts = list(map(str, keys))
        number_of: dict[str, int] = {}
        if self._has_keys():
            query = "SELECT key, product_id FROM keys WHERE key IN"
            number_of = dict(self._rows_of(query, list(dict.fromkeys(texts))))
        if self.key_type == "int":
            small = [int(t) for t in texts if t.isascii() and t.isdecimal() and len(t) < 16]
            query = "SELECT product_id FROM products WHERE product_id IN"
            here = {i for (i,) in self._rows_of(query, list(dict.fromkeys(small)))}
            number_of = {str(i): i for i in here} | number_of
        return np.array([number_of.get(text, -1) for text in texts], dtype=np.int64)

    def _has_keys(self) -> bool:
        with self._reading() as connection:
            return has_table(connection, "keys")

    def picture_digests(self, image_ids: np.ndarray) -> list[str]:
        """The digest of some images' bytes (xxh3_128, hexadecimal), in the order asked."""
        query = "SELECT image_id, digest FROM images WHERE image_id IN"
        wanted: list[int] = image_ids.tolist()
        digest_of = dict(self._rows_of(query, wanted))
        return [digest_of[i].hex() for i in wanted]

    def digests(self) -> np.ndarray:
        """The distinct numbers of all images' digests, uint64, sorted."""
        with self._reading() as connection:
            rows = connection.execute("SELECT DISTINCT digest FROM images ORDER BY digest")
            return np.unique(np.fromiter((digest_number(row[0]) for row in rows), dtype=np.uint64))

    def image_counts(self, split: str) -> np.ndarray:
        """Usable images of each class in a split, int64 [K]."""
        query = f"""SELECT class_index, count(*) FROM images
                    WHERE split = ? AND {USED} GROUP BY class_index"""
        return self._per_class(query, (split,))

    def natural_counts(self, unit: str) -> np.ndarray:
        """Images or products (`unit` is `image` or `product`) of each class in the catalogue, int64
        [K]: train, extra and reserve, kept or dropped; never validation or test."""
        amount = {"image": "sum(n_images)", "product": "count(*)"}[unit]
        query = f"""SELECT class_index, {amount} FROM products
                    WHERE split IN ('train', 'extra', 'reserve') GROUP BY class_index"""
        return self._per_class(query)

    def _per_class(self, query: str, parameters: Sequence = ()) -> np.ndarray:
        counts = np.zeros(self._rows("SELECT count(*) FROM categories")[0][0], dtype=np.int64)
        class_index, count = self._columns(query, parameters, 2)
        counts[class_index] = count
        return counts

    def sharing(self, *splits: str) -> np.ndarray:
        """Pairs of products that share an identical image, int64 [P, 2], both on the given splits
        (all if none is named)."""
        names = splits or SPLITS
        marks = ",".join("?" * len(names))
        query = f"""SELECT DISTINCT a.product_id, b.product_id FROM images a JOIN images b
                    ON a.digest = b.digest AND a.product_id < b.product_id
                    WHERE a.digest IN (SELECT digest FROM images WHERE {USED}
                                       GROUP BY digest HAVING count(*) > 1)
                    AND a.{USED} AND b.{USED} AND a.split IN ({marks}) AND b.split IN ({marks})"""
        return self._columns(query, [*names, *names], 2).T

    def groups_of(self, product_id: np.ndarray, *splits: str) -> np.ndarray:
        """Group number from 0 of each item, int64 [N], by its product on the given splits: products
        that share a picture there, directly or through others, are one group."""
        products, row = np.unique(product_id, return_inverse=True)
        pairs = self.sharing(*splits)
        pairs = np.searchsorted(products, pairs[np.isin(pairs, products).all(axis=1)])
        links = coo_matrix(
            (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(products),) * 2
        )
        return connected_components(links, directed=False)[1].astype(np.int64)[row]

    def linked(self, split: str) -> np.ndarray:
        """Products of a split that share an identical image with a product of another split, int64,
        sorted."""
        query = f"""SELECT DISTINCT product_id FROM images a WHERE split = ? AND {USED} AND EXISTS
                    (SELECT 1 FROM images b WHERE b.digest = a.digest AND b.split != a.split
                     AND b.{USED}) ORDER BY 1"""
        return np.array([row[0] for row in self._rows(query, (split,))], dtype=np.int64)

    def unseen(self, split: str) -> int:
        """Kept products of a split without a usable photo: all of them are blank, or can't be
        decoded."""
        query = f"""SELECT count(*) FROM products p
                    WHERE split = ? AND state = 'kept' AND NOT EXISTS
                    (SELECT 1 FROM images WHERE image_id >= p.product_id * ?
                     AND image_id < (p.product_id + 1) * ? AND {USED})"""
        return self._rows(query, (split, POSITIONS, POSITIONS))[0][0]

    def conflicts(self) -> Conflicts:
        """The usable images whose bytes occur in several categories."""
        query = f"""SELECT dense_rank() OVER (ORDER BY digest) - 1, image_id, product_id,
                    class_index FROM images WHERE {USED} AND digest IN
                    (SELECT digest FROM images WHERE {USED}
                     GROUP BY digest HAVING count(DISTINCT class_index) > 1) ORDER BY 1, 2"""
        return Conflicts(*self._columns(query, (), 4))

    def blanks(self, limit: int) -> list[BlankImage]:
        """The first images that show nothing, by image id."""
        query = """SELECT product_id, position, class_index FROM images
                   WHERE status = 'blank' ORDER BY image_id LIMIT ?"""
        return [BlankImage(*row) for row in self._rows(query, (limit,))]

    def rejects(self, limit: int) -> list[Reject]:
        """The first documents and images that were left out, by reason and product id."""
        query = """SELECT source, offset, position, product_id, reason, detail FROM rejects
                   ORDER BY reason, product_id LIMIT ?"""
        return [Reject(*row) for row in self._rows(query, (limit,))]

    def reject_counts(self) -> dict[str, int]:
        """Rejects by reason, the most frequent first."""
        with self._reading() as connection:
            return count_rejects(connection)
