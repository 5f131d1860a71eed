"""The experts of stage 2, as they answer: each gives an opinion of the classes from the features of
all views.

An opinion is float32 [N, K]: log-odds against the item's likeliest class, which has 0, and at least
-FLOOR for any other, so that no expert alone rules a class out. Its softmax are the expert's
probabilities. Linear experts are fitted by lda.py and logistic.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from features.columns import MISSING
from features.neighbours import Bank, unit
from stage2_xgb.items import Projection

FLOOR = 14.0
"""Log-odds against an expert's likeliest class are at least minus this; a class that it was not
fitted on has just these."""
GRID = 4096.0
"""Inputs are rounded to multiples of 1/GRID, so that sums of their products are exact (lda.py)."""
CANDIDATES = 32
"""Classes among whose photos neighbours are looked for: those likeliest to the other experts."""
VOTERS = 40
"""Nearest photos that vote."""
VOTE_TEMPERATURE = 0.05
"""Of the votes: a photo whose cosine is lower by this counts 1/e of the nearest."""
LEAST_VOTE = 1e-3
"""Share of the votes that a class without any counts as."""


class Seen(Protocol):
    """What experts may see of N items: features [N, D_v] of each view, and codes [N, M] of
    columns."""

    @property
    def features(self) -> Sequence[np.ndarray]:
        """One array per view."""

    @property
    def codes(self) -> np.ndarray:
        """One column per catalogue column."""


@dataclass(frozen=True)
class Inputs:
    """What experts see of an item: unit-length features of some views side by side; `root` takes
    signed square roots, which make activations less skewed."""

    views: tuple[int, ...]
    root: bool = False

    def __call__(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Inputs float32 [N, D], multiples of 1/GRID, from an array [N, D_v] for each view."""
        x = np.concatenate([unit(features[view]) for view in self.views], axis=1)
        if self.root:
            x = np.copysign(np.sqrt(np.abs(x)), x)
        return on_grid(x)

    def of(self, items: Seen) -> np.ndarray:
        """Inputs of images, or of products."""
        return self(items.features)


@dataclass(frozen=True)
class Columns:
    """What the codes of M columns mean: how many each has, and whether their order says nothing."""

    sizes: tuple[int, ...]
    categorical: tuple[bool, ...]

    @classmethod
    def of_json(cls, value: Mapping[str, Any] | None) -> "Columns | None":
        """Inverse of `asdict`, after JSON; None of None."""
        return cls(tuple(value["sizes"]), tuple(value["categorical"])) if value else None


def columns_of(origin: Mapping[str, Any]) -> Columns | None:
    """The columns of a view by what its features.h5 was made from; None if it has vectors."""
    return Columns.of_json(origin if "columns" in origin else None)


@dataclass(frozen=True)
class OneHot:
    """What the expert on columns sees of an item: ones at the codes of its columns, or at a place
    for missing ones, behind the unit-length features of `views`, if there are any."""

    sizes: tuple[int, ...]
    views: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of inputs that the columns are."""
        return sum(self.sizes) + len(self.sizes)

    @property
    def starts(self) -> np.ndarray:
        """Place of each column's missing value, int64 [M], which its codes follow."""
        return np.cumsum((0, *self.sizes))[:-1] + np.arange(len(self.sizes))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Inputs float32 [N, D] from codes [N, M]."""
        x = np.zeros((len(codes), self.width), dtype=np.float32)
        np.put_along_axis(x, codes.astype(np.int64) - MISSING + self.starts, 1, axis=1)
        return x

    def of(self, items: Seen) -> np.ndarray:
        """Inputs of images, or of products."""
        codes = self(items.codes)
        if not self.views:
            return codes
        return np.concatenate([Inputs(self.views)(items.features), codes], axis=1)


def on_grid(x: np.ndarray) -> np.ndarray:
    """The nearest multiples of 1/GRID, in place."""
    x *= np.float32(GRID)
    np.rint(x, out=x)
    x /= np.float32(GRID)
    return x


@dataclass(frozen=True)
class LinearExpert:
    """Scores (inputs - centre) @ weight + bias: linear discriminants, or a logistic regression.

    centre float32 [D], multiples of 1/GRID, so that the difference is exact: with it, products of
    large weights with inputs that hardly differ stay small. factors: float32 matrices whose product
    is the weight [D, K]; one, or two if the weight has a low rank. bias float32 [K], -inf for a
    class that it was not fitted on. inverse_temperature: what makes log-odds of the scores.
    """

    inputs: Inputs | OneHot
    centre: np.ndarray
    factors: tuple[np.ndarray, ...]
    bias: np.ndarray
    inverse_temperature: float = 1.0

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Scores float32 [N, K] of inputs [N, D], before the temperature."""
        x = x - self.centre
        for factor in self.factors:
            x = x @ factor
        x += self.bias
        return x


@dataclass(frozen=True)
class NeighbourExpert:
    """Votes of the nearest fitted photos, closer ones counting more; never of the item's own
    product. Photos are compared by principal components of their inputs."""

    inputs: Inputs
    projection: Projection
    bank: Bank

    @classmethod
    def of(cls, inputs: Inputs, projection: Projection, bank: Bank) -> "NeighbourExpert":
        """With the bank's vectors as float32, because converting them takes longer than
        comparing."""
        return cls(inputs, projection, replace(bank, vectors=bank.vectors.astype(np.float32)))

    def log_votes(
        self, z: np.ndarray, product_id: np.ndarray, candidates: np.ndarray
    ) -> np.ndarray:
        """How much likelier each of the candidate classes int [N, C] is than one without a vote,
        for projected inputs [N, B]: log-odds float32 [N, C] of at least 0. Only photos of the
        candidates vote."""
        nearest, _ = self.bank.cosines(z, product_id, candidates)
        return np.log(votes(nearest) / np.float32(LEAST_VOTE) + 1)


def bounded(scores: np.ndarray, inverse_temperature: float = 1.0) -> np.ndarray:
    """Scores float32 [N, K], -inf among them, as an opinion, in place."""
    scores *= np.float32(inverse_temperature)
    scores -= scores.max(axis=1, keepdims=True)
    return np.maximum(scores, np.float32(-FLOOR), out=scores)


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """The classes int32 [N, min(count, K)] of the highest scores [N, K], in ascending order of the
    class."""
    if count >= scores.shape[1]:
        return np.tile(np.arange(scores.shape[1], dtype=np.int32), (len(scores), 1))
    likeliest = np.argpartition(-scores, count - 1, axis=1)[
        :, :count
    ]  # from below the many ties at the floor take ten times as long
    return np.sort(likeliest, axis=1).astype(np.int32)


def votes(nearest: np.ndarray) -> np.ndarray:
    """Share float32 [N, C] of each candidate among the VOTERS nearest photos of all, from cosines
    [N, C, NEAREST], NaN where a class has fewer; all 0 where no candidate has a photo."""
    flat = np.where(np.isnan(nearest), -np.inf, nearest).reshape(len(nearest), -1)
    voters = min(VOTERS, flat.shape[1])
    last = np.partition(flat, -voters, axis=1)[:, -voters, None]
    top = flat.max(axis=1, keepdims=True)
    weight = np.exp((flat - np.where(np.isfinite(top), top, 0)) / np.float32(VOTE_TEMPERATURE))
    weight = np.where(flat >= last, weight, 0).reshape(nearest.shape).sum(axis=2)
    return weight / np.maximum(weight.sum(axis=1, keepdims=True), np.float32(1e-12))
