"""Refine: stage 1's pooled opinion in, the two-stage opinion out. Items are grouped by predicted category, one booster call
each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Items, Pooled, compact
from stage2_xgb.gate import OWN, SHARED


@dataclass(frozen=True)
class Refined:
    """Log-probabilities float32 [N, K] of the shifted stage 1 and of both stages, and which items stage 2 answered (bool [N])."""

    shifted: np.ndarray
    two_stage: np.ndarray
    refined: np.ndarray


def refine(bundle: Bundle, pooled: Pooled, unit: str, force: str | None = None) -> Refined:
    """Both stages' opinion of some items. `force` has one answer everywhere, in place of the gate's choice: `shared`, or `own`
    (the shared one where a category has no reclassifier).

    Stage 1's mass of the candidates, or of the confusion set, is spread as stage 2 says; all else stands.
    """
    shifts = bundle.shifts[unit]
    shifted = shifts[0](pooled.log_probs[0])
    items = compact(pooled, shifts, bundle.projections)
    two_stage, refined = shifted.copy(), np.zeros(len(items), dtype=bool)
    shared = np.zeros(len(items), dtype=bool)
    for class_index, rows in _by_predicted(items):
        answer = force or bundle.answer(class_index)
        model = bundle.reclassifier(class_index) if answer == OWN else None
        if model is not None:
            within = model.log_probs(items[rows], bundle.evidence, shifted[np.ix_(rows, model.members)])
            _spread(two_stage, rows, np.tile(model.members, (len(rows), 1)), within)
            refined[rows] = True
        elif answer == SHARED or (answer == OWN and (force or bundle.default == SHARED)):
            shared[rows] = True
    rows = np.flatnonzero(shared)
    if bundle.reranker is not None and len(rows):
        candidates, within = bundle.reranker.log_probs(items[rows], bundle.evidence)
        _spread(two_stage, rows, candidates, within)
        refined[rows] = True
    return Refined(shifted, two_stage, refined)


def _by_predicted(items: Items) -> Iterator[tuple[int, np.ndarray]]:
    """Each predicted category and its rows."""
    order = np.argsort(items.predicted, kind="stable")
    present, starts = np.unique(items.predicted[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts)[1:], strict=True)


def _spread(log_probs: np.ndarray, rows: np.ndarray, classes: np.ndarray, within: np.ndarray) -> None:
    """Gives the mass of `classes` int [N, S] in `rows` of log_probs the shape of `within` [N, S], in place."""
    place = (rows[:, None], classes)
    log_probs[place] = within + logsumexp(log_probs[place], axis=1, keepdims=True)
