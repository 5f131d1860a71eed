"""What an ingest will do, decided on what the source lists: which products are new, their
splits, and which of them a cap leaves out. Written to the store in one transaction; nothing of the
photos is read."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from catalog.arrays import find_rows, starts_group
from catalog.artifacts import fingerprint
from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import POSITIONS
from catalog.sources.categories import NONE, resolved
from catalog.sources.keys import Key, Keys
from catalog.sources.source import ProductSource, reject_of
from catalog.splits import DEALT, EXTRA, deal, deal_groups, deal_official, select
from catalog.store.schema import (
    add_rejects,
    fetch_columns,
    read_taxonomy,
    transaction,
)
from catalog.store.usable import CONFLICT, require_usable
from catalog.taxonomy import Taxonomy


@dataclass(frozen=True)
class Listed:
    """A source whose keys have the store's numbers, and its products' category ids in the store's
    taxonomy, int64 [N]; -1 if a product has none, -2 if it is not in the taxonomy."""

    source: ProductSource
    category_id: np.ndarray
    fingerprint: str
    """The source's, and of the better labels if any of its products has one."""

    @classmethod
    def of(
        cls, source: ProductSource, taxonomy: Taxonomy, corrections: Mapping[Key, int]
    ) -> "Listed":
        """What a source lists, with an analyst's better labels."""
        ids = resolved(source.category_id, source.category_names, taxonomy)
        better, content = _relabelled(ids, source.keys, corrections), source.fingerprint
        if (better != ids).any():
            content = fingerprint([content, xxhash.xxh3_128_hexdigest(better.tobytes())])
        return cls(source, better, content)

    def labels_of(self, product_ids: Iterable[int]) -> dict[int, int]:
        """Product id -> category id of those of these products that the source has a category
        of."""
        ids = np.array(list(product_ids), dtype=np.int64)
        numbers = self.source.keys.numbers
        rows = find_rows(numbers, ids, np.argsort(numbers, kind="stable"))
        labels = np.where(rows >= 0, self.category_id[rows], -1)
        return {i: c for i, c in zip(ids.tolist(), labels.tolist(), strict=True) if c >= 0}


def _relabelled(ids: np.ndarray, keys: Keys, labels: Mapping[Key, int]) -> np.ndarray:
    """Category ids with those of `labels` in their place; labels of other products are ignored."""
    if not labels:
        return ids
    row_labels = [labels.get(key, -1) for key in keys]
    return np.where(np.array(row_labels, dtype=np.int64) >= 0, row_labels, ids)


def plan(
    connection: sqlite3.Connection,
    path: Path,
    listed: Listed,
    corrections: Mapping[int, int],
    config: CatalogConfig,
    groups: Mapping[str, str],
) -> bool:
    """Deals the new products to the splits, moves the corrected ones and applies the caps. Whether
    there is something to copy: False if the source is in the store already. `corrections`: product
    id -> category id.

    Raises ArtifactError if another source's ingest is unfinished, and ShelfsortError, before
    anything is written, if the source has no photo that can be used.
    """
    moved = _corrected(connection, corrections)
    states = dict(connection.execute("SELECT fingerprint, state FROM dumps"))
    source = listed.source
    if listed.fingerprint in states and not moved:
        return states[listed.fingerprint] == "planned"
    _require_finished(connection, path, listed.fingerprint)
    classes = read_taxonomy(connection).class_index(listed.category_id)
    require_known(listed, classes)
    require_usable(source, classes, config, connection)
    with transaction(connection):
        paths = json.dumps(source.roots)
        row = (listed.fingerprint, paths, len(source), int(source.n_images.sum()), "planned")
        connection.execute("INSERT OR REPLACE INTO dumps VALUES (?, ?, ?, ?, ?)", row)
        add_rejects(connection, source.rejects)
        _move(connection, moved)
        added = _add_products(connection, listed, classes, config.seed, groups)
        _apply_caps(connection, config)
        _succeed(connection, relabelled=not added)
    return True


def _succeed(connection: sqlite3.Connection, *, relabelled: bool) -> None:
    """Takes the content's fingerprint away; remembers it if what is being planned differs from it
    in labels alone (and in what a cap leaves out, or moves to extra, whose photos stage 1 may then
    have seen): no picture is new."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    earlier = json.loads(meta.get("earlier_labels", "[]")) if relabelled else []
    if relabelled and "content" in meta:
        earlier.append(meta["content"])
    row = (json.dumps(earlier),)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('earlier_labels', ?)", row)
    connection.execute("DELETE FROM meta WHERE key = 'content'")


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
    category_of = {}
    for product_id in product_ids:
        if row := connection.execute(query, (product_id,)).fetchone():
            category_of[product_id] = row[0]
    return category_of


def _move(connection: sqlite3.Connection, moved: Sequence[tuple[int, int]]) -> None:
    """Gives products and their images these class indices; their splits stay."""
    connection.executemany("UPDATE products SET class_index = ? WHERE product_id = ?", moved)
    spans = ((c, i * POSITIONS, (i + 1) * POSITIONS) for c, i in moved)
    query = "UPDATE images SET class_index = ? WHERE image_id >= ? AND image_id < ?"
    connection.executemany(query, spans)


def _add_products(
    connection: sqlite3.Connection,
    listed: Listed,
    classes: np.ndarray,
    seed: int,
    groups: Mapping[str, str],
) -> int:
    """Deals the products that the store doesn't have yet to the splits; returns their number."""
    source = listed.source
    _reject_unknown(connection, listed, classes)
    new = _new_rows(connection, source, classes)
    existing = np.zeros((len(read_taxonomy(connection)), len(DEALT)), dtype=np.int64)
    query = "SELECT class_index, split, count(*) FROM products GROUP BY 1, 2"
    for class_index, name, count in connection.execute(query):
        existing[class_index, DEALT.index("train" if name == EXTRA else name)] += count
    numbers, digest = source.keys.numbers[new], source.digest[new].astype(np.int64)
    split = deal(classes[new], numbers, existing, seed)
    split = _given(source, new, classes[new], split, seed, groups)
    columns = (numbers, classes[new], split, source.n_images[new], digest)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    connection.executemany(
        "INSERT INTO products VALUES (?, ?, ?, 'pending', ?, ?, NULL)",
        ((i, c, DEALT[s], n, d) for i, c, s, n, d in rows),
    )
    if (texts := source.keys.texts) is not None:
        pairs = ((number, texts[row]) for number, row in zip(numbers.tolist(), new, strict=True))
        named = [(number, text) for number, text in pairs if str(number) != text]
        connection.executemany("INSERT INTO keys VALUES (?, ?)", named)
    return len(new)


def _given(
    source: ProductSource,
    rows: np.ndarray,
    classes: np.ndarray,
    split: np.ndarray,
    seed: int,
    groups: Mapping[str, str],
) -> np.ndarray:
    """The splits that were dealt, but where the source itself has splits, or groups."""
    official = np.array([source.split(row) or "" for row in rows.tolist()], dtype=object)
    if any(official):
        split = deal_official(classes, source.keys.numbers[rows], official, split, seed)
    of_row = [groups.get(str(source.keys[row])) or source.group(row) for row in rows.tolist()]
    if any(group is not None for group in of_row):
        split = deal_groups(of_row, split, seed)
    return split


def _reject_unknown(connection: sqlite3.Connection, listed: Listed, classes: np.ndarray) -> None:
    """Rejects the rows without a known category, in place of those of an earlier plan: corrections
    may have given some a category."""
    stale = "DELETE FROM rejects WHERE reason = 'unknown_category' AND source = ?"
    source = listed.source
    unknown = np.flatnonzero(classes < 0).tolist()
    paths = {source.location(row, -1)[0] for row in unknown} | set(source.roots)
    connection.executemany(stale, [(path,) for path in paths])
    rejects = []
    for row in unknown:
        detail = _unknown(int(listed.category_id[row]), source, row)
        rejects.append(reject_of(source, row, "unknown_category", detail))
    add_rejects(connection, rejects)


def _unknown(category: int, source: ProductSource, row: int) -> str:
    """Why the category of a row is not known."""
    if category >= 0:
        return f"category_id {category} is not in the taxonomy"
    code, names = int(source.category_id[row]), source.category_names
    if code >= 0 and names:
        return f"category {names[code]!r} is not in the taxonomy"
    if category == NONE:
        return "category_id is missing"
    return "category_id is no integer from 0 to 2^63 - 1, and no name of a category"


def _new_rows(
    connection: sqlite3.Connection, source: ProductSource, classes: np.ndarray
) -> np.ndarray:
    """The rows of a source, int64, that are products of a known category and not in the store.

    Rejects those whose key has other content elsewhere. What the store has stays; within a source
    the row of the lowest digest does, so that the order of a dump doesn't matter.
    """
    known = np.flatnonzero(classes >= 0)
    query = "SELECT product_id, digest FROM products"
    stored_id, stored_digest = fetch_columns(connection, query, (), 2)
    ids = np.concatenate([stored_id, source.keys.numbers[known]])
    digests = np.concatenate([stored_digest, source.digest[known].astype(np.int64)])
    rows = np.concatenate([np.full(len(stored_id), -1), known])
    order = np.lexsort((digests, rows >= 0, ids))
    first = starts_group(ids[order])
    kept_digest = digests[order][first][np.cumsum(first) - 1]
    conflicts = rows[order][digests[order] != kept_digest].tolist()
    detail = "another document with this _id and other content is in the store"
    add_rejects(connection, (reject_of(source, row, CONFLICT, detail) for row in conflicts))
    kept = rows[order][first]
    return kept[kept >= 0]


def _apply_caps(connection: sqlite3.Connection, config: CatalogConfig) -> None:
    """Cuts what each split's cap leaves out: of train, into extra as far as the cap of that
    allows; everything else is dropped, with the images that the store had of it."""
    for split in DEALT:
        if (cap := getattr(config.caps, split)) is None:
            continue
        if split == "train":
            beyond = _beyond_cap(connection, (split, EXTRA), cap, config.seed)
            _drop(connection, _to_extra(connection, beyond, config))
        else:
            _drop(connection, _beyond_cap(connection, (split,), cap, config.seed)[0])


def _beyond_cap(
    connection: sqlite3.Connection, splits: Sequence[str], cap: int, seed: int
) -> np.ndarray:
    """Products of some splits, dropped ones among them, that one cap leaves out: id, class index
    and number of images, int64 [3, N]."""
    marks = ",".join("?" * len(splits))
    query = f"SELECT product_id, class_index, n_images FROM products WHERE split IN ({marks})"
    products = fetch_columns(connection, query, splits, 3)
    product_id, class_index, n_images = products
    return products[:, ~select(class_index, product_id, n_images, cap, seed)]


def _to_extra(
    connection: sqlite3.Connection, beyond: np.ndarray, config: CatalogConfig
) -> np.ndarray:
    """Moves what is beyond the cap of train, int64 [3, N], into extra, in which a product stays;
    returns the ids of those that its cap leaves out too."""
    product_id, class_index, n_images = beyond
    cap = config.caps.extra
    if cap is None:
        kept = np.ones(len(product_id), dtype=bool)
    elif cap == 0:
        kept = np.zeros(len(product_id), dtype=bool)
    else:
        kept = select(class_index, product_id, n_images, cap, config.seed)
    moved = product_id[kept].tolist()
    query = "UPDATE products SET split = ? WHERE product_id = ? AND state != 'dropped'"
    connection.executemany(query, ((EXTRA, i) for i in moved))
    query = "UPDATE images SET split = ? WHERE image_id >= ? AND image_id < ?"
    connection.executemany(query, ((EXTRA, i * POSITIONS, (i + 1) * POSITIONS) for i in moved))
    return product_id[~kept]


def _drop(connection: sqlite3.Connection, product_id: np.ndarray) -> None:
    """Drops products [N], with the images that the store had of them."""
    dropped = product_id.tolist()
    spans = [(i * POSITIONS, (i + 1) * POSITIONS) for i in dropped]
    connection.executemany("DELETE FROM blobs WHERE image_id >= ? AND image_id < ?", spans)
    connection.executemany("DELETE FROM images WHERE image_id >= ? AND image_id < ?", spans)
    connection.executemany(
        "UPDATE products SET state = 'dropped' WHERE product_id = ?", ((i,) for i in dropped)
    )


def require_known(listed: Listed, classes: np.ndarray) -> None:
    """Raises ShelfsortError if no row of the source has a class: such a source is the wrong one."""
    if (classes >= 0).any():
        return
    source = listed.source
    without = int((listed.category_id == NONE).sum())
    raise ShelfsortError(
        f"{source.roots[0]}: expected products of the known categories, found none: "
        f"{without} without category_id, {len(source) - without} of unknown categories, "
        f"{len(source.rejects)} unreadable; "
        "give labelled products and the category_names.csv that belongs to them"
    )


def classes_of_corrections(corrections: Mapping[Any, int], taxonomy: Taxonomy) -> list[int]:
    """The class index of each correction. Raises ShelfsortError if there is no such category."""
    classes = taxonomy.class_index(np.array(list(corrections.values()), dtype=np.int64)).tolist()
    for (product, category), class_index in zip(corrections.items(), classes, strict=True):
        if class_index < 0:
            raise ShelfsortError(
                f"corrections: product {product}: category_id {category} is not in the taxonomy"
            )
    return classes
