"""Refine: stage 1's pooled opinion in, the two-stage opinion out. Items are grouped by predicted
category, one booster call each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from features.neighbours import STRANGER
from stage2_xgb.bundle import Bundle, Model
from stage2_xgb.gate import OWN, SHARED, STAGE1
from stage2_xgb.items import Items, Pooled, keep_highest, shifted_views


@dataclass(frozen=True)
class Refined:
    """Log-probabilities float32 [N, K] of the shifted stage 1 and of both stages, and which items
    stage 2 answered (bool [N])."""

    shifted: np.ndarray
    two_stage: np.ndarray
    refined: np.ndarray


def refine(bundle: Bundle, pooled: Pooled, unit: str) -> Refined:
    """Both stages' opinion of some items.

    One builds on the other: the shared reranker spreads stage 1's mass of the candidates, a
    reclassifier that of its confusion set in the reranker's opinion; all else stands.
    """
    shifted, items = _seen(bundle, pooled, unit)
    two_stage, refined = shifted.copy(), np.zeros(len(items), dtype=bool)
    groups = [(rows, *_who(bundle, class_index)) for class_index, rows in _by_predicted(items)]
    if bundle.reranker is not None:
        rows = _together([rows for rows, answer, _ in groups if answer != STAGE1])
        _rerank(two_stage, bundle, items, rows)
        refined[rows] = True
    for rows, _, model in groups:
        if model is not None:
            _reclassify(two_stage, bundle, items, rows, model)
            refined[rows] = True
    return Refined(shifted, two_stage, refined)


def each_answer(bundle: Bundle, pooled: Pooled, unit: str) -> dict[str, np.ndarray]:
    """The opinion float32 [N, K] of each possible answer, had it all items: `stage1` (shifted),
    `shared`, and `own`, which is the shared one where a category has no reclassifier."""
    shifted, items = _seen(bundle, pooled, unit)
    groups = list(_by_predicted(items))
    shared = shifted.copy()
    if bundle.reranker is not None:
        _rerank(shared, bundle, items, _together([rows for _, rows in groups]))
    own = shared.copy()
    for class_index, rows in groups:
        if (model := bundle.reclassifier(class_index)) is not None:
            _reclassify(own, bundle, items, rows, model)
    return {STAGE1: shifted, SHARED: shared, OWN: own}


def _seen(bundle: Bundle, pooled: Pooled, unit: str) -> tuple[np.ndarray, Items]:
    """The shifted stage 1's opinion [N, K], and what the second stage sees of the items.

    Whatever their product id, they are strangers to the bank: another shop's product may have the
    id of one of ours, and photos alone, as `predict` and the exported reader have them, have none.
    So equal photos get equal answers however they are asked for. What is held out has no photos in
    the bank.
    """
    views = shifted_views(pooled, bundle.shifts[unit])
    items = keep_highest(pooled, views, bundle.projections)
    return views[0], replace(items, product_id=np.full_like(items.product_id, STRANGER))


def _who(bundle: Bundle, class_index: int) -> tuple[str, Model | None]:
    """Who answers for a category, and its reclassifier if that does."""
    answer = bundle.answer(class_index)
    model = bundle.reclassifier(class_index) if answer == OWN else None
    return (bundle.default if answer == OWN and model is None else answer), model


def _rerank(log_probs: np.ndarray, bundle: Bundle, items: Items, rows: np.ndarray) -> None:
    """Has the shared reranker answer for some rows of log_probs [N, K], in place."""
    candidates, within = bundle.reranker.log_probs(items[rows], bundle.evidence)
    _spread(log_probs, rows, candidates, within)


def _reclassify(
    log_probs: np.ndarray, bundle: Bundle, items: Items, rows: np.ndarray, model: Model
) -> None:
    """Has a reclassifier answer for some rows of log_probs [N, K], in place."""
    seen = items[rows].judged(log_probs[rows])
    within = model.log_probs(seen, bundle.evidence, log_probs[np.ix_(rows, model.members)])
    _spread(log_probs, rows, np.tile(model.members, (len(rows), 1)), within)


def _together(groups: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *groups])


def _by_predicted(items: Items) -> Iterator[tuple[int, np.ndarray]]:
    """Each predicted category and its rows."""
    order = np.argsort(items.predicted, kind="stable")
    present, starts = np.unique(items.predicted[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts)[1:], strict=True)


def _spread(
    log_probs: np.ndarray, rows: np.ndarray, classes: np.ndarray, within: np.ndarray
) -> None:
    """Gives the mass of `classes` int [N, S] in `rows` of log_probs the shape of `within` [N, S],
    in place."""
    place = (rows[:, None], classes)
    log_probs[place] = within + logsumexp(log_probs[place], axis=1, keepdims=True)
