"""Index of a features.h5 for the images most similar to a query, by the cosine of their bottleneck
features: similar/ in the run.

Unit features are projected onto their principal directions (uncentred, so that dot products
approximate cosines) and kept as int8 codes, one byte per direction, memory-mapped. The best by
these codes are ranked again by their exact cosines, from features.h5. A query is multiplied with
all codes, block by block; of very many images only with those of a thousand candidates, which a
scan finds first (features/scan.py). The index is made from features.h5 alone and records it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from scipy.linalg import eigh

from catalog.arrays import read_npz, write_npz
from catalog.artifacts import atomic_path, read_json, require_same, reserve, write_json
from catalog.errors import ArtifactError
from catalog.progress import progress
from features import schema
from features.neighbours import unit
from features.scan import SAMPLE, Scan, scannable
from features.store import FeatureStore

SCHEMA = 2
DIRECTIONS = 512
SHORTLIST = 64
"""Images per query that are ranked by their exact cosine, by default: reading one takes .2 ms."""

_FILES = ("codes.npy", "projection.npz")
_SCAN = "scan.faiss"
_CANDIDATES, _PER_SHORTLIST = 1000, 16
"""Images per query that a scan leaves to the codes, at least, and for each of the shortlist."""
_WRITE_BLOCK, _BLOCK, _QUERIES = 4096, 1024, 16


@dataclass(frozen=True)
class SimilarIndex:
    """`codes` int8 [N, C], one row per feature row; `directions` float32 [D, C], each multiplied by
    the step of its codes, for queries; a scan of all rows, if there are very many."""

    store: FeatureStore
    codes: np.ndarray
    directions: np.ndarray
    scan: Scan | None

    @classmethod
    def open(cls, folder: Path, store: FeatureStore) -> "SimilarIndex":
        """Opens what `build` wrote. Reads the codes once to check them, which also fills the page
        cache.

        Raises ArtifactError if a file is missing, damaged, or made from another features.h5.
        """
        manifest = read_json(folder / "manifest.json", "similar")
        require_same(folder, made_from(store), manifest.get("made_from", {}), "similar")
        for name in manifest["files"]:
            if not (folder / name).exists():
                raise ArtifactError(folder / name, "no such file", "similar")
            if manifest["files"][name] != _checksum(folder / name):
                problem = "its checksum is not the one in the manifest; the file is damaged"
                raise ArtifactError(folder / name, problem, "similar")
        directions = read_npz(folder / "projection.npz", "similar")["directions"]
        scanned = _SCAN in manifest["files"] and scannable(len(store))
        scan = Scan.open(folder / _SCAN) if scanned else None
        return cls(store, np.load(folder / "codes.npy", mmap_mode="r"), directions, scan)

    def nearest(
        self, queries: np.ndarray, shortlist: int = SHORTLIST
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feature rows int64 [Q, S] of the images most similar to queries [Q, D], and their exact
        cosines float32 [Q, S], highest first. Unreadable images come last, with a cosine of -inf,
        and only if there are too few others."""
        queries = unit(queries)
        rows, cosines = [], []
        for start in range(0, len(queries), _QUERIES):
            batch_rows, batch_cosines = self._nearest(queries[start : start + _QUERIES], shortlist)
            rows.append(batch_rows)
            cosines.append(batch_cosines)
        return np.concatenate(rows), np.concatenate(cosines)

    def _nearest(self, queries: np.ndarray, shortlist: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._shortlist(queries, min(shortlist, len(self.store)))
        distinct, inverse = np.unique(rows, return_inverse=True)
        vectors, vector_rows = unit(self.store.features_at(distinct)), inverse.reshape(rows.shape)
        exact = np.stack(
            [vectors[own] @ query for own, query in zip(vector_rows, queries, strict=True)]
        )
        exact[self.store.status[rows] != schema.DONE] = -np.inf
        order = np.argsort(-exact, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(exact, order, axis=1)

    def _shortlist(self, queries: np.ndarray, shortlist: int) -> np.ndarray:
        """The rows int64 [Q, shortlist] that are the nearest by their codes."""
        projected = queries @ self.directions
        count = max(_CANDIDATES, _PER_SHORTLIST * shortlist)
        if self.scan and count < len(self.store):
            rows = self.scan.candidates(queries, count)
            scores = np.stack([self._scores(*pair) for pair in zip(rows, projected, strict=True)])
            return np.take_along_axis(rows, _highest(scores, shortlist), axis=1)
        return _highest(self._all_scores(projected), shortlist)

    def _scores(self, rows: np.ndarray, projected: np.ndarray) -> np.ndarray:
        """Approximate cosines float32 [n] of some rows to one query."""
        scores = self.codes[rows].astype(np.float32) @ projected
        scores[self.store.status[rows] != schema.DONE] = -np.inf
        return scores

    def _all_scores(self, projected: np.ndarray) -> np.ndarray:
        """Approximate cosines float32 [Q, N] of all rows."""
        projected = np.ascontiguousarray(projected.T)
        scores = np.empty((projected.shape[1], len(self.codes)), dtype=np.float32)
        for start in range(0, len(self.codes), _BLOCK):  # a block fits the cache of a core
            block = self.codes[start : start + _BLOCK].astype(np.float32)
            scores[:, start : start + _BLOCK] = (block @ projected).T
        scores[:, self.store.status != schema.DONE] = -np.inf
        return scores


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns int64 [Q, count] of the highest scores [Q, N], in any order."""
    if count == scores.shape[1]:
        return np.tile(np.arange(count), (len(scores), 1))
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]


def current(folder: Path, store: FeatureStore) -> bool:
    """Whether `build` has finished here, from these very features. Raises ArtifactError if its
    manifest is damaged."""
    if not (folder / "manifest.json").exists():
        return False
    return read_json(folder / "manifest.json", "similar").get("made_from") == made_from(store)


def made_from(store: FeatureStore) -> dict[str, Any]:
    """What an index depends on."""
    return {
        "schema": SCHEMA,
        "features": store.made_from,
        "images": len(store),
        "directions": DIRECTIONS,
    }


def build(folder: Path, store: FeatureStore) -> None:
    """Writes codes.npy, projection.npz, scan.faiss if there are very many images and, last,
    manifest.json into `folder`, in one pass over features.h5."""
    sample = _sample(store)
    components, step = _projection(sample)
    scan = Scan.train(sample) if scannable(len(store)) else None
    (folder / "manifest.json").unlink(missing_ok=True)
    with atomic_path(folder / "codes.npy") as temporary:
        shape = (len(store), components.shape[1])
        codes = np.lib.format.open_memmap(temporary, "w+", np.int8, shape)
        with open(temporary, "r+b") as file:
            reserve(file, temporary.stat().st_size)
        with progress(len(store), "index", "image") as bar:
            for start in range(0, len(store), _WRITE_BLOCK):
                vectors = unit(store.features(slice(start, start + _WRITE_BLOCK)))
                rounded = np.rint(vectors @ components / step).clip(-127, 127)
                codes[start : start + len(vectors)] = rounded
                if scan:
                    scan.add(vectors)
                bar.update(len(vectors))
        codes.flush()
    write_npz(folder / "projection.npz", directions=components * step)
    if scan:
        scan.save(folder / _SCAN)
    names = (*_FILES, _SCAN) if scan else _FILES
    checksums = {name: _checksum(folder / name) for name in names}
    write_json(folder / "manifest.json", {"made_from": made_from(store), "files": checksums})


def _sample(store: FeatureStore) -> np.ndarray:
    """Unit vectors of about SAMPLE images at most: whole chunks, evenly spread over the file."""
    size = schema.chunk_rows(store.width)
    chunks = math.ceil(len(store) / size)
    count = min(chunks, math.ceil(SAMPLE / size))
    chosen = np.unique(np.linspace(0, chunks - 1, count).round().astype(int))
    vectors = [store.features(slice(c * size, (c + 1) * size)) for c in chosen.tolist()]
    return unit(np.concatenate(vectors))


def _projection(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The principal directions of the sample, unit vectors float32 [D, C], and the step of each
    one's codes, float32 [C]."""
    width = sample.shape[1]
    count = min(DIRECTIONS, width)
    _, vectors = eigh(sample.T @ sample, subset_by_index=(width - count, width - 1))
    components = vectors[:, ::-1].astype(np.float32)
    largest = np.abs(sample @ components).max(axis=0)
    return components, np.maximum(largest, 1e-9).astype(np.float32) / 127


def _checksum(path: Path) -> str:
    """xxh3_128 of a file: it is checked at every opening, and a sha256 of some hundred megabytes
    would take noticeably long."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
