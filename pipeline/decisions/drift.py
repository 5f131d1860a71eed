"""Whether products look like the catalogue's: a classifier two-sample test on their features
(Lopez-Paz and Oquab 2017). Nothing is put on disk.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

UNLIKE = 0.7
"""Area under the ROC curve from which on products count as unlike the catalogue's."""
LEAST = 50
"""Products of each side that a comparison takes."""
_PENALTY = 10.0


@dataclass(frozen=True)
class Drift:
    """How well a classifier tells products from the catalogue's: area under the ROC curve (0.5: not
    at all) with its standard error, over so many products of each side; auc is 0.5 and error
    infinite if there are too few."""

    auc: float
    error: float
    catalogue: int
    products: int

    @property
    def unlike(self) -> bool:
        """Whether the products are surely unlike the catalogue's."""
        return self.auc - 1.645 * self.error > UNLIKE

    def text(self) -> str:
        """For a terminal."""
        if not np.isfinite(self.error):
            return (
                f"drift: not tested, {self.products} products against {self.catalogue} of the "
                f"catalogue, expected at least {LEAST} of each"
            )
        verdict = "unlike the catalogue" if self.unlike else "alike"
        return (
            f"drift: {verdict}: a classifier tells the products from the catalogue's with an area "
            f"under the curve of {self.auc:.3f} +- {1.96 * self.error:.3f} (0.5 is not at all, "
            f"unlike from {UNLIKE:g} on)"
        )


def measure_drift(catalogue: np.ndarray, products: np.ndarray) -> Drift:
    """Compares the features float [N, D] of the catalogue with those of products [M, D].

    A ridge classifier of the standardised features and their squares, fitted on half of the items
    and judged on the other, both ways. The standard error is Hanley and McNeil's (1982).
    """
    n, m = len(catalogue), len(products)
    if min(n, m) < LEAST:
        return Drift(0.5, float("inf"), n, m)
    x = np.concatenate([catalogue, products]).astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    x = np.column_stack([np.clip(x, -4, 4), np.minimum(x**2, 16) - 1])
    y = np.repeat([0.0, 1.0], [n, m])
    fold = np.random.default_rng(0).permutation(len(y)) % 2
    auc = float(
        np.mean([_auc(x[fold != k], y[fold != k], x[fold == k], y[fold == k]) for k in (0, 1)])
    )
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)
    return Drift(auc, float(np.sqrt(max(spread, 0) / (n * m))), n, m)


def _auc(x: np.ndarray, y: np.ndarray, held_out: np.ndarray, truth: np.ndarray) -> float:
    """Area under the curve on `held_out` of a classifier fitted on x [N, D], y [N]; both sides
    weigh the same."""
    weight = np.where(y == 1, 0.5 / y.sum(), 0.5 / (len(y) - y.sum())) * len(y)
    centre = np.average(x, axis=0, weights=weight)
    scaled = (x - centre) * weight[:, None]
    gram = scaled.T @ (x - centre) + _PENALTY * np.sqrt(len(y)) * np.eye(x.shape[1])
    slope = np.linalg.solve(gram, scaled.T @ (y - 0.5))
    rank = rankdata((held_out - centre) @ slope)
    positive = truth.sum()
    return float(
        (rank[truth == 1].sum() - positive * (positive + 1) / 2)
        / (positive * (len(truth) - positive))
    )
