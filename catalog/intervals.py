"""Shares, and paired changes of them, with 95% intervals: the one place that computes any.

Items of one group (the images of a product; products that share a picture) are right or wrong
together, and chance deals groups. So every variance here is that of sums over groups (linearised,
"cluster-robust"), never of items. No interval has zero width, however few the items. Coverage in
simulations: tests/catalog/test_intervals.py.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

_Z = 1.959964
"""The normal distribution's 97.5% point."""

_DENSE = 4
"""Possible pairs of cell and group for each item, up to which it is quicker to count all of them
than to sort."""


class Estimate(NamedTuple):
    """A value with its 95% interval, over `n` items; the first three are None if there are no
    items."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """As the JSON files have it."""
        return self._asdict()


NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True)
class Shares:
    """Shares of several cells, arrays [cells]: `value` with its 95% interval `low`, `high` (NaN
    without items), items `n`, and `effective_n`: how many independent items would carry as much
    information."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    effective_n: np.ndarray

    def __getitem__(self, cell: int) -> Estimate:
        if not self.n[cell]:
            return NOTHING
        return Estimate(
            float(self.value[cell]),
            float(self.low[cell]),
            float(self.high[cell]),
            int(self.n[cell]),
        )


def wilson(share: np.ndarray | float, n: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of a share of `n` independent items (Wilson 1927): 0 to 1 if there are none; NaN
    stays NaN.

    Dependent or weighted items: use `clustered_shares`, or give their effective number.
    """
    middle, half = n * share + _Z**2 / 2, _Z * np.sqrt(n * share * (1 - share) + _Z**2 / 4)
    low, high = (middle - half) / (n + _Z**2), (middle + half) / (n + _Z**2)
    # Rounding must not exclude 0 or 1.
    return np.maximum(0, np.minimum(low, share)), np.minimum(1, np.maximum(high, share))


def effective_groups(group: np.ndarray) -> float:
    """How many independent items tell at least as much as items of these groups, int [N] from 0
    (Kish 1965): each group counts as one, less if they are of unequal size. For `wilson`, if only
    the number of right items is known."""
    sizes = np.bincount(group)
    return float(sizes.sum() ** 2 / max(1, (sizes**2).sum()))


def clustered_share(right: np.ndarray, weight: np.ndarray, group: np.ndarray) -> Estimate:
    """The weighted share of items that are right: `right` bool, or float from 0 to 1; `weight`
    float; `group` int from 0; [N].

    >>> clustered_share(np.array([True, True, True]), np.ones(3), np.arange(3))  # 3 of 3
    Estimate(value=1.0, low=0.438..., high=1.0, n=3)
    """
    return clustered_shares(right, weight, group, np.zeros(len(right), dtype=np.int64), 1)[0]


def clustered_shares(
    right: np.ndarray, weight: np.ndarray, group: np.ndarray, cell: np.ndarray, cells: int
) -> Shares:
    """The same in each cell: `cell` int [N] from 0 to `cells` - 1."""
    mass = np.bincount(cell, weight, cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.clip(np.bincount(cell, weight * right, cells) / mass, 0, 1)
        share = weight / mass[cell]
    return _bounded(value, share * (right - value[cell]), share, group, cell)


def clustered_average(
    value: float, influence: np.ndarray, share: np.ndarray, group: np.ndarray
) -> Estimate:
    """A figure from 0 to 1 that is not a plain share, such as a mean over categories.

    `influence` float [N] is what each item adds to the figure's error, to first order; `share`
    float [N], which sums to 1, is each item's share of the whole. Items without a share are not
    counted in `n`.
    """
    if not share.any():
        return NOTHING
    return _bounded(
        np.array([value]), influence, share, group, np.zeros(len(share), dtype=np.int64)
    )[0]


def clustered_change(change: np.ndarray, weight: np.ndarray, group: np.ndarray) -> Estimate:
    """The weighted mean of paired changes from -1 to 1, float [N], such as right after less right
    before."""
    if not weight.any():
        return NOTHING
    share = weight / weight.sum()
    value = float(share @ change)
    return clustered_average_change(value, share * (change - value), share, group)


def clustered_average_change(
    value: float, influence: np.ndarray, share: np.ndarray, group: np.ndarray
) -> Estimate:
    """The change, from -1 to 1, of what `clustered_average` takes; `influence` is the difference of
    the two.

    Two imaginary groups stand beside the real ones, one that changes for the better and one for the
    worse (Bonett and Price 2012): that nothing has changed in a sample is no certainty. The
    quantile is Student's t of the effective number of groups.
    """
    if not share.any():
        return NOTHING
    group_index = np.unique(group, return_inverse=True)[1]
    group_share = np.bincount(group_index, share)
    shares_squared = (group_share**2).sum()
    one = 1 / np.count_nonzero(group_share)  # an imaginary group's share of the whole
    middle = value / (1 + 2 * one)
    variance = (np.bincount(group_index, influence) ** 2).sum() + 2 * shares_squared * one * (
        1 + middle**2
    )
    half = float(_t(1 / shares_squared + 1) * np.sqrt(variance) / (1 + 2 * one))
    low, high = max(-1.0, min(middle - half, value)), min(1.0, max(middle + half, value))
    return Estimate(float(value), float(low), float(high), int(np.count_nonzero(share)))


def _bounded(
    value: np.ndarray, influence: np.ndarray, share: np.ndarray, group: np.ndarray, cell: np.ndarray
) -> Shares:
    """Wilson's interval of each cell's effective number of items.

    This is the number with which independent items would have the figure's cluster-robust variance
    (Kish 1965); fewer if few groups tell little of that variance (Korn and Graubard 1998); never
    more than the items. If the variance is 0, as when all items are right, each group counts as one
    item.
    """
    cells = len(value)
    pair, owner = _pairs(cell, group, cells)
    group_share = np.bincount(pair, share, len(owner))
    n = np.bincount(cell, share > 0, cells).astype(np.int64)
    groups = np.bincount(owner, group_share > 0, cells)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (
            np.bincount(owner, np.bincount(pair, influence, len(owner)) ** 2, cells)
            * groups
            / (groups - 1)
        )
        by_item = 1 / np.bincount(cell, share**2, cells)
        by_group = 1 / np.bincount(owner, group_share**2, cells)
        effective = value * (1 - value) * n / (n - 1) / variance * (_t(n - 1) / _t(groups - 1)) ** 2
    effective = np.where(np.isfinite(effective), np.minimum(effective, by_item), by_group)
    low, high = wilson(value, effective)
    return Shares(value, low, high, n, effective)


def _pairs(cell: np.ndarray, group: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of each item's pair of cell and group, int [N], and the cell of each pair, int
    [pairs]."""
    groups = int(group.max(initial=0)) + 1
    key = cell * groups + group
    if cells * groups <= _DENSE * len(key):  # pairs that don't occur weigh nothing
        return key, np.repeat(np.arange(cells), groups)
    present, pair = np.unique(key, return_inverse=True)
    return pair, present // groups


def _t(freedom: np.ndarray) -> np.ndarray:
    """97.5% point of Student's t with so many degrees of freedom, at least one."""
    return stdtrit(np.maximum(freedom, 1), 0.975)
