"""Vectors of the products' texts: TF-IDF of their words and pairs of words, reduced by a truncated
SVD to unit vectors.

Fitted on products of the train split alone. On disk, without pickles: text.json, the vocabulary,
written last, and text.npz.
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
from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
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
    """`words` [W] (single and in pairs), their `idf` float32 [W], `directions` float32 [W, D],
    `head` for the K classes."""

    words: tuple[str, ...]
    idf: np.ndarray
    directions: np.ndarray
    head: Head

    @classmethod
    @one_blas_thread()
    def fit(
        cls, texts: Sequence[str], class_index: np.ndarray, classes: int, components: int, seed: int
    ) -> "TextModel":
        """Fits on labelled products. Raises ShelfsortError where no word stands in two of their
        texts."""
        vectoriser = TfidfVectorizer(**_WORDS, min_df=2, max_features=_MOST_WORDS)
        try:
            counts = vectoriser.fit_transform(texts)
        except ValueError as error:
            known = sum(map(bool, texts))
            detail = f"{known} of the train split's {len(texts)} products have a text, and no word stands in two of them"
            remedy = "name their field in catalog.text and rebuild the store (step ingest)"
            raise ShelfsortError(f"a view of texts: {detail}; {remedy}") from error
        words = vectoriser.get_feature_names_out().tolist()
        found = min(components, *counts.shape)
        directions = np.zeros((len(words), components), dtype=np.float32)
        directions[:, :found] = TruncatedSVD(found, random_state=seed).fit(counts).components_.T
        rows = sample(np.arange(len(texts)), classes, seed)
        head = fit_head(unit(counts[rows] @ directions), class_index[rows], classes)
        return cls(tuple(words), vectoriser.idf_.astype(np.float32), directions, head)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.directions.shape[1]

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors float16 [N, D] of unit length; zero where a text is empty, or has no known word."""
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
        with atomic_path(folder / ARRAYS) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
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
        """Reads what `save` wrote. Raises ArtifactError where a file is missing or damaged."""
        content = read_sealed(folder / VOCABULARY, "features", SCHEMA)
        path = folder / ARRAYS
        if not path.exists() or sha256_file(path) != content[ARRAYS]:
            raise ArtifactError(
                path, f"is missing, or not the one that {VOCABULARY} names", "features"
            )
        with np.load(path, allow_pickle=False) as arrays:
            head = Head(arrays["weight"], arrays["bias"])
            return cls(tuple(content["words"]), arrays["idf"], arrays["directions"], head)
