"""The gate: which of stage 1, the shared reranker and a category's own reclassifier answers, decided on val_b, which no fit saw.

Products are counted, not items: the images of a product and their pool are right or wrong together, and chance deals products.
One is fixed where a model mends more of its items than it breaks, broken where it breaks more.

What ships is decided on all of val_b. What is reported of it is cross-fitted (stage2_xgb.crossfit): decided on half of the
products, judged on the other half.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from stage2_xgb.crossfit import cross_judge

STAGE1, SHARED, OWN = "stage1", "shared", "own"

_CHANCE = 0.1
"""The overall gain of a model counts only where a one-sided sign test finds it less likely than this by chance."""


@dataclass(frozen=True)
class Decision:
    """Who answers for the items that stage 1 puts into one category, and val_b's products behind it: how many, what its own
    reclassifier fixed and broke against the shared choice, and its net gain a product, shrunk."""

    answer: str
    products: int
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

    def __len__(self) -> int:
        return len(self.predicted)

    def __getitem__(self, rows: np.ndarray) -> "HeldOut":
        plain = (getattr(self, name)[rows] for name in ("predicted", "class_index", "product_id"))
        return HeldOut(*plain, {name: right[rows] for name, right in self.right.items()})


@dataclass(frozen=True)
class Answering:
    """Who answers for each item, as the share of judgements [N] in which `stage1`, `shared` or `own` does (they sum to 1); and the
    share in which the shared reranker is the default, so that it would answer if no reclassifier did."""

    shares: Mapping[str, np.ndarray]
    shared_default: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Answering":
        return Answering({name: share[rows] for name, share in self.shares.items()}, self.shared_default[rows])

    def gated(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean over the judgements of what each answer's `values` [N] are, float64 [N]."""
        return sum(share * values[name] for name, share in self.shares.items())

    def without_own(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same if no reclassifier answered, float64 [N]."""
        return self.shared_default * values[SHARED] + (1 - self.shared_default) * values[STAGE1]

    @classmethod
    def of(cls, predicted: np.ndarray, default: str, decisions: Mapping[int, Decision]) -> "Answering":
        """One judgement: what some decisions say of items that stage 1 puts into the categories `predicted` [N]."""
        own = np.isin(predicted, [c for c, decision in decisions.items() if decision.answer == OWN])
        shares = {name: np.where(own, 0.0, float(name == default)) for name in (STAGE1, SHARED)}
        return cls(shares | {OWN: own.astype(np.float64)}, np.full(len(predicted), float(default == SHARED)))


def cross_fit(held: HeldOut, counted: np.ndarray, classes: np.ndarray, prior: float, seed: int) -> Answering:
    """Who answers for each item where the products that decide are never the item's own: many ways of halving the products, each
    half deciding for the other. Of the deciders only items that the mask `counted` [N] allows count, as in what ships."""

    def judge(deciders: np.ndarray, judged: np.ndarray) -> np.ndarray:
        seen = held[deciders & counted]
        default = choose_default(seen)
        found = Answering.of(held.predicted[judged], default, decide(seen, default, classes, prior))
        return np.stack([*found.shares.values(), found.shared_default], axis=1)

    *shares, shared_default = cross_judge(held.product_id, judge, "gate", seed).T
    return Answering(dict(zip((STAGE1, SHARED, OWN), shares, strict=True)), shared_default)


def choose_default(held: HeldOut) -> str:
    """Who answers where nothing speaks for a category's own reclassifier: the shared reranker, if it gains overall."""
    _, fixed, broken = counts(held.product_id, held.right[STAGE1], held.right[SHARED])
    return SHARED if gains(fixed, broken) else STAGE1


def counts(product_id: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[int, int, int]:
    """Products, and how many of them are fixed and broken; a row an item: whether it was right `before` and is `after`."""
    _, product = np.unique(product_id, return_inverse=True)
    net = np.bincount(product, after.astype(np.int8) - before)
    return len(net), int((net > 0).sum()), int((net < 0).sum())


def gains(fixed: int, broken: int) -> bool:
    """Whether fixing this many and breaking that many is a gain beyond chance."""
    return fixed > broken and binomtest(fixed, fixed + broken, alternative="greater").pvalue <= _CHANCE


def decide(held: HeldOut, default: str, classes: np.ndarray, prior: float) -> dict[int, Decision]:
    """Decisions of the categories `classes`, which have a reclassifier, by class index.

    Each one's net gain over the default answer is shrunk towards the overall one by `prior` products, so that a category with few
    held-out products stays with the default unless reclassifiers gain everywhere; an overall gain within chance counts as none.
    It answers where its shrunk gain is above one standard error: choosing the luckiest of many by a hair would undo itself on
    test.
    """
    held = held[np.isin(held.predicted, classes)]
    before, after = held.right[default], held.right[OWN]
    n, up, down = counts(held.product_id, before, after)
    overall = (up - down) / max(n, 1) if up < down or gains(up, down) else 0.0
    decisions = {}
    for class_index, n, up, down in zip(classes.tolist(), *_counts_of_each(held, before, after, classes), strict=True):
        gain, error = (up - down + prior * overall) / (n + prior), (up + down) ** 0.5 / (n + prior)
        decisions[class_index] = Decision(OWN if gain > error else default, n, up, down, gain)
    return decisions


def _counts_of_each(held: HeldOut, before: np.ndarray, after: np.ndarray, classes: np.ndarray) -> list[list[int]]:
    """`counts` among the items of each predicted class: products, fixed and broken, each a list over `classes`."""
    _, product = np.unique(held.product_id, return_inverse=True)
    products = len(held) + 1
    pairs, pair = np.unique(held.predicted.astype(np.int64) * products + product, return_inverse=True)
    net = np.bincount(pair, after.astype(np.int8) - before)
    most = int(max(classes.max(initial=0), held.predicted.max(initial=0))) + 1
    found = (np.bincount(pairs[rows] // products, minlength=most) for rows in (slice(None), net > 0, net < 0))
    return [count[classes].tolist() for count in found]
