"""The gate: which of stage 1, the shared reranker and a category's own reclassifier answers, decided on val_b, which no fit
saw."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

STAGE1, SHARED, OWN = "stage1", "shared", "own"

_CHANCE = 0.1
"""The overall gain of a model counts only where a one-sided sign test finds it less likely than this by chance."""


@dataclass(frozen=True)
class Decision:
    """Who answers for the items that stage 1 puts into one category, and the counts on val_b behind it: what its own reclassifier
    fixed and broke against the shared choice, and its net gain an item, shrunk."""

    answer: str
    items: int
    fixed: int
    broken: int
    gain: float


@dataclass(frozen=True)
class HeldOut:
    """val_b's items: the class int [N] that the shifted stage 1 predicts, the true one, the product, and whether each answer is
    right, bool [N]. Where there is no reclassifier, `own` is as `shared`."""

    predicted: np.ndarray
    class_index: np.ndarray
    product_id: np.ndarray
    right: Mapping[str, np.ndarray]

    def __getitem__(self, rows: np.ndarray) -> "HeldOut":
        plain = (getattr(self, name)[rows] for name in ("predicted", "class_index", "product_id"))
        return HeldOut(*plain, {name: right[rows] for name, right in self.right.items()})


def choose_default(held: HeldOut) -> str:
    """Who answers where nothing speaks for a category's own reclassifier: the shared reranker, if it gains overall."""
    fixed = int((held.right[SHARED] & ~held.right[STAGE1]).sum())
    broken = int((held.right[STAGE1] & ~held.right[SHARED]).sum())
    return SHARED if gains(fixed, broken) else STAGE1


def gains(fixed: int, broken: int) -> bool:
    """Whether fixing this many and breaking that many is a gain beyond chance."""
    return fixed > broken and binomtest(fixed, fixed + broken, alternative="greater").pvalue <= _CHANCE


def decide(held: HeldOut, default: str, classes: np.ndarray, prior: float) -> dict[int, Decision]:
    """Decisions of the categories `classes`, which have a reclassifier, by class index.

    Each one's net gain over the default answer is shrunk towards the overall one by `prior` items, so that a category with few
    held-out items stays with the default unless reclassifiers gain everywhere; an overall gain within chance counts as none. It
    answers where its shrunk gain is above one standard error: choosing the luckiest of many by a hair would undo itself on test.
    """
    concerned = np.isin(held.predicted, classes)
    fixed = held.right[OWN] & ~held.right[default] & concerned
    broken = ~held.right[OWN] & held.right[default] & concerned
    up, down = int(fixed.sum()), int(broken.sum())
    overall = (up - down) / max(int(concerned.sum()), 1) if up < down or gains(up, down) else 0.0
    decisions = {}
    for class_index in classes.tolist():
        mine = held.predicted == class_index
        n, up, down = int(mine.sum()), int(fixed[mine].sum()), int(broken[mine].sum())
        gain, error = (up - down + prior * overall) / (n + prior), (up + down) ** 0.5 / (n + prior)
        decisions[class_index] = Decision(OWN if gain > error else default, n, up, down, gain)
    return decisions
