"""Linear discriminants with one covariance for all classes, in closed form, from sums that add up
over blocks and folds.

Inputs are multiples of 1/GRID, so the sums of their products are integers that float64 holds
exactly: neither the order of the rows nor blocks nor threads change a bit, and the sums of all rows
minus those of a fold are the sums of the other folds.
"""

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular

from stage2_xgb.experts import Inputs, LinearExpert, on_grid

SHRINKAGE = 0.05
"""Share of a multiple of the identity in the covariance."""
MULTIPLICATIONS = 2**22
"""Of an item, at most: beyond it only as many discriminants are kept."""


@dataclass(frozen=True)
class Moments:
    """Sums over some rows: their number by class, int64 [K]; their inputs by class, float64 [K, D];
    the products of each two inputs, float64 [D, D]. Exact up to 2^53 / (GRID * largest input)^2
    rows: 500 million for inputs of at most 1."""

    count: np.ndarray
    total: np.ndarray
    second: np.ndarray
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def zeros(cls, classes: int, columns: int) -> "Moments":
        """Of no rows."""
        return cls(
            np.zeros(classes, dtype=np.int64),
            np.zeros((classes, columns)),
            np.zeros((columns, columns)),
        )

    def add(self, x: np.ndarray, class_index: np.ndarray) -> None:
        """Adds labelled rows: inputs float32 [N, D], multiples of 1/GRID. Several threads may add
        at once."""
        if not len(x):
            return
        order = np.argsort(class_index, kind="stable")
        exact = x[order].astype(np.float64)
        present, starts, count = np.unique(
            class_index[order], return_index=True, return_counts=True
        )
        total, second = np.add.reduceat(exact, starts, axis=0), exact.T @ exact
        with self._lock:
            self.count[present] += count
            self.total[present] += total
            self.second[:] += second

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.second + other.second
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count - other.count, self.total - other.total, self.second - other.second
        )


def fit_lda(moments: Moments, inputs: Inputs, shrinkage: float = SHRINKAGE) -> LinearExpert:
    """The discriminants of rows with these sums, classes being equally common: log N(x; class mean,
    common covariance) up to a constant of the item (Friedman 1989: regularised discriminant
    analysis, with one covariance for all)."""
    mean = moments.total / np.maximum(moments.count, 1)[:, None]
    factor = cholesky(_covariance(moments, mean, shrinkage), lower=True)
    centre = on_grid((moments.total.sum(axis=0) / max(int(moments.count.sum()), 1)).astype("f4"))
    mean = np.where(moments.count[:, None] > 0, mean - centre, 0)
    rank = MULTIPLICATIONS // sum(mean.shape)
    if mean.size <= MULTIPLICATIONS or rank >= mean.shape[1]:
        factors: tuple[np.ndarray, ...] = (cho_solve((factor, True), mean.T),)
        half_square = 0.5 * np.einsum("kd,dk->k", mean, factors[0])
    else:
        factors, half_square = _main_discriminants(moments, mean, factor, rank)
    bias = np.where(moments.count > 0, -half_square, -np.inf)
    weights = tuple(f.astype(np.float32) for f in factors)
    return LinearExpert(inputs, centre, weights, bias.astype(np.float32))


def discriminants(
    moments: Moments, centre: np.ndarray, mean: np.ndarray, shrinkage: float = SHRINKAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Columns for further classes with the means [P, D], under the covariance and the `centre` [D]
    of a fit to these sums: weight float32 [D, P], bias float32 [P]."""
    own = moments.total / np.maximum(moments.count, 1)[:, None]
    factor = cholesky(_covariance(moments, own, shrinkage), lower=True)
    away = mean.astype(np.float64) - centre
    weight = cho_solve((factor, True), away.T)
    half_square = 0.5 * np.einsum("pd,dp->p", away, weight)
    return weight.astype(np.float32), -half_square.astype(np.float32)


def _covariance(moments: Moments, mean: np.ndarray, shrinkage: float) -> np.ndarray:
    """Shrunk covariance [D, D] within the classes. If no class has two different rows, the
    identity: the nearest mean answers."""
    covariance = (moments.second - moments.total.T @ mean) / max(int(moments.count.sum()), 1)
    variance = float(np.trace(covariance)) / len(covariance)
    if variance <= 1e-12:
        return np.eye(len(covariance))
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(len(covariance))] += max(shrinkage, 1e-6) * variance
    return covariance


def _main_discriminants(
    moments: Moments, mean: np.ndarray, factor: np.ndarray, rank: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Two factors of the weight, [D, rank] and [rank, K], and half the squared length of each class
    mean [K], in the `rank` directions in which whitened class means differ most (Fisher 1936)."""
    share = moments.count / max(int(moments.count.sum()), 1)
    white = solve_triangular(factor, (mean - share @ mean).T, lower=True)
    width = len(white)
    between = (white * share) @ white.T
    directions = eigh(between, subset_by_index=(width - rank, width - 1), driver="evr")[1]
    basis = solve_triangular(factor, directions, lower=True, trans="T")
    weight = directions.T @ white
    at_centre = (share @ mean) @ basis @ weight
    return (basis, weight), 0.5 * np.square(weight).sum(axis=0) + at_centre
