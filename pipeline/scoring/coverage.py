"""What a threshold of confidence costs: the share of products it accepts and how many of these are
right, on held-out products, never test. Nothing is put on disk: the table follows from
stage2/heldout.npz (`pipeline.decisions.heldout`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from catalog.intervals import clustered_share
from pipeline.decisions.heldout import HeldOutAnswers

THRESHOLDS = np.round(np.arange(101) / 100, 2)


@dataclass(frozen=True)
class Cost:
    """At one threshold: `coverage`, the share of items at least as confident; `accuracy`, the share
    of these that is right (None if there is none), with its 95% interval `low`, `high`; `n`, how
    many items these are."""

    threshold: float
    coverage: float
    accuracy: float | None
    low: float | None
    high: float | None
    n: int

    def text(self) -> str:
        """For a terminal."""
        accepted = f"confidence >= {self.threshold:.2f}: {self.coverage:.1%} of held-out products"
        if self.accuracy is None:
            return accepted
        return (
            f"{accepted} (n {self.n}), {self.accuracy:.1%} of them right "
            f"[{self.low:.1%}, {self.high:.1%}]"
        )


def curve(
    confidence: np.ndarray, right: np.ndarray, weight: np.ndarray, group: np.ndarray
) -> list[Cost]:
    """What each of THRESHOLDS costs, one row per threshold.

    The arrays [N] have one row per item: the confidence of its answer, whether it is right, its
    weight, and its group (the product of an image: items of one group are dependent).
    """
    group = np.unique(group, return_inverse=True)[1]
    total = max(float(weight.sum()), 1e-300)
    costs = []
    for threshold in THRESHOLDS.tolist():
        rows = confidence >= np.asarray(threshold, dtype=confidence.dtype)
        accepted = clustered_share(right[rows], weight[rows], group[rows])
        coverage, n = float(weight[rows].sum()) / total, int(rows.sum())
        costs.append(Cost(threshold, coverage, accepted.value, accepted.low, accepted.high, n))
    return costs


def costs(confidence: np.ndarray, right: np.ndarray, group: np.ndarray) -> list[dict[str, Any]]:
    """`curve` of items that all count the same, as plain values."""
    return [asdict(cost) for cost in curve(confidence, right, np.ones(len(right)), group)]


def costs_of(held: HeldOutAnswers) -> list[Cost]:
    """The table of held-out products, under the mix that they are answered for."""
    confidence = np.exp(held.answers.log_prob[:, 0])
    right = held.answers.top_class[:, 0] == held.class_index
    return curve(confidence, right, np.ones(len(held)), held.product_id)


def text_at(costs: Sequence[Cost], threshold: float) -> str:
    """What a threshold costs, for a terminal: as measured there, or at the highest threshold below
    it, which is named."""
    if not costs[0].n:
        return "there is no held-out product, so that nobody knows what a threshold costs"
    known = [cost for cost in costs if cost.threshold <= threshold]
    cost = max(known, key=lambda cost: cost.threshold)
    if cost.threshold == threshold:
        return cost.text()
    return f"{cost.text()}; {threshold:g} lies above that and was not measured itself"
