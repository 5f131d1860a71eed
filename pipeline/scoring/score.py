"""Batch scoring: Parquet parts, rejects, a Kaggle CSV, and a _SUCCESS that says every product is
accounted for.

The source is cut into partitions; an engine makes each into one part, which is written atomically
with a sidecar. Run again, finished parts are verified and skipped.
"""

import csv
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from catalog.artifacts import atomic_path, write_json
from catalog.errors import ShelfsortError
from catalog.progress import progress
from catalog.sources.dump_index import Reject, partition
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource
from catalog.tables import write_table
from pipeline.config import ScoreConfig
from pipeline.scoring import coverage
from pipeline.scoring.lanes import Engine, Task
from pipeline.scoring.parts import (
    REJECTS,
    SCHEMA,
    answers,
    finished,
    keyed,
    reject_reasons,
    write_part,
)


@dataclass(frozen=True)
class Totals:
    """What became of the products of a source: products = predictions + rejected_products."""

    products: int
    predictions: int
    rejected_products: int
    images: int
    rejected_images: int
    repaired_images: int
    """JPEGs that were read although they lack their end marker."""
    unreachable: int
    """Photos among `rejected_images` that the same command tries again."""
    known_images: int
    """Images whose very bytes stand in the run's own store."""
    parts: int
    broken: tuple[str, ...]
    """Files of stage 2 that could not be read; the opinion before them answered."""
    reasons: dict[str, int]
    """Why products were rejected, the commonest reason first."""
    image_reasons: dict[str, int]
    """Why single photos were."""
    min_confidence: float | None = None
    accepted: int = 0
    review: int = 0
    """Predictions at least so confident, and the others; 0 if no threshold was asked for."""


@dataclass(frozen=True)
class Scorer:
    """What scores: the engine, the sha256 of its model's parts and the precision it computes in
    (`checksums`), `fallback`, the category id of products without a readable image in kaggle.csv,
    and the digests of the store's images (uint64, sorted; empty if there is no store)."""

    engine: Engine
    checksums: dict[str, str]
    fallback: int
    known: np.ndarray


def score_source(scorer: Scorer, source: ProductSource, out: Path, config: ScoreConfig) -> Totals:
    """Scores a source into the folder `out`.

    Raises ArtifactError if `out` holds parts of another model or source, ShelfsortError if no
    product could be answered.
    """
    parts = partition(source.length, config.part_mb * 2**20)
    shape = config.model_dump(include={"part_mb", "top", "features"})
    origin = {"schema": SCHEMA, "dump": source.fingerprint, **scorer.checksums, **shape}
    sidecars = {number: finished(out, number, origin) for number in range(len(parts))}
    for name in ("_SUCCESS", *coverage.FILES):
        (out / name).unlink(missing_ok=True)
    missing = [number for number, sidecar in sidecars.items() if sidecar is None]
    repeated = _repeated(source.product_id)
    tasks = (Task(n, source[slice(*parts[n])], repeated[slice(*parts[n])]) for n in missing)
    done = len(source) - sum(parts[n][1] - parts[n][0] for n in missing)
    with progress(len(source), "score", "product", initial=done) as bar:
        for part in scorer.engine(tasks, config):
            sidecars[part.number] = write_part(part, out, origin, scorer.known)
            bar.update(part.products)
    _drop_strays(out, len(parts))
    schema = keyed(REJECTS, source.keys.type)
    rejects = [asdict(reject) | {"product_id": _key(source, reject)} for reject in source.rejects]
    write_table(out / "rejects-scan.parquet", pyarrow.Table.from_pylist(rejects, schema=schema))
    reasons = reject_reasons(out, len(parts))
    totals = _totals(source, [sidecar for sidecar in sidecars.values() if sidecar], *reasons)
    if totals.products != totals.predictions + totals.rejected_products:
        raise ShelfsortError(
            f"{out}: {totals.products} products, but {totals.predictions} predictions and "
            f"{totals.rejected_products} rejects"
        )
    _require_predictions(out, totals)
    _write_kaggle(out, source, len(parts), scorer.fallback)
    if config.min_confidence is not None:
        accepted, review = coverage.split(out, len(parts), config.min_confidence)
        totals = replace(
            totals, min_confidence=config.min_confidence, accepted=accepted, review=review
        )
    write_json(out / "_SUCCESS", {"made_from": origin, **asdict(totals)})
    return totals


def _key(source: ProductSource, reject: Reject) -> Key | None:
    """The key of a product that could not be read, of the type of the others: -1, or None among
    texts, if it is not known."""
    known = reject.product_id != -1
    if source.keys.type == "text":
        return str(reject.product_id) if known else None
    return reject.product_id if isinstance(reject.product_id, int) else -1


def _require_predictions(out: Path, totals: Totals) -> None:
    if not totals.predictions:
        found = ", ".join(f"{r} {n}" for r, n in (totals.reasons | totals.image_reasons).items())
        raise ShelfsortError(
            f"{out}: expected a prediction of at least one of {totals.products} products, found "
            f"none ({found}); rejects-*.parquet there name each"
        )


def _repeated(product_id: np.ndarray) -> np.ndarray:
    """Mask of the rows whose product id stands in an earlier row."""
    repeated = np.ones(len(product_id), dtype=bool)
    repeated[np.unique(product_id, return_index=True)[1]] = False
    return repeated


def _drop_strays(out: Path, parts: int) -> None:
    """Removes parts beyond the last: readers take every part-*.parquet."""
    for path in [
        *out.glob("part-*.*"),
        *out.glob("rejects-[0-9]*.parquet"),
        *out.glob("features-*.parquet"),
    ]:
        if int(path.stem.split("-")[1]) >= parts:
            path.unlink()


def _totals(
    source: ProductSource,
    sidecars: list[dict[str, Any]],
    reasons: dict[str, int],
    image_reasons: dict[str, int],
) -> Totals:
    total = {
        key: sum(s.get(key, 0) for s in sidecars)
        for key in (
            "predictions",
            "rejected_products",
            "images",
            "rejected_images",
            "repaired_images",
            "unreachable",
            "known_images",
        )
    }
    total["rejected_products"] += len(source.rejects)
    broken = sorted({name for sidecar in sidecars for name in sidecar["broken"]})
    return Totals(
        products=len(source) + len(source.rejects),
        parts=len(sidecars),
        broken=tuple(broken),
        reasons=reasons,
        image_reasons=image_reasons,
        **total,
    )


def _write_kaggle(out: Path, source: ProductSource, parts: int, fallback: int) -> None:
    with (
        atomic_path(out / "kaggle.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["_id", "category_id"])
        answered: set[Key] = set()
        for keys, categories in answers(out, parts):
            answered.update(keys.tolist())
            writer.writerows(zip(keys.tolist(), categories.tolist(), strict=True))
        unread = [_key(source, reject) for reject in source.rejects]
        for key in chain(source.keys, (key for key in unread if key not in (None, -1))):
            if key not in answered:
                answered.add(key)
                writer.writerow([key, fallback])
