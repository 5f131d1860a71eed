"""Vectors of texts, products' titles or the words in photos: TF-IDF of words and word pairs, if
asked for also of runs of characters, reduced by a truncated SVD to unit vectors.

Fitted on the train split only. On disk, without pickles: text.npz and, written last,
text.json with the vocabulary.
"""

from collections.abc import Callable, Sequence
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


class NoWordsError(ShelfsortError):
    """There is nothing to fit a model of texts on."""


SCHEMA = 1
VOCABULARY, ARRAYS = "text.json", "text.npz"
_WORDS: dict[str, Any] = {
    "strip_accents": "unicode",
    "token_pattern": r"(?u)\b\w+\b",
    "ngram_range": (1, 2),
}
_CHARACTERS: dict[str, Any] = {
    "strip_accents": "unicode",
    "analyzer": "char_wb",
    "ngram_range": (3, 4),
}
_MARK = "#"
"""Before a run of characters, which tells it from a word of the same letters."""
_MOST_WORDS = 100_000


def _tokens(characters: bool) -> Callable[[str], list[str]]:
    """What splits a text into words and pairs of words, and into runs of characters if asked."""
    words = TfidfVectorizer(**_WORDS).build_analyzer()
    if not characters:
        return words
    runs = TfidfVectorizer(**_CHARACTERS).build_analyzer()
    return lambda text: words(text) + [_MARK + run for run in runs(text)]


def _tfidf(characters: bool, **options: Any) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=_tokens(characters), sublinear_tf=True, dtype=np.float32, **options
    )


@dataclass(frozen=True)
class TextModel:
    """`words` [W] (single words, pairs, and runs of characters behind a #), their `idf` float32
    [W], `directions` float32 [W, D], the `head` for the K classes, and whether texts are split
    into runs of `characters` too, which survive a misread letter."""

    words: tuple[str, ...]
    idf: np.ndarray
    directions: np.ndarray
    head: Head
    characters: bool = False

    @classmethod
    @one_blas_thread()
    def fit(
        cls,
        texts: Sequence[str],
        class_index: np.ndarray,
        classes: int,
        components: int,
        seed: int,
        *,
        characters: bool = False,
    ) -> "TextModel":
        """Fits on labelled texts, of products or of photos. Raises NoWordsError if no word occurs
        in two of them."""
        vectoriser = _tfidf(characters, min_df=2, max_features=_MOST_WORDS)
        try:
            counts = vectoriser.fit_transform(texts)
        except ValueError as error:
            known = sum(map(bool, texts))
            raise NoWordsError(
                f"{known} of the train split's {len(texts)} texts are not empty, and no word "
                "occurs in two of them"
            ) from error
        words = vectoriser.get_feature_names_out().tolist()
        rank = min(components, *counts.shape)
        directions = np.zeros((len(words), components), dtype=np.float32)
        directions[:, :rank] = TruncatedSVD(rank, random_state=seed).fit(counts).components_.T
        rows = sample(np.arange(len(texts)), classes, seed)
        head = fit_head(unit(counts[rows] @ directions), class_index[rows], classes)
        idf = vectoriser.idf_.astype(np.float32)
        return cls(tuple(words), idf, directions, head, characters)

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
        vectoriser = _tfidf(self.characters, vocabulary=self.words)
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
            "characters": self.characters,
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
        characters = content.get("characters", False)  # older titles have no such key
        words = tuple(content["words"])
        return cls(words, arrays["idf"], arrays["directions"], head, characters)
