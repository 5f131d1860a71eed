"""Batch scoring: Parquet parts, rejects, a Kaggle CSV, and a _SUCCESS that says every product is
accounted for.

The source is cut into partitions; an engine makes each into the opinions of one part, which are
written atomically with a sidecar. Run again, finished parts are verified and skipped. Then all is
decided on the opinions: class mix, rules, predictions.
"""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
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
from catalog.splits import sample_hash
from catalog.tables import write_table
from pipeline.config import ScoreConfig
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
from pipeline.scoring.plan import DecisionInputs, Plan, plan
from pipeline.scoring.predictions import (
    ACCEPTED,
    REVIEWED,
    opinions_of,
    split,
    write_csv,
    write_predictions,
)

COMPARED = 4000
"""Products whose features are compared with the catalogue's, at most."""
CSV, MIX, SUMMARY, SUCCESS = "predictions.csv", "mix.csv", "summary.json", "_SUCCESS"


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
    promise: float | None = None
    min_confidence: float | None = None
    accepted: int = 0
    review: int = 0
    """Predictions that the rule accepts, and the others; 0 if no rule was asked for."""
    levels: tuple[int, ...] = ()
    """Of the accepted ones, how many stand on level 1, 2 and 3."""
    review_reasons: dict[str, int] = field(default_factory=dict)
    """Why predictions are for review."""
    added: dict[str, int] = field(default_factory=dict)
    """Predictions that name a category added without a training, by its id."""
    novel: int = 0
    """Predictions of products unlike every category."""


@dataclass(frozen=True)
class Scorer:
    """What scores: the engine, the sha256 of its model's parts and the precision it computes in
    (`checksums`), `fallback`, the category id of products without a readable image in kaggle.csv,
    the digests of the store's images (uint64, sorted; empty where there is no store), and what
    decisions rest on; `codes` [N, M] of the products' columns if a file of its own has these."""

    engine: Engine
    checksums: dict[str, str]
    fallback: int
    known: np.ndarray
    decision_inputs: DecisionInputs
    codes: np.ndarray | None = None


def score_source(
    scorer: Scorer, source: ProductSource, out: Path, config: ScoreConfig
) -> tuple[Totals, Plan]:
    """Scores a source into the folder `out`; what became of it, and how it was decided.

    Raises ArtifactError if `out` holds parts of another model or source, ShelfsortError if no
    product could be answered.
    """
    totals = _ask(scorer, source, out, config)
    if totals.products != totals.predictions + totals.rejected_products:
        raise ShelfsortError(
            f"{out}: {totals.products} products, but {totals.predictions} predictions and "
            f"{totals.rejected_products} rejects"
        )
    _require_predictions(out, totals)
    decided = plan(scorer.decision_inputs, config, opinions_of(out, totals.parts))
    counts = write_predictions(out, totals.parts, decided.decider, config.top)
    review, *levels = counts.levels
    totals = replace(totals, review_reasons=counts.reasons, added=counts.added, novel=counts.novel)
    if decided.decider.rules:
        totals = replace(
            totals,
            promise=config.promise,
            min_confidence=config.min_confidence,
            accepted=sum(levels),
            review=review,
            levels=tuple(levels),
        )
        split(out, totals.parts)
    if decided.estimated is not None:
        decided.estimated.to_csv(out / MIX, scorer.decision_inputs.taxonomy)
    if config.csv:
        write_csv(out / CSV, out, totals.parts)
    _write_kaggle(out, source, totals.parts, scorer.fallback)
    origin = _origin(scorer, source, config)
    write_json(out / SUCCESS, {"made_from": origin, **asdict(totals)})
    return totals, decided


def _origin(scorer: Scorer, source: ProductSource, config: ScoreConfig) -> dict[str, Any]:
    """What the opinions of a source are made from."""
    shape = config.model_dump(include={"part_mb", "features"})
    return {"schema": SCHEMA, "dump": source.fingerprint, **scorer.checksums, **shape}


def _ask(scorer: Scorer, source: ProductSource, out: Path, config: ScoreConfig) -> Totals:
    """Makes the opinions of all parts that are not there yet."""
    parts = partition(source.length, config.part_mb * 2**20)
    origin = _origin(scorer, source, config)
    sidecars = {number: finished(out, number, origin) for number in range(len(parts))}
    for name in (SUCCESS, ACCEPTED, REVIEWED, CSV, SUMMARY):
        (out / name).unlink(missing_ok=True)
    missing = [number for number, sidecar in sidecars.items() if sidecar is None]
    repeated, compared = _repeated(source.product_id), _compared(source.product_id)

    def tasks() -> Iterator[Task]:
        for n in missing:
            rows = slice(*parts[n])
            codes = None if scorer.codes is None else scorer.codes[rows]
            yield Task(n, source[rows], repeated[rows], compared[rows], codes=codes)

    done = len(source) - sum(parts[n][1] - parts[n][0] for n in missing)
    with progress(len(source), "score", "product", initial=done) as bar:
        for part in scorer.engine(tasks(), config):
            sidecars[part.number] = write_part(part, out, origin, scorer.known)
            bar.update(part.products)
    _drop_strays(out, len(parts))
    schema = keyed(REJECTS, source.keys.type)
    rejects = [asdict(reject) | {"product_id": _key(source, reject)} for reject in source.rejects]
    write_table(out / "rejects-scan.parquet", pyarrow.Table.from_pylist(rejects, schema=schema))
    reasons = reject_reasons(out, len(parts))
    return _totals(source, [sidecar for sidecar in sidecars.values() if sidecar], *reasons)


def _compared(product_id: np.ndarray) -> np.ndarray:
    """Mask of up to COMPARED products, drawn by their ids."""
    drawn = np.argsort(sample_hash(product_id, "comparison with the catalogue", 0), kind="stable")
    mask = np.zeros(len(product_id), dtype=bool)
    mask[drawn[:COMPARED]] = True
    return mask


def _key(source: ProductSource, reject: Reject) -> Key | None:
    """The key of a product that could not be read, of the type of the others: -1, or None among
    texts, if it is not known."""
    known = reject.product_id != -1
    if source.keys.type == "text":
        return str(reject.product_id) if known else None
    return reject.product_id if isinstance(reject.product_id, int) else -1


def _require_predictions(out: Path, totals: Totals) -> None:
    if not totals.predictions:
        counts = ", ".join(f"{r} {n}" for r, n in (totals.reasons | totals.image_reasons).items())
        raise ShelfsortError(
            f"{out}: expected a prediction of at least one of {totals.products} products, found "
            f"none ({counts}); rejects-*.parquet there name each"
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
        *out.glob("opinions-*.parquet"),
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
