"""Vectors of the products' texts: TF-IDF of words and word pairs, reduced by a truncated SVD to
unit vectors.

Fitted on products of the train split only. On disk, without pickles: text.npz and, written last,
text.json with the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from catalog.arithmetic import one_blas_thread
from catalog.arrays import read_npz, write_npz
from catalog.artifacts import read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from features.linear_head import fit_head, sample
from features.neighbours import unit
from features.schema import FEATURE_DTYPE
from stage1_cnn.head import Head

SCHEMA = 1
VOCABULARY, ARRAYS = "text.json", "text.npz"
_WORDS: dict[str, Any] = {
    "strip_accents": "unicode",
    "token_pattern": r"(?u)\b\w+\b",
    "ngram_range": (1, 2),
    "sublinear_tf": True,
    "dtype": np.float32,
}
_MOST_WORDS = 100_000


@dataclass(frozen=True)
class TextModel:
    """`words` [W] (single words and pairs), their `idf` float32 [W], `directions` float32 [W, D],
    and the `head` for the K classes."""

    words: tuple[str, ...]
    idf: np.ndarray
    directions: np.ndarray
    head: Head

    @classmethod
    @one_blas_thread()
    def fit(
        cls, texts: Sequence[str], class_index: np.ndarray, classes: int, components: int, seed: int
    ) -> "TextModel":
        """Fits on labelled products. Raises ShelfsortError if no word occurs in two of their
        texts."""
        vectoriser = TfidfVectorizer(**_WORDS, min_df=2, max_features=_MOST_WORDS)
        try:
            counts = vectoriser.fit_transform(texts)
        except ValueError as error:
            known = sum(map(bool, texts))
            raise ShelfsortError(
                f"a view of texts: {known} of the train split's {len(texts)} products have a text, "
                "and no word occurs in two of them; name their field in catalog.text and rebuild "
                "the store (step ingest)"
            ) from error
        words = vectoriser.get_feature_names_out().tolist()
        rank = min(components, *counts.shape)
        directions = np.zeros((len(words), components), dtype=np.float32)
        directions[:, :rank] = TruncatedSVD(rank, random_state=seed).fit(counts).components_.T
        rows = sample(np.arange(len(texts)), classes, seed)
        head = fit_head(unit(counts[rows] @ directions), class_index[rows], classes)
        return cls(tuple(words), vectoriser.idf_.astype(np.float32), directions, head)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.directions.shape[1]

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float16 [N, D]; zero for a text without known words."""
        if not len(texts):
            return np.zeros((0, self.width), dtype=FEATURE_DTYPE)
        return unit(self._vectoriser.transform(texts) @ self.directions).astype(FEATURE_DTYPE)

    @cached_property
    def _vectoriser(self) -> TfidfVectorizer:
        vectoriser = TfidfVectorizer(**_WORDS, vocabulary=self.words)
        vectoriser.idf_ = self.idf
        return vectoriser

    def save(self, folder: Path, made_from: dict[str, Any]) -> None:
        """Writes both files, each atomically."""
        write_npz(
            folder / ARRAYS,
            idf=self.idf,
            directions=self.directions,
            weight=self.head.weight,
            bias=self.head.bias,
        )
        content = {
            "schema": SCHEMA,
            "made_from": made_from,
            "words": self.words,
            ARRAYS: sha256_file(folder / ARRAYS),
        }
        write_sealed(folder / VOCABULARY, content)

    @classmethod
    def open(cls, folder: Path) -> "TextModel":
        """Reads what `save` wrote. Raises ArtifactError if a file is missing or damaged."""
        content = read_sealed(folder / VOCABULARY, "features", SCHEMA)
        path = folder / ARRAYS
        if not path.exists() or sha256_file(path) != content[ARRAYS]:
            problem = f"is missing, or not the one that {VOCABULARY} names"
            raise ArtifactError(path, problem, "features")
        arrays = read_npz(path, "features")
        head = Head(arrays["weight"], arrays["bias"])
        return cls(tuple(content["words"]), arrays["idf"], arrays["directions"], head)
