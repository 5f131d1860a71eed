"""How a class mix differs from another one, found in products whose categories nobody knows ("label
shift"): the maximum of the likelihood of the mix (Saerens, Latinne, Decaestecker 2002), penalised.

The logarithm of what a category's share changes by has three parts: a multiple of the logarithm of
the share before (a mix that is flatter or steeper as a whole), one of its family on level 2, and
one of its own. All are taken to be normal around 0, the multiple with standard deviation 1, the
latter two with the one that predicts other products best. So a category
with many products says its own share, a rare one follows its family, and where nothing shifted
nothing moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve
from scipy.sparse import csr_array

from catalog.progress import progress
from pipeline.decisions.answers import Answers

SPREADS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations of log-ratios that are tried, from the least on until one is worse."""
_STEPS, _CLOSE = 100, 1e-4
_NEWTON, _DAMPED = 5, 0.7
_LEAST = 1e-9


@dataclass(frozen=True)
class Shift:
    """The parts of log-ratios: `power` times the centred log-share before, `family` float [F] and
    `category` float [K]; and the standard deviation `spread` of the latter two."""

    power: float
    family: np.ndarray
    category: np.ndarray
    spread: float


@dataclass(frozen=True)
class Unlabelled:
    """N products: their likeliest categories int [N, T], the probabilities of these float [N, T]
    and of all others together float [N], under the class mix `before` float [K]; and the family of
    each category, int [K] from 0."""

    top_class: np.ndarray
    share: np.ndarray
    beyond: np.ndarray
    before: np.ndarray
    family: np.ndarray

    @classmethod
    def of(cls, answers: Answers, before: np.ndarray, family: np.ndarray) -> "Unlabelled":
        """From answers under the mix `before`; `family` int [K] may be any numbers."""
        share = np.exp(answers.log_prob.astype(np.float64))
        beyond = np.maximum(1 - share.sum(axis=1), 0)
        return cls(
            answers.top_class, share, beyond, before, np.unique(family, return_inverse=True)[1]
        )

    def __len__(self) -> int:
        return len(self.share)

    def mix(self, shift: Shift) -> np.ndarray:
        """The class mix [K] that a shift makes of the one before."""
        log_ratio = shift.power * self._level + shift.family[self.family] + shift.category
        shifted = self.before * np.exp(log_ratio - log_ratio.max())
        return shifted / shifted.sum()

    def fit(self, spread: float, start: Shift | None = None) -> Shift:
        """The likeliest shift of a given spread: expectation-maximisation, with damped Newton steps
        on each part in turn."""
        shift = replace(start or self._none(), spread=spread)
        for _ in range(_STEPS):
            count, last = self.counts(self.mix(shift)), self.mix(shift)
            for _ in range(_NEWTON):
                shift = self._closer(shift, count)
            if np.abs(self.mix(shift) / last - 1).max() < _CLOSE:
                break
        return shift

    def counts(self, mix: np.ndarray) -> np.ndarray:
        """Expected products of each category under a mix, float [K]: what a product's likeliest
        categories leave is of all others, as before."""
        odds, total = self._odds(mix)
        seen = np.bincount(
            self.top_class.ravel(), (odds / total[:, None]).ravel(), len(self.before)
        )
        return seen + (self.beyond / total).sum() * self.before

    def log_likelihood(self, mix: np.ndarray) -> float:
        """Of the products under a mix, against the mix before."""
        return float(np.log(self._odds(mix)[1]).sum())

    def errors(self, shift: Shift, doubt: np.ndarray) -> np.ndarray:
        """Standard errors float [K] of the logarithms of a fitted mix, where the log-odds of each
        category are themselves known up to a variance `doubt` [K] (Laplace's approximation; `doubt`
        has the effect that the fit's derivative says)."""
        mix = self.mix(shift)
        odds, total = self._odds(mix)
        share, count = odds / total[:, None], self.counts(mix)
        rows = np.arange(0, share.size + 1, share.shape[1])
        sparse = csr_array((share.ravel(), self.top_class.ravel(), rows))
        sparse.resize(len(self), len(mix))
        together = (sparse.T @ sparse).toarray()
        same_family = self.family[:, None] == self.family
        prior = shift.spread**2 * (np.eye(len(mix)) + same_family)
        prior += np.outer(self._level, self._level)
        known = together - np.outer(count, count) / len(self)
        posterior = solve(np.eye(len(mix)) + prior @ known, prior)
        effect = posterior @ (np.diag(count) - together)
        posterior -= mix @ posterior
        variance = np.diag(posterior) - posterior @ mix
        return np.sqrt(np.maximum(variance + (effect - mix @ effect) ** 2 @ doubt, 0))

    @property
    def _level(self) -> np.ndarray:
        """Centred log-shares before, float [K]."""
        level = np.log(self.before)
        return level - level.mean()

    def _none(self) -> Shift:
        families = self.family.max(initial=0) + 1
        return Shift(0.0, np.zeros(families), np.zeros(len(self.before)), 0.0)

    def _odds(self, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each product's likeliest categories under a mix, float [N, T], and of all together."""
        odds = self.share * (mix / self.before)[self.top_class]
        return odds, np.maximum(odds.sum(axis=1) + self.beyond, _LEAST)

    def _closer(self, shift: Shift, count: np.ndarray) -> Shift:
        """One step on each part towards what expected products [K] make likeliest."""
        total, belief, level = count.sum(), 1 / shift.spread**2, self._level
        mass = total * self.mix(shift)
        step = (count - mass - belief * shift.category) / (mass + belief)
        shift = replace(shift, category=shift.category + _DAMPED * step)
        mass = total * self.mix(shift)
        gap = np.bincount(self.family, count - mass) - belief * shift.family
        step = gap / (np.bincount(self.family, mass) + belief)
        shift = replace(shift, family=shift.family + _DAMPED * step)
        mass = total * self.mix(shift)
        curvature = mass @ (level - mass @ level / total) ** 2
        step = ((count - mass) @ level - shift.power) / (curvature + 1)
        return replace(shift, power=shift.power + _DAMPED * float(step))


def best_spread(pairs: Sequence[tuple[Unlabelled, Unlabelled]]) -> float:
    """The spread under which what is fitted to each first is likeliest for each second."""
    shifts: list[Shift | None] = [None] * len(pairs)
    best, chosen = -np.inf, SPREADS[0]
    with progress(len(SPREADS) * len(pairs), "class mix", "fit") as bar:
        for spread in SPREADS:
            likelihood = 0.0
            for number, (one, other) in enumerate(pairs):
                shifts[number] = shift = one.fit(spread, shifts[number])
                likelihood += other.log_likelihood(other.mix(shift))
                bar.update(1)
            if likelihood <= best:
                break
            best, chosen = likelihood, spread
    return chosen
