"""What an ingest will do, decided on the index of the dump alone: which products are new, their
splits, and which of them a cap leaves out. Written to the store in one transaction; nothing of the
photos is read."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from catalog.arrays import starts_group
from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import POSITIONS
from catalog.sources.dump_index import DumpIndex
from catalog.splits import SPLITS, deal, select
from catalog.store.schema import (
    add_rejects,
    fetch_columns,
    read_taxonomy,
    transaction,
)
from catalog.taxonomy import Taxonomy


def plan(
    connection: sqlite3.Connection,
    path: Path,
    index: DumpIndex,
    corrections: Mapping[int, int],
    config: CatalogConfig,
) -> bool:
    """Deals the new products to the splits, moves the corrected ones and applies the caps. Whether
    there is something to copy: False if the dump is in the store already.

    Raises ArtifactError if another dump's ingest is unfinished.
    """
    moved = _corrected(connection, corrections)
    states = dict(connection.execute("SELECT fingerprint, state FROM dumps"))
    fingerprint = index.fingerprint
    if fingerprint in states and not moved:
        return states[fingerprint] == "planned"
    _require_finished(connection, path, fingerprint)
    with transaction(connection):
        paths = json.dumps([source.path for source in index.sources])
        row = (fingerprint, paths, len(index), int(index.n_images.sum()), "planned")
        connection.execute("INSERT OR REPLACE INTO dumps VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("DELETE FROM meta WHERE key = 'content'")
        add_rejects(connection, index.rejects)
        _move(connection, moved)
        _add_products(connection, index, config.seed)
        _apply_caps(connection, config)
    return True


def _require_finished(connection: sqlite3.Connection, path: Path, fingerprint: str) -> None:
    """Raises ArtifactError if a dump of another fingerprint is planned and not yet copied."""
    query = "SELECT sources FROM dumps WHERE state = 'planned' AND fingerprint != ?"
    if other := connection.execute(query, (fingerprint,)).fetchone():
        dumps = ", ".join(json.loads(other[0]))
        problem = (
            f"the ingest of {dumps} is unfinished, or its files changed since; finish it first"
        )
        raise ArtifactError(path, problem, "ingest")


def _corrected(
    connection: sqlite3.Connection, corrections: Mapping[int, int]
) -> list[tuple[int, int]]:
    """(class index, product id) of the store's products whose category an analyst corrected."""
    query = "SELECT 1 FROM products WHERE class_index != ? AND product_id = ?"
    classes = classes_of_corrections(corrections, read_taxonomy(connection))
    pairs = zip(classes, corrections, strict=True)
    return [pair for pair in pairs if connection.execute(query, pair).fetchone()]


def stored_labels(connection: sqlite3.Connection, product_ids: Iterable[int]) -> dict[int, int]:
    """Category id of those of some products that the store has, kept or not."""
    query = """SELECT category_id FROM products JOIN categories USING (class_index)
               WHERE product_id = ?"""
    found = {}
    for product_id in product_ids:
        if row := connection.execute(query, (product_id,)).fetchone():
            found[product_id] = row[0]
    return found


def _move(connection: sqlite3.Connection, moved: Sequence[tuple[int, int]]) -> None:
    """Gives products and their images these class indices; their splits stay."""
    connection.executemany("UPDATE products SET class_index = ? WHERE product_id = ?", moved)
    spans = ((c, i * POSITIONS, (i + 1) * POSITIONS) for c, i in moved)
    query = "UPDATE images SET class_index = ? WHERE image_id >= ? AND image_id < ?"
    connection.executemany(query, spans)


def _add_products(connection: sqlite3.Connection, index: DumpIndex, seed: int) -> None:
    """Deals the products that the store doesn't have yet to the splits."""
    taxonomy = read_taxonomy(connection)
    classes = taxonomy.class_index(index.category_id)
    require_known(index, classes)
    _reject_unknown(connection, index, classes)
    new = _new_rows(connection, index, classes)
    existing = np.zeros((len(taxonomy), len(SPLITS)), dtype=np.int64)
    query = "SELECT class_index, split, count(*) FROM products GROUP BY 1, 2"
    for class_index, name, count in connection.execute(query):
        existing[class_index, SPLITS.index(name)] = count
    split = deal(classes[new], index.product_id[new], existing, seed)
    digest = index.digest[new].astype(np.int64)
    columns = (index.product_id[new], classes[new], split, index.n_images[new], digest)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    connection.executemany(
        "INSERT INTO products VALUES (?, ?, ?, 'pending', ?, ?, NULL)",
        ((i, c, SPLITS[s], n, d) for i, c, s, n, d in rows),
    )


def _reject_unknown(connection: sqlite3.Connection, index: DumpIndex, classes: np.ndarray) -> None:
    """Rejects the rows without a known category, in place of those of an earlier plan: corrections
    may have given some a category."""
    stale = "DELETE FROM rejects WHERE reason = 'unknown_category' AND source = ?"
    connection.executemany(stale, [(source.path,) for source in index.sources])
    rejects = []
    for row in np.flatnonzero(classes < 0).tolist():
        category = int(index.category_id[row])
        missing = "category_id is missing"
        unknown = f"category_id {category} is not in the taxonomy"
        detail = missing if category < 0 else unknown
        rejects.append(index.reject(row, "unknown_category", detail))
    add_rejects(connection, rejects)


def _new_rows(connection: sqlite3.Connection, index: DumpIndex, classes: np.ndarray) -> np.ndarray:
    """The rows of the index, int64, that are products of a known category and not in the store.

    Rejects those whose _id has other content elsewhere. What the store has stays; within a dump the
    document of the lowest digest does, so that the order of the dump doesn't matter.
    """
    known = np.flatnonzero(classes >= 0)
    query = "SELECT product_id, digest FROM products"
    stored_id, stored_digest = fetch_columns(connection, query, (), 2)
    ids = np.concatenate([stored_id, index.product_id[known]])
    digests = np.concatenate([stored_digest, index.digest[known].astype(np.int64)])
    rows = np.concatenate([np.full(len(stored_id), -1), known])
    order = np.lexsort((digests, rows >= 0, ids))
    first = starts_group(ids[order])
    kept_digest = digests[order][first][np.cumsum(first) - 1]
    conflicts = rows[order][digests[order] != kept_digest].tolist()
    detail = "another document with this _id and other content is in the store"
    add_rejects(connection, (index.reject(row, "conflicting_product", detail) for row in conflicts))
    kept = rows[order][first]
    return kept[kept >= 0]


def _apply_caps(connection: sqlite3.Connection, config: CatalogConfig) -> None:
    """Drops the products that a cap leaves out, with the images that the store had of them."""
    query = "SELECT product_id, class_index, n_images FROM products WHERE split = ?"
    for split in SPLITS:
        if (cap := getattr(config.caps, split)) is None:
            continue
        product_id, class_index, n_images = fetch_columns(connection, query, (split,), 3)
        dropped = product_id[~select(class_index, product_id, n_images, cap, config.seed)].tolist()
        spans = [(i * POSITIONS, (i + 1) * POSITIONS) for i in dropped]
        connection.executemany("DELETE FROM blobs WHERE image_id >= ? AND image_id < ?", spans)
        connection.executemany("DELETE FROM images WHERE image_id >= ? AND image_id < ?", spans)
        connection.executemany(
            "UPDATE products SET state = 'dropped' WHERE product_id = ?", ((i,) for i in dropped)
        )


def require_known(index: DumpIndex, classes: np.ndarray) -> None:
    """Raises ShelfsortError if no row of the index has a class: such a dump is the wrong one."""
    if (classes >= 0).any():
        return
    without = int((index.category_id < 0).sum())
    raise ShelfsortError(
        f"{index.sources[0].path}: expected products of the known categories, found none: "
        f"{without} without category_id, {len(index) - without} of unknown categories, "
        f"{len(index.rejects)} unreadable; "
        "give a labelled dump and the category_names.csv that belongs to it"
    )


def classes_of_corrections(corrections: Mapping[int, int], taxonomy: Taxonomy) -> list[int]:
    """The class index of each correction. Raises ShelfsortError if there is no such category."""
    classes = taxonomy.class_index(np.array(list(corrections.values()), dtype=np.int64)).tolist()
    for (product, category), class_index in zip(corrections.items(), classes, strict=True):
        if class_index < 0:
            raise ShelfsortError(
                f"corrections: product {product}: category_id {category} is not in the taxonomy"
            )
    return classes
