"""All of very many vectors compared with a query, approximately: RaBitQ codes (Gao, Long 2024) of
one bit for each of 256 rotated principal directions, by faiss.

A million vectors take 5 ms of one core and 59 MB. Nothing is skipped, as it would be in a graph or
in lists of neighbours, and the same vectors make the same codes: what is built in a minute needs no
tuning, and is only ever wrong by rounding, which an exact ranking of the candidates corrects. faiss
is the extra `similar`; without it, and below LARGE vectors, callers compare all of them themselves.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from catalog.artifacts import atomic_path
from catalog.errors import ArtifactError

LARGE = 20_000
"""Vectors from which on a scan is worth its building."""
SAMPLE = 20_000
"""Vectors that a scan is trained on."""
_BITS = 256


def scannable(vectors: int) -> bool:
    """Whether so many vectors are worth a scan, and faiss is installed."""
    return vectors >= LARGE and importlib.util.find_spec("faiss") is not None


class Scan:
    """Codes of N vectors.

    scan = Scan.build(sample, blocks)
    rows = scan.candidates(queries, 500)
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def train(cls, sample: np.ndarray) -> "Scan":
        """A scan of no vectors yet, for such as the sample: unit vectors float32 [S, D]."""
        import faiss

        width = sample.shape[1]
        index = faiss.index_factory(
            width, f"PCAR{min(width, _BITS)},RaBitQfs", faiss.METRIC_L2
        )  # among unit vectors the nearest have the highest cosine
        index.train(sample)
        return cls(index)

    @classmethod
    def build(cls, sample: np.ndarray, blocks: Iterable[np.ndarray]) -> "Scan":
        """A scan of the blocks' vectors, unit vectors float32 [B, D] in the order of their rows."""
        scan = cls.train(sample)
        for block in blocks:
            scan.add(block)
        return scan

    def add(self, vectors: np.ndarray) -> None:
        """Appends unit vectors float32 [B, D]."""
        self._index.add(vectors)

    def candidates(self, queries: np.ndarray, count: int) -> np.ndarray:
        """Rows int64 [Q, count] that are likely the nearest to queries, unit vectors float32
        [Q, D]; `count` is at most the number of vectors."""
        return self._index.search(queries, count)[1]

    def save(self, path: Path) -> None:
        """Writes it as one file."""
        import faiss

        with atomic_path(path) as temporary:
            faiss.write_index(self._index, str(temporary))

    @classmethod
    def open(cls, path: Path) -> "Scan":
        """Inverse of save. Raises ArtifactError if this faiss can't read the file."""
        import faiss

        try:
            return cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            problem = f"faiss {faiss.__version__} can't read it"
            raise ArtifactError(path, problem, "similar") from error
