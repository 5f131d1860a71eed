"""The copy: what was planned is read from the source, checked by all cores, and written by this
process alone, in transactions of a few megabytes. Killed at any moment, the next ingest goes on."""

import sqlite3
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from catalog.arrays import find_rows
from catalog.config import CatalogConfig
from catalog.errors import ImageError
from catalog.image_table import POSITIONS
from catalog.progress import progress
from catalog.sources.source import ProductSource, reject_of
from catalog.splits import PRECEDENCE, SPLITS, product_hash
from catalog.store.checker import CheckedProduct, checked_chunks
from catalog.store.columns import encode
from catalog.store.schema import add_rejects, content_of, fetch_columns, transaction

_COMMIT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class PendingProducts:
    """Products that are planned and not yet copied, in the order of the source: `row` of it,
    `class_index`, and `split` (index into SPLITS), int64 [P] each."""

    row: np.ndarray
    class_index: np.ndarray
    split: np.ndarray


def copy(
    connection: sqlite3.Connection,
    source: ProductSource,
    config: CatalogConfig,
    jobs: int,
    executor: Executor | None,
) -> int:
    """Reads, checks and writes the images of every pending product, a transaction every 16 MiB.
    Returns how many products these were."""
    pending = _pending(connection, source)
    written = start = 0
    with progress(len(pending.row), "ingest", "product") as bar:
        for chunk in checked_chunks(source, pending.row, config, jobs, executor):
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            for number, checked in enumerate(chunk, start):
                class_index, split = int(pending.class_index[number]), SPLITS[pending.split[number]]
                _write_product(connection, source, checked, class_index, split)
                written += int(source.length[checked.product.row])
            start += len(chunk)
            if written > _COMMIT_BYTES:
                connection.execute("COMMIT")
                written = 0
            bar.update(len(chunk))
    if connection.in_transaction:
        connection.execute("COMMIT")
    return len(pending.row)


def _pending(connection: sqlite3.Connection, source: ProductSource) -> PendingProducts:
    """Each pending product once, by its first row of the same content."""
    blocks = []
    query = (
        "SELECT product_id, digest, class_index FROM products WHERE state = 'pending' AND split = ?"
    )
    for number, split in enumerate(SPLITS):
        columns = fetch_columns(connection, query, (split,), 3)
        blocks.append(np.vstack([columns, np.full((1, columns.shape[1]), number)]))
    product_id, digest, class_index, split_number = np.concatenate(blocks, axis=1)
    numbers = source.keys.numbers
    planned = find_rows(product_id, numbers, np.argsort(product_id))
    rows = np.flatnonzero(planned >= 0)
    rows = rows[digest[planned[rows]] == source.digest[rows].astype(np.int64)]
    rows = np.sort(rows[np.unique(numbers[rows], return_index=True)[1]])
    return PendingProducts(rows, class_index[planned[rows]], split_number[planned[rows]])


def _write_product(
    connection: sqlite3.Connection,
    source: ProductSource,
    checked: CheckedProduct,
    class_index: int,
    split: str,
) -> None:
    """Writes one product's images, rejects and columns, and declares it kept."""
    product, product_id = checked.product, int(source.keys.numbers[checked.product.row])
    photos = zip(product.photos, product.names, checked.images, strict=True)
    for position, (data, name, image) in enumerate(photos):
        if isinstance(image, ImageError):
            reject = reject_of(source, product.row, image.reason, image.detail, position)
            add_rejects(connection, [reject])
            continue
        image_id = product_id * POSITIONS + position
        values = (
            *(image_id, product_id, position, class_index, split, image.status, None),
            *(image.digest, image.width, image.height, image.format, len(data), name),  # type: ignore[arg-type]
        )
        connection.execute(f"INSERT INTO images VALUES ({','.join('?' * len(values))})", values)
        connection.execute("INSERT INTO blobs VALUES (?, ?)", (image_id, data))
    if product.columns:
        row = (product_id, encode(product.columns))
        connection.execute("INSERT OR REPLACE INTO columns VALUES (?, ?)", row)
    query = "UPDATE products SET state = 'kept', text = ? WHERE product_id = ?"
    connection.execute(query, (product.text or None, product_id))


def finish(connection: sqlite3.Connection, fingerprint: str, config: CatalogConfig) -> None:
    """Marks duplicates, fingerprints the content and declares the source complete."""
    with transaction(connection):
        if config.duplicates == "drop":
            _mark_duplicates(connection, config.seed)
        content = content_of(connection)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('content', ?)", (content,))
        query = "UPDATE dumps SET state = 'complete' WHERE fingerprint = ?"
        connection.execute(query, (fingerprint,))


def _mark_duplicates(connection: sqlite3.Connection, seed: int) -> None:
    """Of identical images, one stays `ok`: of the split with precedence, then of the product with
    the lowest hash."""

    def rank(product_id: int) -> int:
        return int(product_hash(np.array([product_id]), seed)[0] >> np.uint64(1))

    connection.create_function("precedence", 1, PRECEDENCE.__getitem__, deterministic=True)
    connection.create_function("product_hash", 1, rank, deterministic=True)
    connection.execute(
        "UPDATE images SET status = 'ok', duplicate_of = NULL WHERE status = 'duplicate'"
    )
    connection.execute(
        """WITH copies AS (SELECT image_id, first_value(image_id) OVER (PARTITION BY digest
             ORDER BY precedence(split), product_hash(product_id), image_id) AS keeper
           FROM images WHERE status = 'ok' AND digest IN
             (SELECT digest FROM images WHERE status = 'ok' GROUP BY digest HAVING count(*) > 1))
           UPDATE images SET status = 'duplicate', duplicate_of = keeper
           FROM copies WHERE copies.image_id = images.image_id AND keeper != images.image_id"""
    )
