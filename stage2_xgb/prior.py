"""The class mix: stage 1 learns a capped mix of categories, catalogues are long-tailed.

log p'(c|x) = log p(c|x) / temperature + strength * log(target(c) / train(c)), normalised (Saerens
et al. 2002, with a strength; temperature: Guo et al. 2017). Temperature and strength are fitted on
val_a, for images and for products apart.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from catalog.csv_file import CsvFile, whole_number
from catalog.errors import ConfigError
from catalog.taxonomy import Taxonomy
from stage1_cnn.head import log_softmax

_ROWS = 256
"""Items at once in fitting: thousands of categories of so many stay in the processor's cache."""
_UNFITTED = 50
"""Items' worth of the belief that temperature and strength are 1: of few items, chance would choose
them."""
_BOUNDS = ((0.25, 4.0), (0.0, 1.5))
"""Of 1 / temperature and of strength."""
_LEAST = 1e-9
"""Share of a category that a file of weights leaves out or gives 0: its logarithm must exist."""


@dataclass(frozen=True)
class Shift:
    """From stage 1's log-probabilities to those under the target mix. `log_ratio` float32 [K] is
    log target/train."""

    temperature: float
    strength: float
    log_ratio: np.ndarray

    def __call__(self, log_probs: np.ndarray) -> np.ndarray:
        """Shifted log-probabilities, float32 [N, K]."""
        scores = log_probs / np.float32(self.temperature)
        scores += np.float32(self.strength) * self.log_ratio
        return log_softmax(scores)

    @property
    def numbers(self) -> dict[str, float]:
        """What was fitted."""
        return {"temperature": self.temperature, "strength": self.strength}

    @property
    def at_border(self) -> list[str]:
        """Names of what lies at the end of the range that is searched, so that the best value may
        lie beyond."""
        values = {"temperature": 1 / self.temperature, "strength": self.strength}
        return [
            name
            for (name, x), ends in zip(values.items(), _BOUNDS, strict=True)
            if np.isclose(x, ends, atol=1e-3).any()
        ]


def mix(counts: np.ndarray) -> np.ndarray:
    """Counts [K] as a class mix float64 [K] that sums to 1; half an item is added to each class, so
    that none is impossible."""
    smoothed = np.asarray(counts, dtype=np.float64) + 0.5
    return smoothed / smoothed.sum()


def target_mix(
    target: str | Path, natural: np.ndarray, train: np.ndarray, taxonomy: Taxonomy
) -> np.ndarray:
    """The mix [K] that `stage2.target_prior` names. Raises ConfigError if a file of weights doesn't
    fit the taxonomy."""
    named = {"natural": natural, "train": train, "balanced": np.ones(len(taxonomy))}
    if target in named:
        return mix(named[target])
    return read_mix(Path(target), taxonomy, "stage2.target_prior")


def read_mix(path: Path, taxonomy: Taxonomy, key: str) -> np.ndarray:
    """The mix [K] in a CSV with columns category_id,weight. Raises ConfigError, naming the `key` of
    the configuration, if it doesn't fit the taxonomy."""
    file = CsvFile(path, ConfigError, key)
    rows: list[tuple[int, float]] = []
    for category, weight in file.rows(["category_id", "weight"]):
        try:
            rows.append((whole_number(category, 2**63 - 1), float(weight)))
        except ValueError as error:
            raise file.fault(f"as category_id and weight: {error}") from error
    index = taxonomy.class_index(np.array([row[0] for row in rows], dtype=np.int64))
    if (index < 0).any():
        raise ConfigError(
            f"{key}: {path}: category_id {rows[int(np.argmin(index))][0]} is not in the taxonomy"
        )
    weights = np.zeros(len(taxonomy))
    np.add.at(weights, index, [row[1] for row in rows])
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        first_weights = weights.tolist()[:10]
        raise ConfigError(
            f"{key}: {path}: expected weights of at least 0 and not all 0, found {first_weights}"
        )
    shares = np.maximum(weights / weights.sum(), _LEAST)
    return shares / shares.sum()


def fit_shift(
    log_probs: np.ndarray, class_index: np.ndarray, train: np.ndarray, target: np.ndarray
) -> Shift:
    """Temperature and strength that minimise the log-loss of val_a's items, reweighted to the
    target mix.

    `log_probs` float32 [N, K], `class_index` [N]; `train` and `target` are mixes [K]. Computed in
    float64. The labels are smoothed by what the unfitted shift (1, 1) says of the same items, as if
    _UNFITTED items more had been labelled by it; so few items change little.
    """
    log_ratio = np.log(target / train)
    if not len(class_index):
        return Shift(1.0, 1.0, log_ratio.astype(np.float32))
    weight = importance(class_index, target)
    weight /= weight.sum()
    effective = 1 / np.square(weight).sum()
    belief = _UNFITTED / (effective + _UNFITTED)
    blocks = [slice(start, start + _ROWS) for start in range(0, len(class_index), _ROWS)]
    labels = []
    for rows in blocks:
        _, believed = _expected(log_probs[rows], log_ratio, np.ones(2))
        true = log_probs[rows][np.arange(len(believed)), class_index[rows]]
        known = np.stack([true, log_ratio[class_index[rows]]], axis=1)
        labels.append((1 - belief) * known + belief * believed)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The log-loss, convex in 1 / temperature and strength, and its slope."""
        total, slope = 0.0, np.zeros(2)
        for rows, label in zip(blocks, labels, strict=True):
            log_norm, expected = _expected(log_probs[rows], log_ratio, parameters)
            total += weight[rows] @ (log_norm - label @ parameters)
            slope += weight[rows] @ (expected - label)
        return total, slope

    best = minimize(loss, x0=np.ones(2), jac=True, bounds=_BOUNDS, method="L-BFGS-B")
    return Shift(float(1 / best.x[0]), float(best.x[1]), log_ratio.astype(np.float32))


def _expected(
    log_probs: np.ndarray, log_ratio: np.ndarray, parameters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of items [n, K] shifted with (1 / temperature, strength): the log of the norm [n], and the
    log-probability and log-ratio [n, 2] to be expected of a class that is drawn so."""
    seen = log_probs.astype(np.float64)
    share = parameters[0] * seen
    share += parameters[1] * log_ratio
    top = share.max(axis=1)
    share -= top[:, None]
    norm = np.exp(share, out=share).sum(axis=1)
    expected = np.stack([np.einsum("nk,nk->n", share, seen), share @ log_ratio], axis=1)
    return np.log(norm) + top, expected / norm[:, None]


def importance(class_index: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weight [N] of each item, so that the items' class mix is the target's (as far as their
    classes cover it); mean 1."""
    counts = np.bincount(class_index, minlength=len(target))
    weight = target[class_index] / counts[class_index]
    return weight * (len(weight) / weight.sum()) if len(weight) else weight
