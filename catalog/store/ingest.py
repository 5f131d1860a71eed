"""Ingest: from a dump to a store. First a plan, made on the index alone: splits and caps. Then only
the chosen images are read, checked by all cores, and written by one process. Killed at any moment,
the same command carries on.

Ingesting the same dump again changes nothing; a later dump adds products, whose splits are dealt so
that the shares hold, and may push products out from under a cap (`dropped`).
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from catalog.artifacts import require_same
from catalog.config import CatalogConfig
from catalog.errors import GO_ON, ArtifactError, ImageError, ShelfsortError
from catalog.progress import progress
from catalog.sources.bson_reader import Product
from catalog.sources.dump_index import DumpIndex, Reject, open_index
from catalog.splits import PRECEDENCE, SPLITS, deal, product_hash, select
from catalog.store.checker import checked_chunks
from catalog.store.image_checks import CheckedImage
from catalog.store.reader import (
    FIRST_SCHEMA,
    POSITIONS,
    REBUILD,
    SCHEMA,
    TABLES,
    content_of,
    count_rejects,
    fetch_columns,
    read_taxonomy,
)
from catalog.taxonomy import Taxonomy

_COMMIT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class IngestSummary:
    """What a store holds after an ingest: products and images in all its dumps, what was kept, what
    was left out and why."""

    products: int
    images: int
    categories: int
    categories_in_use: int
    kept: dict[str, dict[str, int]]
    """Per split: products, images, fit (images that may be fitted)."""
    dropped_products: int
    duplicate_images: int
    blank_images: int
    undecodable_images: int
    """Those kept in the store; by default they are among the rejects."""
    texts: int
    """Kept products that have a text (`catalog.text`)."""
    rejects: dict[str, int]
    changed: bool
    """False where the dump was in the store already."""

    def to_json(self) -> dict:
        """As a dictionary of plain values."""
        return asdict(self)


def ingest(
    store: Path,
    dumps: Sequence[str | Path],
    categories: Path | None,
    config: CatalogConfig,
    *,
    index_folder: Path,
    jobs: int,
    corrections: Mapping[int, int] | None = None,
    executor: Executor | None = None,
    rebuild: bool = False,
) -> IngestSummary:
    """Brings a dump into the store at `store` and returns what the store holds.

    `categories` is category_names.csv; without it the ids of the first dump are the taxonomy.
    `jobs` processes decode, or the workers of `executor`. `corrections`, product id -> category id,
    overrule the dump and what the store has; the split of a product stays. `rebuild` removes the
    store first, once dump, categories and corrections are known to make another. Raises
    ShelfsortError where the store was made with other settings or categories, another ingest is
    unfinished, or no product of the dump has a known category.
    """
    corrections = corrections or {}
    index = open_index(dumps, index_folder).relabelled(corrections)
    if rebuild or not store.exists():
        taxonomy = _taxonomy(index, categories)
        _class_indices(corrections, taxonomy)
        _require_known(index, taxonomy.class_index(index.category_id))
        store.unlink(missing_ok=True)
    try:
        with closing(_open(store)) as connection:
            writer = _Writer(store, connection, config)
            writer.prepare(index, categories)
            if changed := writer.plan(index, corrections):
                writer.copy(index, jobs, executor)
                writer.finish(index)
            return writer.summary(changed)
    except BrokenExecutor as error:
        detail = "a worker process died, of memory or of an image; what was committed is kept"
        raise ShelfsortError(f"{store}: {detail}, {GO_ON} and with fewer workers") from error
    except sqlite3.OperationalError as error:
        raise ShelfsortError(
            f"{store}: can't be written: {error}; what was committed is kept, {GO_ON}"
        ) from error
    except sqlite3.Error as error:
        raise ArtifactError(store, f"not readable as a store ({error})", REBUILD) from error


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = -16384")
    return connection


@dataclass
class _Writer:
    path: Path
    connection: sqlite3.Connection
    config: CatalogConfig

    def prepare(self, index: DumpIndex, categories: Path | None) -> None:
        """Makes the tables, or checks that an existing store was made with the same settings and
        categories."""
        settings = self.config.model_dump(mode="json")
        with _transaction(self.connection):
            if not self.connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'meta'"
            ).fetchone():
                self._create(index, categories, settings)
        meta = dict(self.connection.execute("SELECT key, value FROM meta"))
        first = meta.get("schema") == str(FIRST_SCHEMA)
        if not first:
            require_same(
                self.path, {"schema": str(SCHEMA)}, {"schema": meta.get("schema")}, REBUILD
            )
        taxonomy = Taxonomy.from_csv(categories).fingerprint if categories else meta["taxonomy"]
        made_with = CatalogConfig().model_dump(mode="json") | json.loads(
            meta["settings"]
        )  # a key unknown then has its default
        found = {"settings": made_with, "taxonomy": meta["taxonomy"]}
        require_same(self.path, {"settings": settings, "taxonomy": taxonomy}, found, REBUILD)
        if first:
            self._bring_up()

    def _create(self, index: DumpIndex, categories: Path | None, settings: dict) -> None:
        taxonomy = _taxonomy(index, categories)
        for statement in TABLES.split(";"):
            self.connection.execute(statement)
        meta = {
            "schema": str(SCHEMA),
            "settings": json.dumps(settings),
            "taxonomy": taxonomy.fingerprint,
        }
        self.connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        rows = (
            (i, c.category_id, c.level1, c.level2, c.level3)
            for i, c in enumerate(taxonomy.categories)
        )
        self.connection.executemany("INSERT INTO categories VALUES (?, ?, ?, ?, ?)", rows)

    def _bring_up(self) -> None:
        """Gives a store of the first schema the column that it lacks; its content, and so its
        fingerprint, stay."""
        if "text" not in [
            row[1] for row in self.connection.execute("PRAGMA table_info (products)")
        ]:
            self.connection.execute("ALTER TABLE products ADD COLUMN text TEXT")

    def plan(self, index: DumpIndex, corrections: Mapping[int, int]) -> bool:
        """Deals splits and applies the caps, in one transaction. False where there is nothing left
        to do."""
        moved = self._moved(corrections)
        states = dict(self.connection.execute("SELECT fingerprint, state FROM dumps"))
        if index.fingerprint in states and not moved:
            return states[index.fingerprint] == "planned"
        query = "SELECT sources FROM dumps WHERE state = 'planned' AND fingerprint != ?"
        if other := self.connection.execute(query, (index.fingerprint,)).fetchone():
            detail = f"the ingest of {', '.join(json.loads(other[0]))} is unfinished, or its files changed since"
            raise ShelfsortError(
                f"{self.path}: {detail}; run it to its end first, or start over with: {REBUILD}"
            )
        with _transaction(self.connection):
            paths = json.dumps([source.path for source in index.sources])
            row = (index.fingerprint, paths, len(index), int(index.n_images.sum()), "planned")
            self.connection.execute("INSERT OR REPLACE INTO dumps VALUES (?, ?, ?, ?, ?)", row)
            self.connection.execute("DELETE FROM meta WHERE key = 'content'")
            self._reject(index.rejects)
            self._move(moved)
            self._add(index)
            self._apply_caps()
        return True

    def _moved(self, corrections: Mapping[int, int]) -> list[tuple[int, int]]:
        """Class index and id of the store's products that have another category than an analyst
        gave them."""
        query = "SELECT 1 FROM products WHERE class_index != ? AND product_id = ?"
        pairs = zip(
            _class_indices(corrections, read_taxonomy(self.connection)), corrections, strict=True
        )
        return [pair for pair in pairs if self.connection.execute(query, pair).fetchone()]

    def _move(self, moved: Sequence[tuple[int, int]]) -> None:
        """Gives products and their images these class indices."""
        self.connection.executemany(
            "UPDATE products SET class_index = ? WHERE product_id = ?", moved
        )
        spans = ((c, i * POSITIONS, (i + 1) * POSITIONS) for c, i in moved)
        self.connection.executemany(
            "UPDATE images SET class_index = ? WHERE image_id >= ? AND image_id < ?", spans
        )

    def _add(self, index: DumpIndex) -> None:
        """Deals the products that the store doesn't have yet."""
        classes, new = self._new_products(index)
        existing = np.zeros((self._count("categories"), len(SPLITS)), dtype=np.int64)
        for class_index, split, n in self.connection.execute(
            "SELECT class_index, split, count(*) FROM products GROUP BY 1, 2"
        ):
            existing[class_index, SPLITS.index(split)] = n
        split = deal(classes[new], index.product_id[new], existing, self.config.seed)
        digest = index.digest[new].astype(np.int64)
        columns = [
            c.tolist()
            for c in (index.product_id[new], classes[new], split, index.n_images[new], digest)
        ]
        rows = ((i, c, SPLITS[s], n, d) for i, c, s, n, d in zip(*columns, strict=True))
        self.connection.executemany(
            "INSERT INTO products VALUES (?, ?, ?, 'pending', ?, ?, NULL)", rows
        )

    def _new_products(self, index: DumpIndex) -> tuple[np.ndarray, np.ndarray]:
        """Class index of each row of the index, and the rows that are new products.

        Rejects rows without a known category, and those whose _id has other content elsewhere: what
        the store has stands; within a dump the document of lowest digest does, so that the order of
        the dump doesn't matter.
        """
        classes = read_taxonomy(self.connection).class_index(index.category_id)
        _require_known(index, classes)
        # corrections may have given some another
        stale = "DELETE FROM rejects WHERE reason = 'unknown_category' AND source = ?"
        self.connection.executemany(stale, [(source.path,) for source in index.sources])
        unknown = np.flatnonzero(classes < 0).tolist()
        self._reject(
            _reject_row(index, row, "unknown_category", _category_detail(index, row))
            for row in unknown
        )
        known = np.flatnonzero(classes >= 0)
        old_id, old_digest = fetch_columns(
            self.connection, "SELECT product_id, digest FROM products", (), 2
        )
        ids = np.concatenate([old_id, index.product_id[known]])
        digests = np.concatenate([old_digest, index.digest[known].astype(np.int64)])
        rows = np.concatenate([np.full(len(old_id), -1), known])
        order = np.lexsort((digests, rows >= 0, ids))
        first = np.r_[True, np.diff(ids[order]) != 0] if len(order) else np.zeros(0, dtype=bool)
        standing = digests[order][first][np.cumsum(first) - 1]
        conflicts = rows[order][digests[order] != standing].tolist()
        detail = "another document with this _id and other content stands in the store"
        self._reject(_reject_row(index, row, "conflicting_product", detail) for row in conflicts)
        leaders = rows[order][first]
        return classes, leaders[leaders >= 0]

    def _apply_caps(self) -> None:
        """Drops the products that a cap leaves out, with the images that the store had of them."""
        query = "SELECT product_id, class_index, n_images FROM products WHERE split = ?"
        for split in SPLITS:
            if (cap := getattr(self.config.caps, split)) is None:
                continue
            product_id, class_index, n_images = fetch_columns(self.connection, query, (split,), 3)
            kept = select(class_index, product_id, n_images, cap, self.config.seed)
            spans = [(i * POSITIONS, (i + 1) * POSITIONS) for i in product_id[~kept].tolist()]
            self.connection.executemany(
                "DELETE FROM blobs WHERE image_id >= ? AND image_id < ?", spans
            )
            self.connection.executemany(
                "DELETE FROM images WHERE image_id >= ? AND image_id < ?", spans
            )
            dropped = ((i,) for i in product_id[~kept].tolist())
            self.connection.executemany(
                "UPDATE products SET state = 'dropped' WHERE product_id = ?", dropped
            )

    def copy(self, index: DumpIndex, jobs: int, executor: Executor | None) -> None:
        """Reads, checks and writes the images of every pending product, a transaction every 16 MiB."""
        places = self._pending(index)
        written = 0
        with progress(len(places), "ingest", "product") as bar:
            for chunk, products, checked in checked_chunks(
                index, places, self.config, jobs, executor
            ):
                if not self.connection.in_transaction:
                    self.connection.execute("BEGIN IMMEDIATE")
                for place, product, images in zip(chunk, products, checked, strict=True):
                    self._write(index, place, product, images)
                written += int(index.length[chunk[:, 0]].sum())
                if written > _COMMIT_BYTES:
                    self.connection.execute("COMMIT")
                    written = 0
                bar.update(len(chunk))
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def _pending(self, index: DumpIndex) -> np.ndarray:
        """Row of the index, class index and split number of every pending product, int64 [P, 3], in
        the order of the dump."""
        parts = []
        query = "SELECT product_id, digest, class_index FROM products WHERE state = 'pending' AND split = ?"
        for number, split in enumerate(SPLITS):
            columns = fetch_columns(self.connection, query, (split,), 3)
            parts.append(np.vstack([columns, np.full((1, columns.shape[1]), number)]))
        product_id, digest, class_index, split_number = np.concatenate(parts, axis=1)
        if not product_id.size:
            return np.zeros((0, 3), dtype=np.int64)
        order = np.argsort(product_id)
        place = order[
            np.searchsorted(product_id, index.product_id, sorter=order).clip(max=len(order) - 1)
        ]
        same = (product_id[place] == index.product_id) & (
            digest[place] == index.digest.astype(np.int64)
        )
        rows = np.flatnonzero(same)
        rows = np.sort(rows[np.unique(index.product_id[rows], return_index=True)[1]])
        return np.stack([rows, class_index[place[rows]], split_number[place[rows]]], axis=1)

    def _write(
        self,
        index: DumpIndex,
        place: np.ndarray,
        product: Product,
        checked: list[CheckedImage | ImageError],
    ) -> None:
        row, class_index, split = int(place[0]), int(place[1]), SPLITS[place[2]]
        for position, (data, result) in enumerate(zip(product.images, checked, strict=True)):
            if isinstance(result, ImageError):
                self._reject([_reject_row(index, row, result.reason, result.detail, position)])
                continue
            image_id = product.product_id * POSITIONS + position
            values = (
                image_id,
                product.product_id,
                position,
                class_index,
                split,
                result.status,
                None,
                result.digest,
            )
            values += (result.width, result.height, result.format, len(data))
            self.connection.execute(
                f"INSERT INTO images VALUES ({','.join('?' * len(values))})", values
            )
            self.connection.execute("INSERT INTO blobs VALUES (?, ?)", (image_id, data))
        text = product.text(self.config.text) or None
        query = "UPDATE products SET state = 'kept', text = ? WHERE product_id = ?"
        self.connection.execute(query, (text, product.product_id))

    def finish(self, index: DumpIndex) -> None:
        """Marks duplicates, fingerprints the content and declares the dump complete."""
        with _transaction(self.connection):
            if self.config.duplicates == "drop":
                self._mark_duplicates()
            content = content_of(self.connection)
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('content', ?)", (content,))
            self.connection.execute(
                "UPDATE dumps SET state = 'complete' WHERE fingerprint = ?", (index.fingerprint,)
            )

    def _mark_duplicates(self) -> None:
        seed = self.config.seed
        self.connection.create_function("precedence", 1, PRECEDENCE.__getitem__, deterministic=True)
        self.connection.create_function(
            "product_hash",
            1,
            lambda i: int(product_hash(np.array([i]), seed)[0] >> np.uint64(1)),
            deterministic=True,
        )
        self.connection.execute(
            "UPDATE images SET status = 'ok', duplicate_of = NULL WHERE status = 'duplicate'"
        )
        self.connection.execute(
            """WITH copies AS (SELECT image_id, first_value(image_id) OVER (PARTITION BY digest
                 ORDER BY precedence(split), product_hash(product_id), image_id) AS keeper
               FROM images WHERE status = 'ok' AND digest IN
                 (SELECT digest FROM images WHERE status = 'ok' GROUP BY digest HAVING count(*) > 1))
               UPDATE images SET status = 'duplicate', duplicate_of = keeper
               FROM copies WHERE copies.image_id = images.image_id AND keeper != images.image_id"""
        )

    def _count(self, table: str) -> int:
        return self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

    def _reject(self, rejects: Iterable[Reject]) -> None:
        rows = ((r.source, r.offset, r.position, r.product_id, r.reason, r.detail) for r in rejects)
        self.connection.executemany(
            "INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?, ?)", rows
        )

    def summary(self, changed: bool) -> IngestSummary:
        """Counts of the finished store."""
        query = self.connection.execute
        kept: dict[str, dict[str, int]] = {
            name: {"products": 0, "images": 0, "fit": 0} for name in SPLITS
        }
        for split, n in query(
            "SELECT split, count(*) FROM products WHERE state = 'kept' GROUP BY 1"
        ):
            kept[split]["products"] = n
        status: Counter[str] = Counter()
        for split, name, n in query("SELECT split, status, count(*) FROM images GROUP BY 1, 2"):
            status[name] += n
            kept[split]["images"] += n * (name in ("ok", "duplicate"))
            kept[split]["fit"] += n * (name == "ok")
        products, images = query(
            "SELECT count(*), coalesce(sum(n_images), 0) FROM products"
        ).fetchone()
        return IngestSummary(
            products,
            images,
            self._count("categories"),
            query("SELECT count(DISTINCT class_index) FROM products").fetchone()[0],
            kept,
            query("SELECT count(*) FROM products WHERE state = 'dropped'").fetchone()[0],
            status["duplicate"],
            status["blank"],
            status["undecodable"],
            self._count("products WHERE state = 'kept' AND text NOT NULL"),
            count_rejects(self.connection),
            changed,
        )


class _transaction:
    """BEGIN IMMEDIATE .. COMMIT, rolled back on any exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.connection.execute("ROLLBACK" if kind else "COMMIT")


def _taxonomy(index: DumpIndex, categories: Path | None) -> Taxonomy:
    """Of a new store."""
    if categories:
        return Taxonomy.from_csv(categories)
    if not (index.category_id >= 0).any():
        raise ShelfsortError(
            f"{index.sources[0].path}: no product has a category_id; a store is made from a labelled dump"
        )
    return Taxonomy.from_ids(index.category_id[index.category_id >= 0])


def _require_known(index: DumpIndex, classes: np.ndarray) -> None:
    """Raises ShelfsortError where no row of the index has a class: such a dump is the wrong one."""
    if (classes >= 0).any():
        return
    without = int((index.category_id < 0).sum())
    found = f"{without} without category_id, {len(index) - without} of unknown categories, {len(index.rejects)} unreadable"
    raise ShelfsortError(
        f"{index.sources[0].path}: expected products of the known categories, found none: {found}; "
        "give a labelled dump and the category_names.csv that belongs to it"
    )


def _class_indices(corrections: Mapping[int, int], taxonomy: Taxonomy) -> list[int]:
    """Of the corrections' categories. Raises ShelfsortError where there is no such category."""
    classes = taxonomy.class_index(np.array(list(corrections.values()), dtype=np.int64)).tolist()
    for (product, category), found in zip(corrections.items(), classes, strict=True):
        if found < 0:
            raise ShelfsortError(
                f"corrections: product {product}: category_id {category} is not in the taxonomy"
            )
    return classes


def _reject_row(index: DumpIndex, row: int, reason: str, detail: str, position: int = -1) -> Reject:
    source = index.sources[int(index.source[row])].path
    return Reject(
        source, int(index.offset[row]), position, int(index.product_id[row]), reason, detail
    )


def _category_detail(index: DumpIndex, row: int) -> str:
    category = int(index.category_id[row])
    return (
        "category_id is missing"
        if category < 0
        else f"category_id {category} is not in the taxonomy"
    )
