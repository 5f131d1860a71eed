"""Cosines of a photo to the fitted photos of some classes: the nearest ones, and the mean over all.

A photo of the store is never compared with itself, its product, or (as only fitted photos are in
the bank) a copy of them. Photos from outside have product id STRANGER, whatever their own id, and
are compared with all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from catalog.arrays import find_rows

STRANGER = -1
"""Product id of a photo of none of the bank's products; those of a store are 0 or more."""
NEAREST = 5
"""Cosines kept per class."""

_PAIRS = 2**24
"""Limit of cosines computed at once."""


@dataclass(frozen=True)
class Bank:
    """Unit vectors float16 [M, D], grouped by class; product_id int64 [M]; starts int64 [K+1],
    first row of each class."""

    vectors: np.ndarray
    product_id: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(
        cls, vectors: np.ndarray, product_id: np.ndarray, class_index: np.ndarray, classes: int
    ) -> "Bank":
        """A bank of vectors [M, D] in any order."""
        order = np.argsort(class_index, kind="stable")
        starts = np.searchsorted(class_index[order], np.arange(classes + 1))
        return cls(unit(vectors[order]).astype(np.float16), product_id[order], starts)

    @cached_property
    def _products(self) -> np.ndarray:
        return np.unique(self.product_id)

    def _holds(self, product_id: np.ndarray) -> np.ndarray:
        """Whether each product has a photo in the bank; few outside the catalogue do."""
        return find_rows(self._products, product_id) >= 0

    def cosines(
        self, queries: np.ndarray, product_id: np.ndarray, candidates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of queries [N, D] to the classes `candidates` int [N, C]; a query's own product
        (id [N]) is left out.

        Returns the NEAREST highest of each class, descending, float32 [N, C, NEAREST] (NaN where a
        class has fewer), and the mean over the class, float32 [N, C].
        """
        queries, known = unit(queries), self._holds(product_id)
        nearest = np.full((*candidates.shape, NEAREST), np.nan, dtype=np.float32)
        mean = np.full(candidates.shape, np.nan, dtype=np.float32)
        flat_nearest, flat_mean = nearest.reshape(-1, NEAREST), mean.reshape(-1)
        for class_index, pairs in _by_class(candidates.ravel()):
            rows = slice(self.starts[class_index], self.starts[class_index + 1])
            size = rows.stop - rows.start
            vectors = self.vectors[rows].astype(np.float32, copy=False)
            for start in range(
                0, len(pairs) if size else 0, step := max(1, _PAIRS // max(size, 1))
            ):
                batch = pairs[start : start + step]
                query = batch // candidates.shape[1]
                similarity = queries[query] @ vectors.T
                total, count = similarity.sum(axis=1), np.full(len(batch), size)
                own = np.flatnonzero(known[query])
                own = (
                    own[np.isin(product_id[query[own]], self.product_id[rows])] if len(own) else own
                )
                if len(own):
                    itself = product_id[query[own]][:, None] == self.product_id[rows]
                    total[own] -= np.where(itself, similarity[own], 0).sum(axis=1)
                    count[own] -= itself.sum(axis=1)
                    similarity[own] = np.where(itself, -np.inf, similarity[own])
                flat_nearest[batch, : min(NEAREST, size)] = _highest(similarity)
                flat_mean[batch] = np.where(count, total / np.maximum(count, 1), np.nan)
        return nearest, mean


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] at length 1, float32; a zero vector stays."""
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _by_class(classes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each class that occurs, and its positions."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts)[1:], strict=True)


def _highest(cosines: np.ndarray) -> np.ndarray:
    """The NEAREST highest of each row, descending; NaN instead of -inf."""
    if cosines.shape[1] > NEAREST:
        cosines = np.partition(cosines, -NEAREST, axis=1)[:, -NEAREST:]
    highest = np.sort(cosines, axis=1)[:, ::-1]
    return np.where(np.isinf(highest), np.nan, highest)
