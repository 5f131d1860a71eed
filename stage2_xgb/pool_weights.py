"""Fits the numbers of the pool of experts by log-loss on held-out items: each expert's temperature,
then one weight each."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

PENALTY = 3.0
"""Of weights that differ from the first ones: half of this times their squared distance, in
log-losses of one item."""
_SHARPEST, _BLUNTEST = np.log(1e-4), np.log(1e2)
_ROWS = 1024


@dataclass(frozen=True)
class Terms:
    """What a weighted sum makes a score of: each term float32 [N, F, C] for C classes of each item;
    the place int [N] of the true one; a weight [N] of each item."""

    values: np.ndarray
    truth: np.ndarray
    weight: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Terms":
        return Terms(self.values[rows], self.truth[rows], self.weight[rows])

    def log_loss(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean log-loss of the softmax of the terms' sum, weighted by parameters [F], and its
        slope: convex, float64."""
        value, slope = 0.0, np.zeros(len(parameters))
        for start in range(0, len(self.truth), _ROWS):
            terms = self.values[start : start + _ROWS].astype(np.float64)
            truth, weight = self.truth[start : start + _ROWS], self.weight[start : start + _ROWS]
            own = terms[np.arange(len(terms)), :, truth]
            scores = np.einsum("nfc,f->nc", terms, parameters)
            top = scores.max(axis=1, keepdims=True)
            shares = np.exp(scores - top)
            norm = shares.sum(axis=1, keepdims=True)
            value += weight @ (np.log(norm[:, 0]) + top[:, 0] - own @ parameters)
            slope += weight @ (np.einsum("nfc,nc->nf", terms, shares / norm) - own)
        return value / self.weight.sum(), slope / self.weight.sum()


def fit_weights(
    terms: Terms,
    first: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    penalty: float = PENALTY,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Weights float64 [F] within `low` .. `high` [F] of least log-loss, penalised for their
    distance from `first`, where they stay without an item. The penalty counts less the more items
    there are. The search begins at `start`, which only saves time."""
    if not len(terms.truth):
        return first.astype(np.float64)
    strength = penalty / effective(terms.weight)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = terms.log_loss(parameters)
        away = parameters - first
        return value + 0.5 * strength * float(away @ away), slope + strength * away

    bounds = list(zip(low.tolist(), high.tolist(), strict=True))
    options = {"maxiter": 200, "ftol": 1e-12, "gtol": 1e-8}
    return minimize(
        loss,
        np.clip(first if start is None else start, low, high),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options=options,
    ).x


def effective(weight: np.ndarray) -> float:
    """The number of equally weighted items that are worth as much as these (Kish 1965)."""
    return float(weight.sum() ** 2 / np.square(weight).sum())
