"""A dump or another source against a list of images, such as banned ones: each product's nearest
listed image, as a Parquet table.

The source is partitioned; each partition becomes one part, written atomically, with a sidecar that
holds what it was made from. Run again, complete parts are kept. Cosines are exact, on all
of stage 1's bottleneck features; of a very long list those of candidates (features/scan.py), among
which a copy always is.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import xxhash

from catalog.artifacts import (
    fingerprint,
    read_json,
    require_same,
    sha256_file,
    write_json,
)
from catalog.config import MAX_PIXELS
from catalog.errors import ImageError, ShelfsortError
from catalog.fetch import UNREACHABLE
from catalog.files import read_file
from catalog.progress import progress
from catalog.sources.dump_index import partition
from catalog.sources.photo_list import Photos
from catalog.sources.source import ProductSource
from catalog.tables import write_table
from features.neighbours import unit
from features.scan import SAMPLE, Scan, scannable
from pipeline.config import ScoreConfig
from pipeline.scoring.parts import keyed
from stage1_cnn.device import ordered
from stage1_cnn.predict import Predictor, photo_features

SCHEMA = 3
TABLE = pyarrow.schema(
    [
        ("product_id", pyarrow.int64()),
        ("n_images", pyarrow.int32()),
        ("unreadable", pyarrow.int32()),
        ("position", pyarrow.int32()),
        ("listed", pyarrow.string()),
        ("cosine", pyarrow.float32()),
        ("match", pyarrow.bool_()),
    ]
)
_GROUP = 256
"""Products that a thread takes at once."""
_CANDIDATES = 500
"""Listed images that a scan leaves to exact cosines."""


@dataclass(frozen=True)
class ListedImages:
    """Images to look for: `names` as the list has them, `vectors` float32 [L, D] of unit length,
    `fingerprint` of names and bytes; a scan of the vectors, if there are very many."""

    names: tuple[str, ...]
    vectors: np.ndarray
    fingerprint: str
    scan: Scan | None = None

    @classmethod
    def read(cls, path: Path, predictor: Predictor) -> "ListedImages":
        """Reads a folder of images, or a text file with one path per line, relative to that file;
        blank lines and those that start with # are skipped.

        Raises ShelfsortError, naming the image, if one can't be read: nobody would notice that it
        was skipped.
        """
        names, files = _files_in(path)
        if not names:
            raise ShelfsortError(f"{path}: names no image, expected at least one")
        images = [read_file(file) for file in files]
        features, _, reasons = photo_features(predictor, images)
        if reasons:
            row, reason = next(iter(reasons.items()))
            raise ShelfsortError(f"{path}: {names[row]}: {reason}")
        content = [
            [name, xxhash.xxh3_128_hexdigest(data)]
            for name, data in zip(names, images, strict=True)
        ]
        vectors = unit(features)
        return cls(tuple(names), vectors, fingerprint(content), list_scan(vectors))

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For features [N, D]: the index int64 [N] of the nearest listed image, and its cosine
        float32 [N]."""
        queries = unit(features)
        if self.scan and len(queries):
            rows = self.scan.candidates(queries, _CANDIDATES)
            cosines = np.stack([self.vectors[r] @ q for r, q in zip(rows, queries, strict=True)])
        else:
            rows, cosines = np.arange(len(self.vectors))[None], queries @ self.vectors.T
        best = cosines.argmax(axis=1)[:, None]
        nearest = np.take_along_axis(np.broadcast_to(rows, cosines.shape), best, axis=1)
        return nearest[:, 0], np.take_along_axis(cosines, best, axis=1)[:, 0]


def list_scan(vectors: np.ndarray) -> Scan | None:
    """A scan of unit vectors [L, D], if so many are worth one."""
    if not scannable(len(vectors)):
        return None
    sample = vectors[:: math.ceil(len(vectors) / SAMPLE)]
    return Scan.build(np.ascontiguousarray(sample), [vectors])


def _files_in(path: Path) -> tuple[list[str], list[Path]]:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        return [p.name for p in files], files
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ShelfsortError(f"{path}: can't be read as a list of images: {error}") from error
    names = [line for line in lines if line and not line.startswith("#")]
    return names, [path.parent / name for name in names]


@dataclass(frozen=True)
class LookalikeTotals:
    """The counts of a source: `products` compared, documents `rejected`, products with a match,
    images not readable, and those of them that could not be reached."""

    products: int
    rejected: int
    matches: int
    unreadable_images: int
    unreachable_images: int = 0


def find_lookalikes(
    predictor: Predictor,
    source: ProductSource,
    listed: ListedImages,
    threshold: float,
    out: Path,
    config: ScoreConfig,
    lanes: int,
    max_pixels: int = MAX_PIXELS,
) -> LookalikeTotals:
    """Writes lookalikes-00000.parquet and so on into the folder `out`, then _LOOKALIKES with the
    totals.

    Raises ArtifactError if `out` holds parts of another model, source, list or threshold.
    """
    batch_size = config.batch_size_on(predictor.compute.device.type)
    compare = partial(_table, predictor, listed, threshold, batch_size, lanes, max_pixels)
    origin = _origin(predictor, source, listed, threshold, config, max_pixels)
    (out / "_LOOKALIKES").unlink(missing_ok=True)
    matches = unreadable = unreachable = 0
    with progress(len(source), "lookalikes", "product") as bar:
        for number, (start, stop) in enumerate(partition(source.length, config.part_mb * 2**20)):
            path = out / f"lookalikes-{number:05d}.parquet"
            table = _finished(path, origin)
            if table is None:
                table, lost = compare(source[start:stop])
                _write_part(path, table, origin, lost)
                unreachable += lost
            matches += int(table["match"].to_numpy().sum())
            unreadable += int(table["unreadable"].to_numpy().sum())
            bar.update(stop - start)
    totals = LookalikeTotals(len(source), len(source.rejects), matches, unreadable, unreachable)
    write_json(out / "_LOOKALIKES", {"made_from": origin, **asdict(totals)})
    return totals


def _origin(
    predictor: Predictor,
    source: ProductSource,
    listed: ListedImages,
    threshold: float,
    config: ScoreConfig,
    max_pixels: int,
) -> dict[str, Any]:
    """What the parts are made from."""
    origin = {
        "schema": SCHEMA,
        "dump": source.fingerprint,
        "checkpoint": predictor.fingerprint,
        "part_mb": config.part_mb,
        "listed": listed.fingerprint,
        "threshold": threshold,
    }
    if max_pixels != MAX_PIXELS:
        origin["max_pixels"] = max_pixels
    return origin


def _table(
    predictor: Predictor,
    listed: ListedImages,
    threshold: float,
    batch_size: int,
    lanes: int,
    max_pixels: int,
    source: ProductSource,
) -> tuple[pyarrow.Table, int]:
    """The part's rows, and how many of its images could not be reached."""
    unreachable = 0

    def compared(group: tuple[np.ndarray, list[Photos]]) -> pyarrow.Table:
        return _compared(predictor, source, *group, listed, threshold, batch_size, max_pixels)

    def read() -> Iterator[tuple[np.ndarray, list[Photos]]]:
        nonlocal unreachable
        for start in range(0, len(source), _GROUP):
            rows = np.arange(start, min(start + _GROUP, len(source)))
            photos = [source.read(row) for row in rows.tolist()]
            reasons = [
                photo.reason
                for product in photos
                for photo in product
                if isinstance(photo, ImageError)
            ]
            unreachable += reasons.count(UNREACHABLE)
            yield rows, photos

    with contextlib.closing(ordered(compared, read(), lanes)) as tables:
        return pyarrow.concat_tables(
            [keyed(TABLE, source.keys.type).empty_table(), *tables]
        ), unreachable


def _compared(
    predictor: Predictor,
    source: ProductSource,
    rows: np.ndarray,
    photos: list[Photos],
    listed: ListedImages,
    threshold: float,
    batch_size: int,
    max_pixels: int,
) -> pyarrow.Table:
    features, readable, _ = photo_features(
        predictor, [photo for product in photos for photo in product], batch_size, max_pixels
    )
    owner = np.repeat(np.arange(len(rows)), [len(product) for product in photos])
    position = np.concatenate([np.arange(len(product)) for product in photos])
    nearest, cosine = listed.nearest(features)
    best = _best(owner[readable], cosine, len(rows))  # per product, a row of `features`, or -1
    columns = {
        "product_id": [source.keys[row] for row in rows.tolist()],
        "n_images": np.bincount(owner[readable], minlength=len(rows)),
        "unreadable": np.bincount(owner[~readable], minlength=len(rows)),
        "position": [int(position[readable][b]) if b >= 0 else None for b in best],
        "listed": [listed.names[nearest[b]] if b >= 0 else None for b in best],
        "cosine": [float(cosine[b]) if b >= 0 else None for b in best],
        "match": np.append(cosine, -2)[best] >= threshold,
    }
    return pyarrow.table(columns, schema=keyed(TABLE, source.keys.type))


def _best(owner: np.ndarray, cosine: np.ndarray, owners: int) -> np.ndarray:
    """Row of each owner's highest cosine, int64 [owners]; -1 if it has none."""
    best = np.full(owners, -1, dtype=np.int64)
    order = np.argsort(cosine, kind="stable")
    best[owner[order]] = order  # the last one written is the highest
    return best


def _write_part(path: Path, part: pyarrow.Table, origin: dict[str, Any], unreachable: int) -> None:
    write_table(path, part)
    write_json(
        path.with_suffix(".json"),
        {"made_from": origin, "unreachable": unreachable, "sha256": sha256_file(path)},
    )


def _finished(path: Path, origin: dict[str, Any]) -> pyarrow.Table | None:
    """A complete part; None if there is none, it is damaged, or some of its images could not be
    reached, which may be there now. Raises ArtifactError if it has another origin."""
    if not path.exists() or not path.with_suffix(".json").exists():
        return None
    sidecar = read_json(path.with_suffix(".json"), "score")
    require_same(path, origin, sidecar["made_from"], "score")
    whole = sha256_file(path) == sidecar["sha256"] and not sidecar.get("unreachable")
    return pyarrow.parquet.read_table(path) if whole else None
