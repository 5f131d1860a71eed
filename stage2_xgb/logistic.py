"""Multinomial logistic regression by L-BFGS, for the pool's experts: float32 products, float64
sums, one start for all folds."""

import numpy as np
from scipy.optimize import minimize

from stage1_cnn.head import log_softmax
from stage2_xgb.experts import Inputs, LinearExpert, OneHot

C = 3.0
"""Inverse strength of the penalty, as in scikit-learn: the sum of squared weights / (2 C) is added
to the summed log-loss."""
LARGEST = 2 * 10**10
"""Most rows x inputs x classes: an iteration takes four operations for each, a fit some tens of
iterations."""
LARGEST_INPUTS = 2**28
"""Most rows x inputs: they are held as float32."""
_ROWS = 2048
_ITERATIONS = 100
_TOLERANCE = 1e-4
"""Of an iteration's relative gain in log-loss, below which it ends."""


def too_large(rows: int, columns: int, classes: int) -> bool:
    """Whether a fit would take too long, or too much memory for its inputs."""
    return rows * columns * classes > LARGEST or rows * columns > LARGEST_INPUTS


def fit_logistic(
    x: np.ndarray,
    class_index: np.ndarray,
    classes: int,
    inputs: Inputs | OneHot,
    *,
    c: float = C,
    start: LinearExpert | None = None,
) -> LinearExpert:
    """Fits inputs float32 [N, D] of labelled rows; begins from `start`, which must not know more
    rows than these."""
    present = np.unique(class_index)
    label = np.searchsorted(present, class_index)
    width = x.shape[1]
    first = np.zeros((width + 1, len(present)))
    if start is not None:
        first[:width] = start.factors[0][:, present]
        first[width] = np.where(np.isfinite(start.bias), start.bias, 0)[present]
    penalty = 1 / (c * max(len(x), 1))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters.reshape(first.shape)
        value, slope = _log_loss(weights.astype(np.float32), x, label)
        slope[:width] += penalty * weights[:width]
        return value + 0.5 * penalty * float(np.square(weights[:width]).sum()), slope.ravel()

    options = {"maxiter": _ITERATIONS, "ftol": _TOLERANCE, "gtol": 0.0}
    result = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    best = result.x.reshape(first.shape)
    weight = np.zeros((width, classes), dtype=np.float32)
    bias = np.full(classes, -np.inf, dtype=np.float32)
    weight[:, present] = best[:width]
    bias[present] = best[width]
    return LinearExpert(inputs, np.zeros(width, dtype=np.float32), (weight,), bias)


def fit_by_fold(
    x: np.ndarray,
    class_index: np.ndarray,
    fold: np.ndarray,
    folds: int,
    classes: int,
    inputs: Inputs | OneHot,
) -> list[LinearExpert]:
    """One fit for each fold int [N], of all rows but its own, and at the end one of all rows. Those
    of fold -1 are known to all, so that all begin from a fit of these."""
    seen = fold < 0
    start = fit_logistic(x[seen], class_index[seen], classes, inputs) if seen.any() else None
    known = (fold != number for number in range(folds + 1))  # of all in the end
    return [fit_logistic(x[k], class_index[k], classes, inputs, start=start) for k in known]


def _log_loss(weights: np.ndarray, x: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean log-loss of weights float32 [D + 1, K], the last row of which is the bias, and its slope
    float64 [D + 1, K]."""
    value, slope = 0.0, np.zeros(weights.shape)
    for begin in range(0, len(x), _ROWS):
        block, truth = x[begin : begin + _ROWS], label[begin : begin + _ROWS]
        log_probs = log_softmax(block @ weights[:-1] + weights[-1])
        rows = np.arange(len(block))
        value -= float(log_probs[rows, truth].sum(dtype=np.float64))
        error = np.exp(log_probs, out=log_probs)
        error[rows, truth] -= 1
        slope[:-1] += block.T @ error
        slope[-1] += error.sum(axis=0, dtype=np.float64)
    return value / len(x), slope / len(x)
