"""How sure a measured share is."""

from typing import TypeVar

import numpy as np

Values = TypeVar("Values", float, np.ndarray)
_Z = 1.959964
"""The normal distribution's 97.5% point."""


def wilson(share: Values, n: Values) -> tuple[Values, Values]:
    """95% interval of a share of `n` items (Wilson 1927), which says something even of few: 0 to 1 of none. NaN stays NaN; `n` is
    the effective number where items are weighted."""
    middle, half = n * share + _Z**2 / 2, _Z * np.sqrt(n * share * (1 - share) + _Z**2 / 4)
    low, high = (middle - half) / (n + _Z**2), (middle + half) / (n + _Z**2)
    return np.maximum(0, np.minimum(low, share)), np.minimum(1, np.maximum(high, share))  # rounding must not exclude 0, 1


def clustered_share(right: np.ndarray, weight: np.ndarray, group: np.ndarray) -> tuple[float, float, float]:
    """Weighted share of items that are right, with its 95% interval; NaN, 0, 1 without items.

    right bool or in 0 .. 1, weight at least 0, group (items of one group are dependent), all [N].
    Wilson's interval with an effective number of items (Korn and Graubard 1998): the one by which a
    plain share would have the linearised variance over groups, at most Kish's number of items for
    the weights; if all or none are right, Kish's number of groups. For groups of one item and equal
    weights it is Wilson's own interval: 3 of 3 do not prove certainty.
    """
    used = weight > 0
    right, weight, group = right[used].astype(np.float64), weight[used], group[used]
    if not len(right):
        return np.nan, 0.0, 1.0
    total = weight.sum()
    share = float(weight @ right / total)
    (of_group, residual), _ = _group_sums(group, weight, weight * (right - share))
    variance = np.square(residual).sum() / total**2
    most = total**2 / np.square(weight).sum()
    certain = total**2 / np.square(of_group).sum()
    mixed = 1e-12 < share < 1 - 1e-12
    n = min(share * (1 - share) / max(variance, 1e-300), most) if mixed else certain
    low, high = wilson(share, float(n))
    return share, float(low), float(high)


def clustered_change(change: np.ndarray, weight: np.ndarray, group: np.ndarray) -> tuple[float, float, float]:
    """Weighted mean of paired changes, with its 95% interval; NaN, -1, 1 without items.

    change in -1 .. 1 (fixed +1, broken -1), weight and group as in `clustered_share`, all [N]. The
    linearised variance over groups after adding half a fixed, half a broken and one unchanged item of
    a group's average weight (Agresti and Min 2005): 3 unchanged items do not prove that none changes.
    """
    used = weight > 0
    change, weight, group = change[used].astype(np.float64), weight[used], group[used]
    if not len(change):
        return np.nan, -1.0, 1.0
    total = weight.sum()
    (of_group, of_change), groups = _group_sums(group, weight, weight * change)
    extra = total / groups
    middle = of_change.sum() / (total + 2 * extra)
    spread = np.square(of_change - of_group * middle).sum() + extra**2 * (1 + 2 * middle**2)
    half = _Z * float(np.sqrt(spread)) / (total + 2 * extra)
    mean = float(of_change.sum() / total)
    return mean, max(-1.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))


def _group_sums(group: np.ndarray, *values: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Sum of each of `values` [N] over the items of each group, float64 [G]; and G."""
    found, number = np.unique(group, return_inverse=True)
    return [np.bincount(number, value) for value in values], len(found)
