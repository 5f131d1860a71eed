"""Refine: stage 1's pooled opinion in, the two-stage opinion out. Items are grouped by predicted category, one booster call
each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stage2_xgb.bundle import Bundle, Model
from stage2_xgb.gate import OWN, SHARED, STAGE1
from stage2_xgb.items import Items, Pooled, keep_highest, shifted_views


@dataclass(frozen=True)
class Refined:
    """Log-probabilities float32 [N, K] of the shifted stage 1 and of both stages, and which items stage 2 answered (bool [N])."""

    shifted: np.ndarray
    two_stage: np.ndarray
    refined: np.ndarray


def refine(bundle: Bundle, pooled: Pooled, unit: str, force: str | None = None) -> Refined:
    """Both stages' opinion of some items. `force` has one answer everywhere, in place of the gate's choice: `shared`, or `own`
    (the shared one where a category has no reclassifier).

    One builds on the other: the shared reranker spreads stage 1's mass of the candidates, a reclassifier that of its confusion
    set in the reranker's opinion; all else stands.
    """
    views = shifted_views(pooled, bundle.shifts[unit])
    shifted, items = views[0], keep_highest(pooled, views, bundle.projections)
    two_stage, refined = shifted.copy(), np.zeros(len(items), dtype=bool)
    groups = [(rows, *_who(bundle, class_index, force)) for class_index, rows in _by_predicted(items)]
    if bundle.reranker is not None:
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *(rows for rows, answer, _ in groups if answer != STAGE1)])
        candidates, within = bundle.reranker.log_probs(items[rows], bundle.evidence)
        _spread(two_stage, rows, candidates, within)
        refined[rows] = True
    for rows, _, model in groups:
        if model is not None:
            seen = items[rows].judged(two_stage[rows])
            within = model.log_probs(seen, bundle.evidence, two_stage[np.ix_(rows, model.members)])
            _spread(two_stage, rows, np.tile(model.members, (len(rows), 1)), within)
            refined[rows] = True
    return Refined(shifted, two_stage, refined)


def _who(bundle: Bundle, class_index: int, force: str | None) -> tuple[str, Model | None]:
    """Who answers for a category, and its reclassifier if that does."""
    answer = force or bundle.answer(class_index)
    model = bundle.reclassifier(class_index) if answer == OWN else None
    if answer == OWN and model is None:
        answer = SHARED if force else bundle.default
    return answer, model


def _by_predicted(items: Items) -> Iterator[tuple[int, np.ndarray]]:
    """Each predicted category and its rows."""
    order = np.argsort(items.predicted, kind="stable")
    present, starts = np.unique(items.predicted[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts)[1:], strict=True)


def _spread(log_probs: np.ndarray, rows: np.ndarray, classes: np.ndarray, within: np.ndarray) -> None:
    """Gives the mass of `classes` int [N, S] in `rows` of log_probs the shape of `within` [N, S], in place."""
    place = (rows[:, None], classes)
    log_probs[place] = within + logsumexp(log_probs[place], axis=1, keepdims=True)
