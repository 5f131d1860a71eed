"""The gate: whether a category's own reclassifier answers, or the opinion before it (the pool's, or
the adjusted stage 1's if there is no pool), decided on val_b, which no fit saw.

Products are counted, not items: the images of a product and their pool are right or wrong together,
and chance deals products. One is fixed where a model mends more of its items than it breaks, broken
where it breaks more.

What ships is decided on all of val_b; what is reported of it is cross-fitted (stage2_xgb.heldout).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

STAGE1, POOL, OWN = "stage1", "pool", "own"

PRIOR = 20.0
"""Products' worth of the overall gain that a category's own count is weighed against."""

_CHANCE = 0.1
"""The overall gain of a model counts only where a one-sided sign test finds it less likely than
this by chance."""


@dataclass(frozen=True)
class Decision:
    """Who answers for the items that the opinion before puts into one category, and val_b's
    products behind it: how many, what its own reclassifier fixed and broke, and its net gain a
    product, shrunk."""

    answer: str
    products: int
    fixed: int
    broken: int
    gain: float


@dataclass(frozen=True)
class HeldOut:
    """val_b's items: the class int [N] that the opinion before the reclassifiers predicts, the true
    one, the product, and whether each answer is right, bool [N]: `pool` is that opinion, `own` the
    reclassifiers', which is as `pool` where there is none."""

    predicted: np.ndarray
    class_index: np.ndarray
    product_id: np.ndarray
    right: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.predicted)

    def __getitem__(self, rows: np.ndarray) -> "HeldOut":
        right = {name: right[rows] for name, right in self.right.items()}
        return HeldOut(self.predicted[rows], self.class_index[rows], self.product_id[rows], right)


def counts(product_id: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[int, int, int]:
    """Products, and how many of them are fixed and broken; a row an item: whether it was right
    `before` and is `after`."""
    _, product = np.unique(product_id, return_inverse=True)
    net = np.bincount(product, after.astype(np.int8) - before)
    return len(net), int((net > 0).sum()), int((net < 0).sum())


def gains(fixed: int, broken: int) -> bool:
    """Whether fixing this many and breaking that many is a gain beyond chance."""
    return (
        fixed > broken and binomtest(fixed, fixed + broken, alternative="greater").pvalue <= _CHANCE
    )


def decide(
    held: HeldOut, default: str, classes: np.ndarray, prior: float = PRIOR
) -> dict[int, Decision]:
    """Decisions of the categories `classes`, which have a reclassifier, by class index.

    `default` names the opinion before. Each one's net gain over it is shrunk towards the overall
    one by `prior` products, so that a category with few held-out products stays with the default
    unless reclassifiers gain everywhere; an overall gain within chance counts as none. It answers
    where its shrunk gain is above one standard error: choosing the luckiest of many by a hair would
    undo itself on test.
    """
    held = held[np.isin(held.predicted, classes)]
    before, after = held.right[POOL], held.right[OWN]
    n, up, down = counts(held.product_id, before, after)
    overall = (up - down if gains(up, down) else min(up - down, 0)) / max(n, 1)
    decisions = {}
    for class_index, n, up, down in zip(
        classes.tolist(), *_counts_of_each(held, before, after, classes), strict=True
    ):
        gain, error = (up - down + prior * overall) / (n + prior), (up + down) ** 0.5 / (n + prior)
        decisions[class_index] = Decision(OWN if gain > error else default, n, up, down, gain)
    return decisions


def _counts_of_each(
    held: HeldOut, before: np.ndarray, after: np.ndarray, classes: np.ndarray
) -> list[list[int]]:
    """`counts` among the items of each predicted class: products, fixed and broken, each a list
    over `classes`."""
    _, product = np.unique(held.product_id, return_inverse=True)
    pairs, pair = np.unique(
        held.predicted.astype(np.int64) * len(held) + product, return_inverse=True
    )
    net = np.bincount(pair, after.astype(np.int8) - before)
    found = (
        Counter((pairs[rows] // len(held)).tolist()) for rows in (slice(None), net > 0, net < 0)
    )
    return [[counter[c] for c in classes.tolist()] for counter in found]
