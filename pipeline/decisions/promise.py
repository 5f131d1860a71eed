"""A promised precision: the lowest confidence from which on at least that share of answers is
right.

Thresholds are tested one after the other, from few accepted items to all, each against the null
hypothesis that precision is below the promise, by the exact binomial test; the first that is not
rejected ends the sequence (fixed-sequence testing: Angelopoulos et al. 2021, "Learn then Test").
The sequence depends on the number of items alone, so that the last threshold passed keeps the
promise with probability 1 - `risk`, however many are tested.
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import beta, binom

RISK = 0.05
"""Probability that a promise is not kept, at most."""
_GOOD = 5.0
"""The sequence starts where answers with so many times fewer errors than are allowed would pass
with probability _POWER."""
_POWER = 0.9
_STEP = 1.05
"""Each threshold accepts so many times the items of the one before."""


@dataclass(frozen=True)
class Promise:
    """What held-out items say of a promised `precision`.

    threshold: of confidence; None if the promise can't be kept at any. accepted: held-out items at
    least so confident, of `n`; right: how many of these are right; low: their precision is at least
    this with probability 1 - risk. needed: held-out items below which nothing can be promised.
    """

    precision: float
    threshold: float | None
    n: int
    accepted: int
    right: int
    low: float | None
    needed: int

    def to_json(self) -> dict[str, float | int | None]:
        """As summary.json and metrics.json have it."""
        return asdict(self)

    def text(self, unit: str = "products") -> str:
        """For a terminal."""
        if self.threshold is not None:
            return (
                f"{self.precision:.1%} promised: confidence >= {self.threshold:.4f}; of {self.n} "
                f"held-out {unit} it accepts {self.accepted / self.n:.1%}, of which "
                f"{self.right / self.accepted:.1%} are right (at least {self.low:.1%})"
            )
        if self.n < self.needed:
            return (
                f"{self.precision:.1%} can't be promised: that takes at least {self.needed} "
                f"held-out {unit}, found {self.n}"
            )
        return (
            f"{self.precision:.1%} can't be promised: even the surest of {self.n} held-out {unit} "
            "are not right often enough"
        )


def promise(
    confidence: np.ndarray, right: np.ndarray, precision: float, risk: float = RISK
) -> Promise:
    """The lowest threshold that keeps a promised precision (above 0, below 1) on independent items
    like these: their `confidence` float [N], and whether each is `right`, bool [N].

    >>> promise(np.linspace(0, 1, 1000), np.arange(1000) >= 500, 0.95).threshold > 0.5
    True
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    needed, passed = fewest(precision, risk), 0
    for accepted in _sequence(len(ranked), precision, risk):
        last = int(
            np.searchsorted(-ranked, -ranked[accepted - 1], side="right")
        )  # ties stay together
        if binom.sf(hits[last - 1] - 1, last, precision) > risk:
            break
        passed = last
    if not passed:
        return Promise(precision, None, len(ranked), 0, 0, None, needed)
    hit, threshold = int(hits[passed - 1]), float(ranked[passed - 1])
    low = float(beta.ppf(risk, hit, passed - hit + 1))
    return Promise(precision, threshold, len(ranked), passed, hit, low, needed)


def fewest(precision: float, risk: float = RISK) -> int:
    """Items that, all of them right, are the fewest that prove a precision."""
    return int(np.ceil(np.log(risk) / np.log(precision)))


def _sequence(n: int, precision: float, risk: float) -> Iterator[int]:
    """How many items each threshold of the sequence accepts, rising, n last."""
    accepted = min(_start(precision, risk), n)
    if accepted < fewest(precision, risk):
        return
    while accepted < n:
        yield accepted
        accepted = max(accepted + 1, int(accepted * _STEP))
    yield n


@functools.cache
def _start(precision: float, risk: float) -> int:
    """The fewest items among which good answers (_GOOD) pass the test with probability _POWER."""
    good = (1 - precision) / _GOOD
    n = fewest(precision, risk)
    while binom.cdf(_errors(n, precision, risk), n, good) < _POWER:
        n += 1
    return n


def _errors(n: int, precision: float, risk: float) -> int:
    """Errors among n items with which the test is still passed; -1 if not even with none."""
    error = int(binom.ppf(risk, n, 1 - precision))
    return error if binom.cdf(error, n, 1 - precision) <= risk else error - 1
