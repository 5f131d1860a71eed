"""The figures of evaluated items: top-1, top-5 and macro F1 in both class mixes, paired changes,
calibration, and which categories stage 2 changed. Intervals: catalog.intervals, over groups of
products that share a picture.

In: a table of one unit's items (evaluation/items.parquet, docs/formats.md). Nothing is put on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
from scipy.stats import binom, false_discovery_control

from catalog.intervals import (
    NOTHING,
    Estimate,
    clustered_average,
    clustered_average_change,
    clustered_change,
    clustered_share,
)
from stage2_xgb.rivals import RIVALS

SYSTEMS = ("stage1", "shifted", "two_stage", "published")
"""The last one only if the published second stage was trained as well."""
METRICS = ("top1", "top5", "macro_f1")
CHANGES = {
    "shifted_over_stage1": ("shifted", "stage1"),
    "two_stage_over_shifted": ("two_stage", "shifted"),
    "two_stage_over_stage1": ("two_stage", "stage1"),
    "published_over_stage1": ("published", "stage1"),
} | {f"two_stage_over_{rival}": ("two_stage", rival) for rival in (*RIVALS, "published")}
BINS = 20
"""Bins of confidence, in the reliability diagram and the calibration error."""
RATE = 0.05
"""False discovery rate of the categories that are called better or worse."""


def systems_in(frame: pandas.DataFrame) -> list[str]:
    """The systems that a table of items has answers of."""
    return [system for system in (*SYSTEMS, *RIVALS) if f"{system}_class" in frame]


def measure(frame: pandas.DataFrame, classes: int, min_support: int) -> dict[str, Any]:
    """All figures of one unit, as metrics.json has them.

    `min_support`: balanced figures and macro F1 are over the categories with at least so many
    groups, that is independent products.
    """
    items, systems = _Items.of(frame, classes, min_support), systems_in(frame)
    answers = {system: _Answers.of(frame, system) for system in systems}
    out: dict[str, Any] = {
        "natural": {"counts": items.natural_counts()} | _natural(items, answers),
        "balanced": {"counts": items.balanced_counts()} | _balanced(items, answers),
    }
    before, after = answers["shifted"].right, answers["two_stage"].right
    out["categories_changed"] = changed_categories(items.truth, items.group, before, after, classes)
    out["fixed"], out["broken"] = int((after & ~before).sum()), int((before & ~after).sum())
    out["refined"] = int(frame["refined"].sum())
    out["ece"] = {
        s: reliability(a.confidence, a.right, items.weight)["ece"] for s, a in answers.items()
    }
    out["ece_by_chance"] = {
        s: ece_by_chance(a.confidence, items.weight) for s, a in answers.items()
    }
    out["linked"] = _by_link(items, answers, frame["linked"].to_numpy())
    return out


@dataclass(frozen=True)
class _Items:
    """The columns that all systems share: truth int [N], group int [N], natural weight float [N];
    of each class whether it has enough groups, bool [K], and its number of groups and items, int
    [K]."""

    truth: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    supported: np.ndarray
    groups: np.ndarray
    support: np.ndarray
    min_support: int

    @classmethod
    def of(cls, frame: pandas.DataFrame, classes: int, min_support: int) -> "_Items":
        truth, group = (
            frame[name].to_numpy().astype(np.int64) for name in ("class_index", "group")
        )
        groups = groups_per_class(truth, group, classes)
        support = np.bincount(truth, minlength=classes)
        weight = frame["weight"].to_numpy(dtype=np.float64)
        return cls(truth, group, weight, groups >= min_support, groups, support, min_support)

    @property
    def balanced(self) -> np.ndarray:
        """Share of each item in the balanced mix, float [N]: all categories with enough groups
        weigh the same."""
        share = self.supported / (np.maximum(self.support, 1) * max(1, int(self.supported.sum())))
        return share[self.truth]

    @property
    def inflation(self) -> np.ndarray:
        """Of residuals [N] from the mean of an item's own category, m / (m - 1) for m groups: the
        jackknife's correction within strata (Rao and Wu 1985), as a category of few groups hides
        its own variance."""
        return (self.groups / np.maximum(self.groups - 1, 1))[self.truth]

    def natural_counts(self) -> dict[str, Any]:
        """Items and categories in the natural mix."""
        effective = self.weight.sum() ** 2 / (self.weight**2).sum() if len(self.weight) else 0.0
        counts = {
            "n": len(self.truth),
            "groups": len(np.unique(self.group)),
            "effective_n": float(effective),
        }
        return counts | {"categories": int((self.support > 0).sum())}

    def balanced_counts(self) -> dict[str, Any]:
        """Items and categories in the balanced mix."""
        n, categories = int(self.support[self.supported].sum()), int(self.supported.sum())
        return {"n": n, "categories": categories, "min_support": self.min_support}


@dataclass(frozen=True)
class _Answers:
    """One system's answers: class int [N], rank of the truth int [N], confidence float [N]."""

    predicted: np.ndarray
    rank: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, frame: pandas.DataFrame, system: str) -> "_Answers":
        return cls(
            *(frame[f"{system}_{name}"].to_numpy() for name in ("class", "true_rank", "confidence"))
        )

    @property
    def right(self) -> np.ndarray:
        """Whether the answer is the truth, bool [N]."""
        return self.rank == 0

    @property
    def in_five(self) -> np.ndarray:
        """Whether the truth is among the first five, bool [N]."""
        return self.rank < 5


@dataclass(frozen=True)
class _Average:
    """A mean over categories: `value`, and of each item its `influence` and `share`, float [N]."""

    value: float
    influence: np.ndarray
    share: np.ndarray


def _natural(items: _Items, answers: Mapping[str, _Answers]) -> dict[str, Any]:
    weight, group = items.weight, items.group
    f1 = {system: _macro_f1(items, answer, weight) for system, answer in answers.items()}
    figures: dict[str, Any] = {}
    for system, answer in answers.items():
        top1 = clustered_share(answer.right, weight, group)
        top5 = clustered_share(answer.in_five, weight, group)
        figures[system] = _named(top1, top5, _estimate(f1[system], group))
    figures["changes"] = {}
    for name, (new, old) in _changes(answers).items():
        top1 = paired_change(answers[new].right, answers[old].right, weight, group)
        top5 = paired_change(answers[new].in_five, answers[old].in_five, weight, group)
        figures["changes"][name] = _named(top1, top5, _difference(f1[new], f1[old], group))
    return figures


def _balanced(items: _Items, answers: Mapping[str, _Answers]) -> dict[str, Any]:
    averages: dict[str, tuple[_Average | None, ...]] = {}
    for system, answer in answers.items():
        recalls = (_mean_recall(items, hit) for hit in (answer.right, answer.in_five))
        averages[system] = (*recalls, _macro_f1(items, answer, items.balanced))
    figures: dict[str, Any] = {
        s: _named(*(_estimate(x, items.group) for x in p)) for s, p in averages.items()
    }
    figures["changes"] = {}
    for name, (new, old) in _changes(answers).items():
        pairs = zip(averages[new], averages[old], strict=True)
        figures["changes"][name] = _named(*(_difference(a, b, items.group) for a, b in pairs))
    return figures


def top1_in_both_mixes(
    frame: pandas.DataFrame,
    classes: int,
    min_support: int,
    right: np.ndarray,
    before: np.ndarray | None = None,
) -> dict[str, Any]:
    """Natural and balanced top-1 of answers of which bool [N] are `right`, and its change where
    `before` were, as `measure` has them; of the items' columns, `class_index`, `group` and
    `weight`."""
    items = _Items.of(frame, classes, min_support)
    recall = _mean_recall(items, right)
    out = {
        "natural": {"top1": clustered_share(right, items.weight, items.group).to_json()},
        "balanced": {"top1": _estimate(recall, items.group).to_json()},
    }
    if before is not None:
        natural = paired_change(right, before, items.weight, items.group)
        balanced = _difference(recall, _mean_recall(items, before), items.group)
        out["natural"]["change"] = natural.to_json()
        out["balanced"]["change"] = balanced.to_json()
    return out


def _changes(answers: Mapping[str, _Answers]) -> dict[str, tuple[str, str]]:
    return {name: pair for name, pair in CHANGES.items() if set(pair) <= set(answers)}


def _named(*estimates: Estimate) -> dict[str, Any]:
    return {metric: estimate.to_json() for metric, estimate in zip(METRICS, estimates, strict=True)}


def _estimate(average: _Average | None, group: np.ndarray) -> Estimate:
    return (
        clustered_average(average.value, average.influence, average.share, group)
        if average
        else NOTHING
    )


def _difference(new: _Average | None, old: _Average | None, group: np.ndarray) -> Estimate:
    if new is None or old is None:
        return NOTHING
    return clustered_average_change(
        new.value - old.value, new.influence - old.influence, new.share, group
    )


def _mean_recall(items: _Items, hit: np.ndarray) -> _Average | None:
    """The mean over categories with enough groups of the share of their items that are hit, bool
    [N]."""
    if not items.supported.any():
        return None
    recall = np.bincount(items.truth, hit, len(items.support)) / np.maximum(items.support, 1)
    share = items.balanced
    influence = share * (hit - recall[items.truth]) * items.inflation
    return _Average(float(recall[items.supported].mean()), influence, share)


def _macro_f1(items: _Items, answer: _Answers, weight: np.ndarray) -> _Average | None:
    """The mean F1 of the categories with enough groups, 2 right / (true + predicted), counted in
    weights float [N]."""
    if not items.supported.any():
        return None
    truth, predicted, hit = items.truth, answer.predicted, answer.right
    size = np.bincount(truth, weight, len(items.support)) + np.bincount(
        predicted, weight, len(items.support)
    )
    scale = (
        np.where(items.supported, 1 / np.where(items.supported, size, 1), 0) / items.supported.sum()
    )
    f1 = np.where(
        items.supported,
        2 * np.bincount(truth, weight * hit, len(size)) / np.where(size > 0, size, 1),
        0,
    )
    slope = 2 * hit * scale[truth] - (f1 * scale)[truth] - (f1 * scale)[predicted]
    counted = weight * items.supported[truth]
    return _Average(
        float(f1[items.supported].mean()), weight * slope * items.inflation, counted / counted.sum()
    )


def _by_link(items: _Items, answers: Mapping[str, _Answers], linked: np.ndarray) -> dict[str, Any]:
    """Top-1 in the natural mix with and without the items whose product shares a picture with one
    outside of test."""
    figures: dict[str, Any] = {}
    for name, rows in (("with", linked), ("without", ~linked)):
        figures[name] = {
            system: clustered_share(
                answer.right[rows], items.weight[rows], items.group[rows]
            ).to_json()
            for system, answer in answers.items()
        }
    return figures


def paired_change(
    after: np.ndarray, before: np.ndarray, weight: np.ndarray, group: np.ndarray
) -> Estimate:
    """The change of the weighted share of right items, bool [N], from `before` to `after`."""
    return clustered_change(after.astype(np.float64) - before, weight, group)


def groups_per_class(truth: np.ndarray, group: np.ndarray, classes: int) -> np.ndarray:
    """Groups with an item of each class, int64 [K]."""
    number = group.max(initial=0) + 1
    return np.bincount(np.unique(truth * number + group) // number, minlength=classes)


def changed_categories(
    truth: np.ndarray, group: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int
) -> dict[str, Any]:
    """Class indices of the categories that are significantly `worse` or `better` off with stage 2,
    and what could be noticed.

    A paired sign test per category; false discovery rate RATE (Benjamini and Hochberg 1995).
    `before` and `after` bool [N]: whether the shifted stage 1 and both stages are right. The items
    of a `group` int [N] are dependent: together they have one vote in each class. `moved`:
    categories with a vote; `needed`: of how many votes, all for the worse, one more of these would
    have been called worse; `noticeable`: categories that have so many groups.
    """
    fixed, broken, groups = _votes(truth, group, before, after, classes)
    moved = np.flatnonzero(fixed + broken)
    chance = _by_chance(fixed, broken)[moved]
    sure = moved[false_discovery_control(chance) <= RATE] if len(chance) else moved
    needed = least_noticed(len(moved), len(sure))
    return {
        "worse": sure[fixed[sure] < broken[sure]].tolist(),
        "better": sure[fixed[sure] > broken[sure]].tolist(),
        "moved": len(moved),
        "needed": needed,
        "noticeable": int((groups >= needed).sum()),
    }


def sign_test(
    truth: np.ndarray, group: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int
) -> np.ndarray:
    """The two-sided p-value of each category's votes, as `changed_categories` counts them, float64
    [K]; NaN where there is none."""
    fixed, broken, _ = _votes(truth, group, before, after, classes)
    return _by_chance(fixed, broken)


def _votes(
    truth: np.ndarray, group: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups that vote for the better and for the worse in each class, and all its groups, int64
    [K] each."""
    number = group.max(initial=0) + 1
    voter, vote = np.unique(truth * number + group, return_inverse=True)
    net, owner = np.bincount(vote, after.astype(np.int8) - before), voter // number
    fixed, broken = (np.bincount(owner[won], minlength=classes) for won in (net > 0, net < 0))
    return fixed, broken, np.bincount(owner, minlength=classes)


def _by_chance(fixed: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """The two-sided p-value of the binomial test of a half, float64 [K]; NaN without votes."""
    votes = fixed + broken
    tail = binom.cdf(np.minimum(fixed, broken), votes, 0.5)
    return np.where(votes > 0, np.minimum(2 * tail, 1.0), np.nan)


def least_noticed(moved: int, significant: int) -> int:
    """Of how many votes, all alike, one more of `moved` tested categories is called significant,
    where `significant` are already.

    n votes alike have the two-sided p-value 2^(1-n), which must be at most RATE (significant +
    1) / moved.
    """
    return 1 + int(np.ceil(np.log2(max(moved, 1) / (RATE * min(significant + 1, max(moved, 1))))))


def reliability(confidence: np.ndarray, right: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """BINS bins of equal width over the confidence float [N], and the expected calibration error:
    the bins' gaps weighted by their mass (Naeini et al. 2015); None if there are no items."""
    confidence = confidence.astype(np.float64)
    bin_index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    mass, hits, trust = (
        np.bincount(bin_index, w, BINS) for w in (weight, weight * right, weight * confidence)
    )
    counts, rights = np.bincount(bin_index, minlength=BINS), np.bincount(bin_index, right, BINS)
    bins = [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "n": int(counts[b]),
            "right": int(rights[b]),
            "share": float(mass[b] / weight.sum()) if mass[b] else 0.0,
            "confidence": float(trust[b] / mass[b]) if mass[b] else None,
            "accuracy": float(hits[b] / mass[b]) if mass[b] else None,
        }
        for b in range(BINS)
    ]
    error = float(np.abs(hits - trust).sum() / weight.sum()) if len(weight) else None
    return {"ece": error, "bins": bins}


def ece_by_chance(confidence: np.ndarray, weight: np.ndarray) -> float | None:
    """About the calibration error to be expected of so many independent items if every confidence,
    float [N], were exact: in each bin the mean absolute value of a normal gap. None if there are no
    items."""
    confidence = confidence.astype(np.float64)
    bin_index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    variance = np.bincount(bin_index, weight**2 * confidence * (1 - confidence), BINS)
    return float(np.sqrt(2 / np.pi * variance).sum() / weight.sum()) if len(weight) else None
