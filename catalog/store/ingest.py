"""Ingest: from a source of products to a store. First a plan, made on what it lists: splits and
caps. Then only the chosen images are read, checked by all cores, and written by one process. Killed
at any moment, the same command goes on.

Ingesting the same dump again changes nothing. A later dump adds products, whose splits are dealt so
that the shares hold, and may push products out from under a cap: of train to extra, of any other
split, and of extra, they are `dropped`.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.files import ACCESS
from catalog.labels import read_groups
from catalog.sources.damage import require_whole
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource, open_source
from catalog.splits import SPLITS
from catalog.store.plan import Listed, classes_of_corrections, plan, require_known, stored_labels
from catalog.store.schema import (
    count_rejects,
    create_tables,
    has_tables,
    key_type_of,
    open_for_writing,
    read_taxonomy,
    require_made_with,
)
from catalog.store.usable import require_usable
from catalog.store.writer import copy, finish
from catalog.taxonomy import Taxonomy

_KEPT = "what was committed is kept"


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
    """False if the dump was in the store already."""
    copied: int
    """Products whose photos this ingest read; 0 if the store had all of them already."""
    corrections: int
    """How many products were given a correction that is in the store or the dump."""
    corrected: int
    """How many of these had another label until now."""
    labels_before: dict[int, int]
    """Product id -> the dump's category id (the store's for another dump's product), if the
    correction differs from it."""

    def to_json(self) -> dict:
        """As a dictionary of plain values."""
        return asdict(self)


def ingest_dump(
    store: Path,
    dumps: Sequence[str | Path],
    categories: Path | None,
    config: CatalogConfig,
    *,
    index_folder: Path,
    jobs: int,
    corrections: Mapping[Key, int] = {},
    executor: Executor | None = None,
    rebuild: bool = False,
    accept_damage: bool = False,
    access: SourcesConfig = ACCESS,
) -> IngestSummary:
    """Brings dumps, a folder or a table into the store at `store` and returns what the store holds.

    `categories` is category_names.csv; without it the ids, or names, of the first source are the
    taxonomy. `jobs` processes decode, or the workers of `executor`. `corrections`, the shop's key
    -> category id, overrule the source and the store; the split of a product stays. `rebuild`
    removes the store first, once source, categories and corrections are known to make another.
    `accept_damage` goes on without what a damaged file has lost; `access`: how files are read.

    Raises DamagedSourceError if a file is damaged; ArtifactError if the store is damaged, made with
    other settings or categories, unfinished or not writable; ShelfsortError if no product has a
    known category, or no photo can be used.
    """
    source = open_source(dumps, index_folder, config, access)
    require_whole(dumps[0], len(source), source.rejects, accept_damage)
    groups = _groups_of(source, config.groups) if config.groups else {}
    taxonomy = Taxonomy.from_csv(categories) if categories else None
    if new := rebuild or not store.exists():
        taxonomy = taxonomy or _taxonomy_of(source)
        _require_makes_a_store(source, taxonomy, corrections, config)
        store.unlink(missing_ok=True)
    with _explained(store), closing(open_for_writing(store)) as connection:
        source = _prepare(connection, store, source, taxonomy, config)
        summary = _fill(connection, store, source, corrections, groups, config, jobs, executor)
    _require_photos(store, summary, new)
    return summary


def _fill(
    connection: sqlite3.Connection,
    path: Path,
    source: ProductSource,
    corrections: Mapping[Key, int],
    groups: Mapping[str, str],
    config: CatalogConfig,
    jobs: int,
    executor: Executor | None,
) -> IngestSummary:
    """Plans what the store is to hold now that it has the source too, and copies what it lacks."""
    better = _by_number(connection, source, corrections)
    counts = _count_corrections(connection, source, better)
    listed = Listed.of(source, read_taxonomy(connection), corrections)
    copied = 0
    if changed := plan(connection, path, listed, better, config, groups):
        copied = copy(connection, source, config, jobs, executor)
        finish(connection, listed.fingerprint, config)
    return _summary(connection, changed, copied=copied, **counts)


def _prepare(
    connection: sqlite3.Connection,
    path: Path,
    source: ProductSource,
    taxonomy: Taxonomy | None,
    config: CatalogConfig,
) -> ProductSource:
    """Makes the tables of a new store; the source with the numbers that the store has given its
    keys. Raises ArtifactError if the store was made with other settings or categories."""
    if not has_tables(connection):
        taxonomy = taxonomy or _taxonomy_of(source)
        create_tables(connection, config, taxonomy, source.keys.type)
    require_made_with(connection, path, config, taxonomy)
    return _with_keys_of(connection, path, source)


def _count_corrections(
    connection: sqlite3.Connection, source: ProductSource, better: Mapping[int, int]
) -> dict[str, Any]:
    """What the summary says of corrections, by product id, before the store has them."""
    original = Listed.of(source, read_taxonomy(connection), {}).labels_of(better)
    stored = stored_labels(connection, better)
    now, first = original | stored, stored | original
    return {
        "corrections": len(now),
        "corrected": sum(better[i] != label for i, label in now.items()),
        "labels_before": {i: label for i, label in first.items() if better[i] != label},
    }


def _require_makes_a_store(
    source: ProductSource,
    taxonomy: Taxonomy,
    corrections: Mapping[Key, int],
    config: CatalogConfig,
) -> None:
    """Raises ShelfsortError if a source has nothing for a new store: what is there stays then."""
    classes_of_corrections(corrections, taxonomy)
    listed = Listed.of(source, taxonomy, corrections)
    classes = taxonomy.class_index(listed.category_id)
    require_known(listed, classes)
    require_usable(source, classes, config)


def _with_keys_of(
    connection: sqlite3.Connection, path: Path, source: ProductSource
) -> ProductSource:
    """The source with the numbers that the store has given its keys. Raises ArtifactError if the
    store's are integers and the source's are texts."""
    key_type = key_type_of(connection)
    known = dict(connection.execute("SELECT key, product_id FROM keys"))
    try:
        return source.with_keys(source.keys.of_type(key_type, known))
    except ValueError as error:
        problem = (
            f"its products have integers as keys, those of {source.roots[0]} texts, such as "
            f"{next(key for key in source.keys if key)!r}; one catalogue has keys of one type"
        )
        raise ArtifactError(path, problem, "ingest") from error


def _groups_of(source: ProductSource, path: Path) -> dict[str, str]:
    """Groups by key, as text. Raises ShelfsortError if the file names no product of the source."""
    groups = read_groups(path)
    if not any(str(key) in groups for key in source.keys):
        raise ShelfsortError(
            f"catalog.groups: {path}: expected keys of products in {source.roots[0]}, such as "
            f"{source.keys[0]}, found none of them; is column key their {source.keys.type} key?"
        )
    return groups


def _by_number(
    connection: sqlite3.Connection, source: ProductSource, corrections: Mapping[Key, int]
) -> dict[int, int]:
    """Corrections by product id, of the products that the source or the store have."""
    known = dict(connection.execute("SELECT key, product_id FROM keys"))
    if source.keys.texts is not None:
        known |= dict(zip(source.keys.texts, source.keys.numbers.tolist(), strict=True))
    better = {}
    for key, category in corrections.items():
        number = known.get(str(key), key if isinstance(key, int) else -1)
        if number >= 0:
            better[number] = category
    return better


def _require_photos(store: Path, summary: IngestSummary, new: bool) -> None:
    """Raises ShelfsortError if none of the photos that the caps leave can be used, and removes a
    new store."""
    if any(split["images"] for split in summary.kept.values()):
        return
    if new:
        store.unlink()
    counts = ", ".join(f"{reason} {n}" for reason, n in summary.rejects.items())
    raise ShelfsortError(
        f"{store}: none of the photos that catalog.caps leave can be used: {counts}; raise the caps"
    )


@contextlib.contextmanager
def _explained(store: Path) -> Iterator[None]:
    """Turns what a dead worker or SQLite raises into an error that names the store."""
    try:
        yield
    except BrokenExecutor as error:
        problem = "a worker process died, of memory (fewer workers need less) or of an image"
        raise ArtifactError(store, f"{problem}; {_KEPT}", "ingest", resume=True) from error
    except sqlite3.OperationalError as error:
        problem = f"can't be written: {error}; {_KEPT}"
        raise ArtifactError(store, problem, "ingest", resume=True) from error
    except sqlite3.Error as error:
        raise ArtifactError(store, f"not readable as a store ({error})", "ingest") from error


def _taxonomy_of(source: ProductSource) -> Taxonomy:
    """The categories of a new store that is given no names."""
    labelled = source.category_id[source.category_id >= 0]
    if not len(labelled):
        raise ShelfsortError(
            f"{source.roots[0]}: no product has a category_id; "
            "a store is made from labelled products"
        )
    if source.category_names is not None:
        return Taxonomy.from_names(source.category_names)
    return Taxonomy.from_ids(labelled)


def _summary(connection: sqlite3.Connection, changed: bool, **done: Any) -> IngestSummary:
    """Counts of the finished store, and what was copied and became of the corrections."""
    kept = {name: {"products": 0, "images": 0, "fit": 0} for name in SPLITS}
    query = "SELECT split, count(*) FROM products WHERE state = 'kept' GROUP BY 1"
    for split, count in connection.execute(query):
        kept[split]["products"] = count
    status: Counter[str] = Counter()
    query = "SELECT split, status, count(*) FROM images GROUP BY 1, 2"
    for split, name, count in connection.execute(query):
        status[name] += count
        kept[split]["images"] += count * (name in ("ok", "duplicate"))
        kept[split]["fit"] += count * (name == "ok")
    query = """SELECT count(*), coalesce(sum(n_images), 0), count(DISTINCT class_index),
               count(*) FILTER (WHERE state = 'dropped'),
               count(text) FILTER (WHERE state = 'kept') FROM products"""
    products, images, classes, dropped, texts = connection.execute(query).fetchone()
    return IngestSummary(
        products=products,
        images=images,
        categories=connection.execute("SELECT count(*) FROM categories").fetchone()[0],
        categories_in_use=classes,
        kept=kept,
        dropped_products=dropped,
        duplicate_images=status["duplicate"],
        blank_images=status["blank"],
        undecodable_images=status["undecodable"],
        texts=texts,
        rejects=count_rejects(connection),
        changed=changed,
        **done,
    )
