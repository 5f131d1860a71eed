"""Categories added to a finished second stage from a few photos, until the next training: how they
answer, and how they lie on disk. Fitted by add_category.py.

An added category stands against all known ones together, by the discriminants and the nearest
photos alone; what the two stages say of the known ones among themselves is left as it is. On disk:
added/ID.npz in the folder of the bundle that it was made for.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from catalog.arrays import read_npz, write_npz
from catalog.artifacts import fingerprint, sha256_file
from catalog.errors import ArtifactError, ShelfsortError
from catalog.taxonomy import Category, Taxonomy
from features.neighbours import STRANGER, unit
from stage1_cnn.head import log_softmax
from stage2_xgb.bundle import Bundle
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.experts import (
    CANDIDATES,
    VOTE_TEMPERATURE,
    LinearExpert,
    NeighbourExpert,
    highest,
)
from stage2_xgb.items import ItemBlock, mean_by_product

SCHEMA = 1
FOLDER = "added"
NO_POOL = (
    "a new category needs a pool of experts with discriminants and neighbours, found none; train "
    "with: --set stage2.pool=true --rebuild"
)
_MOST = 20.0
"""Evidence for or against an added category, at most."""
_NAMES = ("level1", "level2", "level3")


@dataclass(frozen=True)
class Newcomer:
    """What is known of a new category: a column of the discriminants, weight float32 [D] and bias,
    and its photos, unit vectors float32 [n, B] as the bank has them."""

    weight: np.ndarray
    bias: float
    vectors: np.ndarray


@dataclass(frozen=True)
class Known:
    """What the known categories say of N images, for comparison: inputs float32 [N, D] of the
    discriminants; unit vectors float32 [N, B]; and, of discriminants and of cosines to the nearest
    photos, the highest two [N, 2] and the class of the first [N]."""

    inverse_temperature: float
    x: np.ndarray
    z: np.ndarray
    scores: np.ndarray
    best: np.ndarray
    cosines: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, pool: ExpertPool, images: ItemBlock) -> "Known":
        """Asks a pool with discriminants and neighbours."""
        lda, expert, prepared = *experts_of(pool), pool.prepare(images)
        x = prepared[lda.inputs]
        likely = highest(np.sum(list(pool.linear_opinions(images, prepared)), axis=0), CANDIDATES)
        z = expert.projection(prepared[expert.inputs])
        strangers = np.full(len(images), STRANGER)
        near = expert.bank.cosines(z, strangers, likely)[0][:, :, 0]
        scores, best = _highest_two(lda.scores(x) * np.float32(lda.inverse_temperature))
        cosines, column = _highest_two(np.where(np.isnan(near), np.float32(-1), near))
        nearest = likely[np.arange(len(images)), column]
        centred = x - lda.centre
        return cls(lda.inverse_temperature, centred, unit(z), scores, best, cosines, nearest)

    def __getitem__(self, rows: np.ndarray) -> "Known":
        columns = (self.x, self.z, self.scores, self.best, self.cosines, self.nearest)
        return Known(self.inverse_temperature, *(column[rows] for column in columns))

    def evidence(self, new: Newcomer, without: int = -1) -> np.ndarray:
        """What speaks for a new category against the known ones, but for the class `without`,
        float64 [N, 2]: by discriminants, and by the nearest photo."""
        rivals = _leading(self.scores, self.best, without)
        score = (self.x @ new.weight + new.bias) * self.inverse_temperature - rivals
        cosine = (self.z @ new.vectors.T).max(axis=1) - _leading(
            self.cosines, self.nearest, without
        )
        evidence = np.stack([score, cosine / VOTE_TEMPERATURE], axis=1)
        return np.clip(evidence, -_MOST, _MOST).astype(np.float64)


def experts_of(pool: ExpertPool) -> tuple[LinearExpert, NeighbourExpert]:
    """The two experts that know a new category from a few photos. Raises ShelfsortError if a pool
    lacks them."""
    if pool.neighbours is None or not pool.linear:
        raise ShelfsortError(NO_POOL)
    return pool.linear[0], pool.neighbours


def _highest_two(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest two of each row [N, 2], falling (-inf if there is one alone), and the column
    of the first [N]."""
    if values.shape[1] < 2:
        values = np.column_stack([values, np.full(len(values), -np.inf, dtype=values.dtype)])
    column = np.argpartition(-values, 1, axis=1)[:, :2]
    pair = np.take_along_axis(values, column, axis=1)
    order = np.argsort(-pair, axis=1, kind="stable")
    first = np.take_along_axis(column, order, axis=1)[:, 0]
    return np.take_along_axis(pair, order, axis=1), first


def _leading(pair: np.ndarray, first: np.ndarray, without: int) -> np.ndarray:
    """The higher of two values [N, 2], or the second if the class of the first is left out."""
    return np.where(first == without, pair[:, 1], pair[:, 0])


@dataclass(frozen=True)
class Addition:
    """An added category: its names and id; what is known of it; what its evidence weighs, float64
    [2], beside an intercept, as log-odds against all known categories together; and what was
    `expected` when it was made: of held-out photos of categories that were treated as new in turn,
    the share recognised, and of others the share taken."""

    category: Category
    new: Newcomer
    slope: np.ndarray
    intercept: float
    expected: dict[str, float]

    def log_odds(self, known: Known) -> np.ndarray:
        """Of single images, float64 [N]."""
        return known.evidence(self.new) @ self.slope + self.intercept


@dataclass(frozen=True)
class Additions:
    """All categories added to a bundle, by their id."""

    each: tuple[Addition, ...] = ()

    @classmethod
    def open(cls, bundle: Bundle) -> "Additions":
        """Those in the bundle's folder. Raises ShelfsortError if a file is damaged, or was made for
        another bundle."""
        paths = sorted((bundle.folder / FOLDER).glob("*.npz"))
        return cls(tuple(_read(path, bundle) for path in paths))

    def __len__(self) -> int:
        return len(self.each)

    @cached_property
    def category_ids(self) -> np.ndarray:
        """int64 [A]"""
        return np.array([added.category.category_id for added in self.each], dtype=np.int64)

    def taxonomy(self, known: Taxonomy) -> Taxonomy:
        """The known categories, and the added ones after them."""
        if not self.each:
            return known
        return Taxonomy([*known.categories, *(added.category for added in self.each)])

    def log_odds(self, bundle: Bundle, images: ItemBlock) -> np.ndarray:
        """Log-odds float32 [N, A] of each added category against all known ones together, of the
        products of images that stand together: the mean over a product's images."""
        products = len(np.unique(images.product_id))
        if not self.each or bundle.pool is None or not products:
            return np.zeros((products, len(self)), dtype=np.float32)
        known = Known.of(bundle.pool, images)
        odds = np.stack([added.log_odds(known) for added in self.each], axis=1)
        return mean_by_product(odds, images.product_id).astype(np.float32)


NONE_ADDED = Additions()


def with_added(log_probs: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Log-probabilities float32 [N, K + A] of the known and the added categories, from those of the
    known ones [N, K] among themselves and the log-odds [N, A] of the added ones."""
    if not log_odds.shape[1]:
        return log_probs
    return log_softmax(np.concatenate([log_probs, log_odds.astype(log_probs.dtype)], axis=1))


def path_of(bundle: Bundle, category_id: int) -> Path:
    """Where an added category lies."""
    return bundle.folder / FOLDER / f"{category_id}.npz"


def checksums(folder: Path) -> list[str]:
    """sha256 of each category added to the bundle in a folder."""
    return [sha256_file(path) for path in sorted((folder / FOLDER).glob("*.npz"))]


def identity(folder: Path) -> str:
    """Says which bundle lies in a folder: sha256 of its manifest; a fingerprint of that and of the
    added categories, if there are any."""
    manifest, added = sha256_file(folder / "manifest.json"), checksums(folder)
    return fingerprint([manifest, *added]) if added else manifest


def save(bundle: Bundle, added: Addition) -> Path:
    """Writes an added category beside the bundle that it was made for."""
    arrays: dict[str, Any] = {
        "schema": np.array(SCHEMA),
        "stage2": np.array(_stage2(bundle)),
        "category_id": np.array(added.category.category_id),
        "names": np.array([getattr(added.category, name) for name in _NAMES]),
        "weight": added.new.weight,
        "bias": np.array(added.new.bias),
        "vectors": added.new.vectors,
        "slope": added.slope,
        "intercept": np.array(added.intercept),
        "expected": np.array(list(added.expected.values())),
        "expected_names": np.array(list(added.expected)),
    }
    path = path_of(bundle, added.category.category_id)
    write_npz(path, **arrays, seal=np.array(_seal(arrays)))
    return path


def _read(path: Path, bundle: Bundle) -> Addition:
    try:
        return _parsed(read_npz(path, "stage2"), _stage2(bundle))
    except (ArtifactError, KeyError, ValueError) as error:
        problem = error.problem if isinstance(error, ArtifactError) else str(error)
        raise ShelfsortError(
            f"{path}: {problem}; remove this file, and add the category again (add-category)"
        ) from error


def _parsed(arrays: dict[str, Any], stage2: str) -> Addition:
    """Raises ValueError if the file is of another content, schema or second stage."""
    if str(arrays.pop("seal")) != _seal(arrays):
        raise ValueError("its content doesn't match its seal; the file is damaged")
    if (schema := int(arrays["schema"])) != SCHEMA:
        raise ValueError(f"of schema {schema}, expected {SCHEMA}")
    if str(arrays["stage2"]) != stage2:
        raise ValueError("made for another stage 2 than is there now")
    category = Category(int(arrays["category_id"]), *map(str, arrays["names"]))
    new = Newcomer(arrays["weight"], float(arrays["bias"]), arrays["vectors"])
    figures = zip(arrays["expected_names"].tolist(), arrays["expected"].tolist(), strict=True)
    return Addition(category, new, arrays["slope"], float(arrays["intercept"]), dict(figures))


def _seal(arrays: dict[str, Any]) -> str:
    """Changes if a value does."""
    return fingerprint({name: np.asarray(x).tolist() for name, x in sorted(arrays.items())})


def _stage2(bundle: Bundle) -> str:
    return sha256_file(bundle.folder / "manifest.json")
