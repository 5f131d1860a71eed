"""Ingest: from a dump to a store. First a plan, made on the index alone: splits and caps. Then only
the chosen images are read, checked by all cores, and written by one process. Killed at any moment,
the same command goes on.

Ingesting the same dump again changes nothing. A later dump adds products, whose splits are dealt so
that the shares hold, and may push products out from under a cap (`dropped`).
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

from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.sources.damage import require_whole
from catalog.sources.dump_index import DumpIndex, open_index
from catalog.splits import SPLITS
from catalog.store.plan import classes_of_corrections, plan, require_known, stored_labels
from catalog.store.schema import (
    count_rejects,
    create_tables,
    has_tables,
    open_for_writing,
    require_made_with,
)
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
    corrections: Mapping[int, int] | None = None,
    executor: Executor | None = None,
    rebuild: bool = False,
    accept_damage: bool = False,
) -> IngestSummary:
    """Brings a dump into the store at `store` and returns what the store holds.

    `categories` is category_names.csv; without it the ids of the first dump are the taxonomy.
    `jobs` processes decode, or the workers of `executor`. `corrections`, product id -> category id,
    overrule the dump and the store; the split of a product stays. `rebuild` removes the store
    first, once dump, categories and corrections are known to make another. `accept_damage` goes on
    without what a damaged file has lost.

    Raises DamagedSourceError if a file is damaged; ArtifactError if the store is damaged, made with
    other settings or categories, unfinished or not writable; ShelfsortError if no product of the
    dump has a known category.
    """
    corrections = corrections or {}
    dumped = open_index(dumps, index_folder)
    index = dumped.relabelled(corrections)
    require_whole(dumps[0], len(index), index.rejects, accept_damage)
    taxonomy = Taxonomy.from_csv(categories) if categories else None
    if rebuild or not store.exists():
        taxonomy = taxonomy or _taxonomy_of(index)
        classes_of_corrections(corrections, taxonomy)
        require_known(index, taxonomy.class_index(index.category_id))
        store.unlink(missing_ok=True)
    with _explained(store), closing(open_for_writing(store)) as connection:
        if not has_tables(connection):
            create_tables(connection, config, taxonomy or _taxonomy_of(index))
        require_made_with(connection, store, config, taxonomy)
        stored, original = stored_labels(connection, corrections), dumped.labels_of(corrections)
        if changed := plan(connection, store, index, corrections, config):
            copy(connection, index, config, jobs, executor)
            finish(connection, index, config)
        now, first = original | stored, stored | original
        return _summary(
            connection,
            changed,
            corrections=len(now),
            corrected=sum(corrections[i] != label for i, label in now.items()),
            labels_before={i: label for i, label in first.items() if corrections[i] != label},
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


def _taxonomy_of(index: DumpIndex) -> Taxonomy:
    """The categories of a new store that is given no names."""
    labelled = index.category_id >= 0
    if not labelled.any():
        raise ShelfsortError(
            f"{index.sources[0].path}: no product has a category_id; "
            "a store is made from a labelled dump"
        )
    return Taxonomy.from_ids(index.category_id[labelled])


def _summary(connection: sqlite3.Connection, changed: bool, **corrected: Any) -> IngestSummary:
    """Counts of the finished store, and what became of the corrections."""
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
        **corrected,
    )
