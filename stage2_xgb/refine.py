"""Refine: stage 1's opinion of images in, the two-stage opinion of these or of their products out.
Items are grouped by the pool's answer, one booster call each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from stage2_xgb.bundle import Bundle
from stage2_xgb.gate import OWN, POOL, STAGE1
from stage2_xgb.items import ItemBlock, Items, compact, has_columns, of_unit
from stage2_xgb.reclassifier import Reclassifier


@dataclass(frozen=True)
class Refined:
    """Images, or their products, as stage 1 has them; log-probabilities float32 [N, K] of the
    adjusted stage 1 and of both stages; who answers for each item, str [N]: STAGE1, POOL or OWN, a
    category's own reclassifier."""

    pooled: ItemBlock
    shifted: np.ndarray
    two_stage: np.ndarray
    answered_by: np.ndarray

    @property
    def refined(self) -> np.ndarray:
        """Which items stage 2 answered, bool [N]."""
        return self.answered_by != STAGE1


@dataclass(frozen=True)
class Before:
    """What a reclassifier starts from: the items as stage 1 has them, and the log-probabilities
    float32 [N, K] of the adjusted stage 1 and of the pool, which is as that if there is none."""

    pooled: ItemBlock
    shifted: np.ndarray
    pool: np.ndarray

    @classmethod
    def of(cls, bundle: Bundle, images: ItemBlock, unit: str) -> "Before":
        """Asks the pool about images, or about their products if `unit` is `product`."""
        pooled = of_unit(images, unit)
        shifted = bundle.shifts[unit](pooled.log_probs)
        pool = shifted if bundle.pool is None else bundle.pool.log_probs(images, unit)
        return cls(pooled, shifted, pool)

    def by_answer(
        self, bundle: Bundle, classes: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray, Items]]:
        """Each of some categories that the pool names: its rows, and what a reclassifier sees of
        them. Items without columns are left out if reclassifiers learnt from columns: these would
        miss them."""
        rows = np.flatnonzero(np.isin(self.pool.argmax(axis=1), classes))
        if bundle.columns:
            rows = rows[has_columns(self.pooled.codes[rows])]
        items = compact(self.pooled.rows(rows), self.pool[rows], bundle.projections)
        order = np.argsort(items.predicted, kind="stable")
        present, starts = np.unique(items.predicted[order], return_index=True)
        for class_index, same in zip(present.tolist(), np.split(order, starts)[1:], strict=True):
            yield class_index, rows[same], items[same]


def refine(bundle: Bundle, images: ItemBlock, unit: str) -> Refined:
    """Both stages' opinion of some images, or of their products, whose images stand together.

    One builds on the other: the pool weighs stage 1 and the other experts, a reclassifier spreads
    the pool's mass of its confusion set; all else stands.
    """
    before = Before.of(bundle, images, unit)
    two_stage = before.pool.copy()
    answered_by = np.full(len(two_stage), bundle.default, dtype=object)
    answering = [c for c, answer in bundle.answers.items() if answer == OWN]
    for class_index, rows, items in before.by_answer(bundle, answering):
        if (model := bundle.reclassifier(class_index)) is not None:
            _reclassify(two_stage, items, rows, model)
            answered_by[rows] = OWN
    return Refined(before.pooled, before.shifted, two_stage, answered_by)


def answer_with_all(
    bundle: Bundle, images: ItemBlock, unit: str
) -> tuple[ItemBlock, dict[str, np.ndarray]]:
    """The items, and the opinion float32 [N, K] of each possible answer, as if it answered for all
    of them: `stage1` (adjusted), `pool` (which is as that if there is none), and `own`, which is as
    `pool` if a category has no reclassifier."""
    before = Before.of(bundle, images, unit)
    own = before.pool.copy()
    for class_index, rows, items in before.by_answer(bundle, bundle.modelled):
        if (model := bundle.reclassifier(class_index)) is not None:
            _reclassify(own, items, rows, model)
    return before.pooled, {STAGE1: before.shifted, POOL: before.pool, OWN: own}


def _reclassify(log_probs: np.ndarray, items: Items, rows: np.ndarray, model: Reclassifier) -> None:
    """Has a reclassifier answer for some rows of log_probs [N, K], in place: it redistributes the
    mass of its members."""
    cells = np.ix_(rows, model.members)
    before = log_probs[cells]
    mass = logsumexp(before, axis=1, keepdims=True)
    log_probs[cells] = model.log_probs(items, before) + mass
