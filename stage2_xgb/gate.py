"""The gate: whether a category's own reclassifier answers, or the opinion before it (the pool's, or
the adjusted stage 1's if there is no pool), decided on held-out products that neither this opinion
nor the reclassifier knows.

Products are counted, not items: the images of a product and their pool are right or wrong together,
and chance deals products. A product is fixed if a model fixes more of its items than it breaks,
broken if it breaks more. They are weighted to the target mix.

What ships is decided on all of them; what is reported of it is cross-fitted (stage2_xgb.heldout).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from catalog.arrays import find_rows
from stage2_xgb.crossfit import cross_fitted_scores
from stage2_xgb.prior import importance

STAGE1, POOL, OWN = "stage1", "pool", "own"

PRIOR = 20.0
"""Products' worth of the overall rate of change that a category's own rate is weighed against, in
the variance of its gain."""
_REPEATS = 5
"""Halvings by which the whole is judged."""


@dataclass(frozen=True)
class Decision:
    """Who answers for the items that the opinion before puts into one category, and the held-out
    products behind it: how many, what its own reclassifier fixed and broke, and the posterior mean
    of its net gain a product, in the target mix."""

    answer: str
    products: int
    fixed: int
    broken: int
    gain: float


@dataclass(frozen=True)
class HeldOut:
    """Held-out items: the class int [N] that the opinion before the reclassifiers predicts, the
    true one, the product, and whether each answer is right, bool [N]: `pool` is that opinion, `own`
    the reclassifiers', which is as `pool` where there is none."""

    predicted: np.ndarray
    class_index: np.ndarray
    product_id: np.ndarray
    right: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.predicted)

    def __getitem__(self, rows: np.ndarray | slice) -> "HeldOut":
        right = {name: right[rows] for name, right in self.right.items()}
        return HeldOut(self.predicted[rows], self.class_index[rows], self.product_id[rows], right)

    @classmethod
    def concatenate(cls, blocks: Sequence["HeldOut"]) -> "HeldOut":
        """Items one after another, with the answers that all blocks know."""
        known = set.intersection(*(set(block.right) for block in blocks))
        names = ("predicted", "class_index", "product_id")
        predicted, class_index, product_id = (
            np.concatenate([getattr(block, name) for block in blocks]) for name in names
        )
        right = {name: np.concatenate([p.right[name] for p in blocks]) for name in sorted(known)}
        return cls(predicted, class_index, product_id, right)


@dataclass(frozen=True)
class Votes:
    """One row for each product and category that the opinion before put some of its items into:
    what the reclassifier did there (1 fixed, -1 broken, 0 neither), and the product's weight."""

    predicted: np.ndarray
    product_id: np.ndarray
    net: np.ndarray
    weight: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Votes":
        return Votes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def of(cls, held: HeldOut, target: np.ndarray) -> "Votes":
        """Counts the items of each product; products are weighted to the mix `target` [K]."""
        ids, first, product = np.unique(held.product_id, return_index=True, return_inverse=True)
        weight = importance(held.class_index[first], target)
        change = held.right[OWN].astype(np.int8) - held.right[POOL]
        pairs, pair = np.unique(
            held.predicted.astype(np.int64) * len(ids) + product, return_inverse=True
        )
        predicted, row = np.divmod(pairs, max(len(ids), 1))
        return cls(predicted, ids[row], np.sign(np.bincount(pair, change)), weight[row])


def decide(
    held: HeldOut, default: str, classes: np.ndarray, target: np.ndarray, seed: int
) -> dict[int, Decision]:
    """Decisions of the categories `classes`, which have a reclassifier, by class index.

    `default` names the opinion before; `target` [K] is the mix that counts. A category's
    reclassifier answers if the posterior mean of its gain is above zero, and all are off unless
    that rule, cross-fitted over products, gains by more than a standard error on the whole: the
    luckiest of many would lose their lead on test.
    """
    votes = Votes.of(held, target)
    votes = votes[np.isin(votes.predicted, classes)]
    gain, proven = posterior_means(votes, classes), gains_as_a_whole(votes, classes, seed)
    sizes = [
        np.bincount(votes.predicted[votes.net == net], minlength=len(target))[classes]
        for net in (0, 1, -1)
    ]
    return {
        c: Decision(OWN if proven and mean > 0 else default, same + up + down, up, down, mean)
        for c, same, up, down, mean in zip(
            classes.tolist(), *(size.tolist() for size in sizes), gain.tolist(), strict=True
        )
    }


def posterior_means(votes: Votes, classes: np.ndarray) -> np.ndarray:
    """Each category's expected net gain a product, float64 [C]: empirical Bayes with a normal prior
    over categories, whose mean and variance are estimated from all of them (DerSimonian and Laird
    1986)."""
    row = find_rows(classes, votes.predicted, np.argsort(classes))
    weight, change = votes.weight, votes.net != 0
    mass, square, total, moved = (
        np.bincount(row, x, len(classes))
        for x in (weight, weight**2, weight * votes.net, weight * change)
    )
    seen = mass > 0
    if not moved.any():
        return np.zeros(len(classes))
    size = mass[seen] ** 2 / square[seen]  # effective products
    gain, rate = total[seen] / mass[seen], moved[seen] / mass[seen]
    rate = (size * rate + PRIOR * moved.sum() / mass.sum()) / (size + PRIOR)
    precision = size / rate
    mean = (precision @ gain) / precision.sum()
    excess = precision @ (gain - mean) ** 2 - (len(gain) - 1)
    spread = precision.sum() - precision @ precision / precision.sum()
    variance = max(excess / spread, 0.0) if spread > 0 else 0.0
    trust = 1 / (variance + 1 / precision)
    mean = (trust @ gain) / trust.sum()
    out = np.full(len(classes), mean)
    out[seen] += variance * trust * (gain - mean)
    return out


def gains_as_a_whole(votes: Votes, classes: np.ndarray, seed: int) -> bool:
    """Whether reclassifiers with a posterior mean above zero gain more than a standard error on
    products that did not decide."""
    if not len(votes.net):
        return False

    def net_of_others(deciders: np.ndarray, others: np.ndarray) -> np.ndarray:
        on = classes[posterior_means(votes[deciders], classes) > 0]
        return votes.net[others] * np.isin(votes.predicted[others], on)

    score = votes.weight * cross_fitted_scores(
        votes.product_id, net_of_others, "gate, the whole", seed, _REPEATS
    )
    _, product = np.unique(votes.product_id, return_inverse=True)
    by_product = np.bincount(product, score)
    return bool(by_product.sum() > np.sqrt(np.square(by_product).sum()))
