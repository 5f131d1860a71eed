"""Batch scoring of a dump: Parquet parts, rejects, a Kaggle CSV, and a _SUCCESS that says every product is accounted for.

The dump's index is cut into partitions; each becomes one part, written atomically with a sidecar. Run again, finished parts
are verified and skipped. Batches never cross partitions.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import xxhash

from catalog.artifacts import atomic_path, fingerprint, read_json, require_same, sha256_file, write_json
from catalog.bson_reader import DumpReader
from catalog.dump_index import DumpIndex, Reject, open_index
from catalog.errors import ArtifactError, ShelfsortError
from catalog.progress import progress
from catalog.store import POSITIONS, digest_number
from pipeline.config import ScoreConfig
from pipeline.predict import Model, image_table, top_classes
from stage2_xgb.items import Pooled, pool

SCHEMA = 1
PREDICTIONS = pyarrow.schema(
    [
        ("product_id", pyarrow.int64()), ("n_images", pyarrow.int32()), ("category_id", pyarrow.int64()),
        ("level1", pyarrow.string()),
        ("level2", pyarrow.string()), ("level3", pyarrow.string()), ("confidence", pyarrow.float32()),
        ("top_category_id", pyarrow.list_(pyarrow.int64())), ("top_confidence", pyarrow.list_(pyarrow.float32())),
        ("stage1_category_id", pyarrow.int64()), ("refined", pyarrow.bool_()),
    ]
)  # fmt: skip
REJECTS = pyarrow.schema(
    [
        ("source", pyarrow.string()), ("offset", pyarrow.int64()), ("product_id", pyarrow.int64()), ("position", pyarrow.int32()),
        ("reason", pyarrow.string()), ("detail", pyarrow.string()),
    ]
)  # fmt: skip
_GROUP = 1024
"""Products that are in memory at once."""


class DumpImages:
    """The images of a dump as a source for the loader; image id = row of the index * POSITIONS + position.

    Copies open the dump anew, so that each decoding thread has its own; they add to one `overlap`, the ids of the images that are
    `known`: whose digest (first 8 bytes, uint64, sorted) stands in the store.
    """

    def __init__(self, index: DumpIndex, known: np.ndarray, overlap: set[int]) -> None:
        self.index, self.known, self.overlap = index, known, overlap
        self.reader = DumpReader(index.sources)

    def __copy__(self) -> "DumpImages":
        return DumpImages(self.index, self.known, self.overlap)

    def read(self, image_ids: Sequence[int]) -> list[bytes]:
        """The bytes of some images; empty where an element of `imgs` has no picture."""
        out, row, product = [], -1, None
        for image_id in map(int, image_ids):
            if image_id // POSITIONS != row:
                row = image_id // POSITIONS
                product = self.reader.product(*self.index.place(row))
            out.append(product.images[image_id % POSITIONS] or b"")
        if len(self.known):
            digests = np.array([digest_number(xxhash.xxh3_128_digest(data)) for data in out], dtype=np.uint64)
            place = np.searchsorted(self.known, digests).clip(max=len(self.known) - 1)
            self.overlap.update(np.asarray(image_ids)[self.known[place] == digests].tolist())
        return out


@dataclass(frozen=True)
class Totals:
    """What became of the documents of a dump: products = predictions + rejected_products."""

    products: int
    predictions: int
    rejected_products: int
    images: int
    rejected_images: int
    known_images: int
    """Images whose very bytes stand in the run's own store."""


@dataclass(frozen=True)
class Scorer:
    """What scores: the model, the sha256 of its parts, `fallback`, the category id of products without a readable image in
    kaggle.csv, and the digests of the store's images (uint64, sorted; empty where there is no store)."""

    model: Model
    checksums: dict[str, str]
    fallback: int
    known: np.ndarray


def score(scorer: Scorer, dumps: Sequence[str | Path], out: Path, config: ScoreConfig) -> Totals:
    """Scores a dump into the folder `out`.

    Raises ArtifactError where `out` holds parts of another model or dump.
    """
    index = open_index(dumps, out / "dumps")
    parts = index.partitions(config.part_mb * 2**20)
    origin = {"schema": SCHEMA, "dump": index.fingerprint, **scorer.checksums, "part_mb": config.part_mb, "top": config.top}
    (out / "_SUCCESS").unlink(missing_ok=True)
    sidecars = []
    with progress(len(index), "score", "product") as bar:
        for number, (start, stop) in enumerate(parts):
            sidecar = _finished(out, number, origin)
            if sidecar is None:
                sidecar = score_partition(scorer, index, start, stop, out, number, config, origin)
            sidecars.append(sidecar)
            bar.update(stop - start)
    _write_rejects(out / "rejects-scan.parquet", [asdict(reject) for reject in index.rejects])
    totals = _totals(index, sidecars)
    if totals.products != totals.predictions + totals.rejected_products:
        raise ShelfsortError(
            f"{out}: {totals.products} products, but {totals.predictions} predictions and {totals.rejected_products} rejects"
        )
    _write_kaggle(out, index, len(parts), scorer.fallback)
    write_json(out / "_SUCCESS", {"made_from": origin, **asdict(totals)})
    return totals


def score_partition(
    scorer: Scorer, index: DumpIndex, start: int, stop: int, out: Path, number: int, config: ScoreConfig, origin: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Scores the products of rows start .. stop and writes part, rejects and sidecar; returns the sidecar."""
    repeated = _repeated(index)[start:stop]
    again = "a product with this _id stands earlier in the dump"
    rejects = [_reject(index, row, -1, "duplicate_product", again) for row in (start + np.flatnonzero(repeated)).tolist()]
    tables, images, overlap = [], 0, set()
    rows = start + np.flatnonzero(~repeated)
    for group in np.split(rows, range(_GROUP, len(rows), _GROUP)):
        source = DumpImages(index, scorer.known, overlap)
        table, rejected, count = _score_products(scorer.model, source, group, config)
        tables.append(table)
        rejects += rejected
        images += count
    table = pyarrow.concat_tables(tables) if tables else PREDICTIONS.empty_table()
    part, reject_file = out / f"part-{number:05d}.parquet", out / f"rejects-{number:05d}.parquet"
    with atomic_path(part) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    _write_rejects(reject_file, rejects)
    sidecar = {
        "made_from": origin, "products": stop - start, "predictions": len(table), "images": images, "known_images": len(overlap),
        "rejected_products": sum(r["position"] < 0 for r in rejects), "rejected_images": sum(r["position"] >= 0 for r in rejects),
        "sha256": {path.name: sha256_file(path) for path in (part, reject_file)},
    }  # fmt: skip
    write_json(out / f"part-{number:05d}.json", sidecar | {"fingerprint": fingerprint(sidecar)})
    return sidecar


def _score_products(
    model: Model, source: DumpImages, rows: np.ndarray, config: ScoreConfig
) -> tuple[pyarrow.Table, list[dict], int]:
    index = source.index
    counts = index.n_images[rows]
    row_of_image = np.repeat(rows, counts).astype(np.int64)
    position = np.arange(len(row_of_image)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = image_table(row_of_image * POSITIONS + position, index.product_id[row_of_image])
    images, reasons = model.read(source, table, config.batch_size)
    rejects = [
        _reject(index, int(row_of_image[i]), int(position[i]), *reason.split(": ", 1)) for i, reason in sorted(reasons.items())
    ]
    pooled = pool(images, model.bundle.sharpness)
    lost = rows[~np.isin(index.product_id[rows], pooled.product_id)].tolist()
    rejects += [_reject(index, row, -1, "no_readable_image", "no image of the product can be read") for row in lost]
    return _predictions(model, pooled, config.top), rejects, len(images)


def _predictions(model: Model, pooled: Pooled, top: int) -> pyarrow.Table:
    if not len(pooled):
        return PREDICTIONS.empty_table()
    result, taxonomy = model.answer(pooled, "product"), model.taxonomy
    classes, confidences = top_classes(result.two_stage, top)
    names = [taxonomy[c] for c in classes[:, 0].tolist()]
    ids = taxonomy.category_ids
    columns = {
        "product_id": pooled.product_id, "n_images": pooled.n_images, "category_id": ids[classes[:, 0]],
        "level1": [c.level1 for c in names], "level2": [c.level2 for c in names], "level3": [c.level3 for c in names],
        "confidence": confidences[:, 0], "top_category_id": list(ids[classes]), "top_confidence": list(confidences),
        "stage1_category_id": ids[pooled.log_probs[0].argmax(axis=1)], "refined": result.refined,
    }  # fmt: skip
    return pyarrow.table(columns, schema=PREDICTIONS)


def _repeated(index: DumpIndex) -> np.ndarray:
    """Mask of the rows whose product id stands in an earlier row."""
    repeated = np.ones(len(index), dtype=bool)
    repeated[np.unique(index.product_id, return_index=True)[1]] = False
    return repeated


def _reject(index: DumpIndex, row: int, position: int, reason: str, detail: str) -> dict[str, Any]:
    source = index.sources[int(index.source[row])].path
    return asdict(Reject(source, int(index.offset[row]), position, int(index.product_id[row]), reason, detail))


def _write_rejects(path: Path, rejects: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rejects, schema=REJECTS), temporary)


def _finished(out: Path, number: int, origin: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar of a part that is whole; None where there is none yet or a file of it is damaged. Raises where it has another
    origin."""
    path = out / f"part-{number:05d}.json"
    if not path.exists():
        return None
    rebuild = f"rm -r {out} and the same `shelfsort score` command"
    try:
        sidecar = read_json(path, rebuild)
    except ArtifactError:
        return None  # a damaged sidecar: the part is scored again
    if not isinstance(sidecar, dict) or sidecar.pop("fingerprint", None) != fingerprint(sidecar):
        return None
    require_same(path, origin, sidecar["made_from"], rebuild)
    whole = all((out / name).exists() and sha256_file(out / name) == checksum for name, checksum in sidecar["sha256"].items())
    return sidecar if whole else None


def _totals(index: DumpIndex, sidecars: list[dict[str, Any]]) -> Totals:
    total = {
        key: sum(s[key] for s in sidecars)
        for key in ("predictions", "rejected_products", "images", "rejected_images", "known_images")
    }
    total["rejected_products"] += len(index.rejects)
    return Totals(products=len(index) + len(index.rejects), **total)


def _write_kaggle(out: Path, index: DumpIndex, parts: int, fallback: int) -> None:
    with atomic_path(out / "kaggle.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["_id", "category_id"])
        done: set[int] = set()
        for product_id, category_id in _answers(out, parts):
            done.add(product_id)
            writer.writerow([product_id, category_id])
        for product_id in [*index.product_id.tolist(), *(r.product_id for r in index.rejects if r.product_id >= 0)]:
            if product_id not in done:
                done.add(product_id)
                writer.writerow([product_id, fallback])


def _answers(out: Path, parts: int) -> Iterator[tuple[int, int]]:
    for number in range(parts):
        table = pyarrow.parquet.read_table(out / f"part-{number:05d}.parquet", columns=["product_id", "category_id"])
        yield from zip(table["product_id"].to_pylist(), table["category_id"].to_pylist(), strict=True)
