"""The most alike images of a whole features.h5, by the cosine of their bottleneck features:
similar/ in the run.

A linear projection onto the features' own main directions (uncentred, so that products stand for
cosines) is kept as int8 codes, a byte a direction, memory-mapped. A query is multiplied with all
codes, block by block, and the best of them are ranked again by their exact cosines, from
features.h5. The index is made from features.h5 alone and knows it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from scipy.linalg import eigh

from catalog.artifacts import atomic_path, read_json, require_same, reserve, write_json
from catalog.errors import ArtifactError
from catalog.progress import progress
from features import schema
from features.neighbours import unit
from features.store import FeatureStore

SCHEMA = 1
DIRECTIONS = 512
SHORTLIST = 500
"""Images of each query that are ranked by their exact cosine, at least."""

_FILES = ("codes.npy", "projection.npz")
_SAMPLE = 20_000
_WRITE_BLOCK, _BLOCK, _QUERIES = 4096, 1024, 16


@dataclass(frozen=True)
class SimilarIndex:
    """`codes` int8 [N, C], a row a feature row; `directions` float32 [D, C], already divided by
    each direction's step, for queries."""

    store: FeatureStore
    codes: np.ndarray
    directions: np.ndarray

    @classmethod
    def open(cls, folder: Path, store: FeatureStore) -> "SimilarIndex":
        """Opens what `build` wrote. Reads the codes once, to check them, which also brings them
        into memory.

        Raises ArtifactError where a file is missing or damaged, or from another features.h5.
        """
        manifest = read_json(folder / "manifest.json", "similar")
        require_same(folder, made_from(store), manifest.get("made_from", {}), "similar")
        for name in _FILES:
            if not (folder / name).exists():
                raise ArtifactError(folder / name, "no such file", "similar")
            if manifest["files"].get(name) != _checksum(folder / name):
                raise ArtifactError(
                    folder / name,
                    "its checksum is not the one in the manifest; the file is damaged",
                    "similar",
                )
        with np.load(folder / "projection.npz", allow_pickle=False) as arrays:
            return cls(store, np.load(folder / "codes.npy", mmap_mode="r"), arrays["directions"])

    def nearest(
        self, queries: np.ndarray, shortlist: int = SHORTLIST
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feature rows int64 [Q, S] of the images most alike to queries [Q, D], and their exact
        cosines float32 [Q, S], the highest first. An image that could not be read is never found
        (its cosine is -inf, where there are too few others)."""
        queries = unit(queries)
        found = [
            self._nearest(queries[start : start + _QUERIES], shortlist)
            for start in range(0, len(queries), _QUERIES)
        ]
        return np.concatenate([rows for rows, _ in found]), np.concatenate(
            [cosines for _, cosines in found]
        )

    def _nearest(self, queries: np.ndarray, shortlist: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self._scores(queries)
        shortlist = min(shortlist, scores.shape[1])
        rows = (
            np.argpartition(-scores, shortlist - 1, axis=1)[:, :shortlist]
            if shortlist < scores.shape[1]
            else None
        )
        rows = np.tile(np.arange(shortlist), (len(queries), 1)) if rows is None else rows
        distinct, place = np.unique(rows, return_inverse=True)
        vectors = unit(self.store.features_at(distinct))
        exact = np.stack(
            [
                vectors[p] @ query
                for p, query in zip(place.reshape(rows.shape), queries, strict=True)
            ]
        )
        exact[self.store.status[rows] != schema.DONE] = -np.inf
        order = np.argsort(-exact, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(exact, order, axis=1)

    def _scores(self, queries: np.ndarray) -> np.ndarray:
        """Approximate cosines float32 [Q, N]."""
        projected = np.ascontiguousarray((queries @ self.directions).T)
        scores = np.empty((len(queries), len(self.codes)), dtype=np.float32)
        for start in range(0, len(self.codes), _BLOCK):  # a block fits the cache of a core
            scores[:, start : start + _BLOCK] = (
                self.codes[start : start + _BLOCK].astype(np.float32) @ projected
            ).T
        scores[:, self.store.status != schema.DONE] = -np.inf
        return scores


def made_from(store: FeatureStore) -> dict[str, Any]:
    """What an index depends on."""
    return {
        "schema": SCHEMA,
        "features": store.made_from,
        "images": len(store),
        "directions": DIRECTIONS,
    }


def build(folder: Path, store: FeatureStore) -> None:
    """Writes codes.npy, projection.npz and, last, manifest.json into `folder`. Takes one pass over
    features.h5."""
    sample = _sample(store)
    components, step = _projection(sample)
    (folder / "manifest.json").unlink(missing_ok=True)
    with atomic_path(folder / "codes.npy") as temporary:
        shape = (len(store), components.shape[1])
        codes = np.lib.format.open_memmap(temporary, "w+", np.int8, shape)
        with open(temporary, "r+b") as file:
            reserve(file, temporary.stat().st_size)
        with progress(len(store), "index", "image") as bar:
            for start in range(0, len(store), _WRITE_BLOCK):
                vectors = unit(store.features(slice(start, start + _WRITE_BLOCK)))
                codes[start : start + len(vectors)] = np.rint(vectors @ components / step).clip(
                    -127, 127
                )
                bar.update(len(vectors))
        codes.flush()
    with atomic_path(folder / "projection.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, directions=components * step)
    write_json(
        folder / "manifest.json",
        {
            "made_from": made_from(store),
            "files": {name: _checksum(folder / name) for name in _FILES},
        },
    )


def _sample(store: FeatureStore) -> np.ndarray:
    """Unit vectors of up to about _SAMPLE images, whole chunks from all over the file."""
    size = schema.chunk_rows(store.width)
    chunks = math.ceil(len(store) / size)
    wanted = np.unique(
        np.linspace(0, chunks - 1, min(chunks, math.ceil(_SAMPLE / size))).round().astype(int)
    )
    parts = [store.features(slice(c * size, (c + 1) * size)) for c in wanted.tolist()]
    return unit(np.concatenate(parts))


def _projection(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The directions float32 [D, C] that hold most of the sample's length, of unit length, and the
    step of each one's codes."""
    width = sample.shape[1]
    count = min(DIRECTIONS, width)
    components = eigh(sample.T @ sample, subset_by_index=(width - count, width - 1))[1][
        :, ::-1
    ].astype(np.float32)
    largest = np.abs(sample @ components).max(axis=0)
    return components, np.maximum(largest, 1e-9).astype(np.float32) / 127


def _checksum(path: Path) -> str:
    """xxh3_128 of a file: verified at every opening, where a sha256 of some hundred megabytes would
    be felt."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
