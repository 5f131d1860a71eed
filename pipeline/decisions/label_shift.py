"""How a class mix differs from another one, found in products whose categories nobody knows ("label
shift"): the likeliest mix (Saerens, Latinne, Decaestecker 2002) under a normal prior of what it
differs by, that is the maximum a posteriori.

The logarithm of the ratio of a category's share to the one before has three parts: a multiple of
the logarithm of the share before (-1 makes the mix flat), one of its family on level 2, and one of
its own. The multiple has a standard deviation of 1. That of the other two is the one that predicts
other products best; if none surely does, there is no shift. So a category with many products is
estimated from these, and a rare one moves with its family, and with how much flatter or steeper the
whole mix is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve
from scipy.sparse import csr_array

from catalog.progress import progress
from pipeline.decisions.answers import Answers

PRIOR_SDS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations of a family's and a category's part that are tried; 0: the multiple alone."""
EVIDENCE = 3.0
"""How much likelier a shift has to make products than none, in nats (odds of twenty to one): among
a few products chance alone looks like one."""
_STEPS, _CLOSE = 100, 1e-4
_NEWTON, _DAMPED = 5, 0.7
_LEAST = 1e-9


@dataclass(frozen=True)
class Shift:
    """The parts of log-ratios: `power` times the centred log-share before, `family` float [F] and
    `category` float [K]; and the prior standard deviation of the latter two."""

    power: float
    family: np.ndarray
    category: np.ndarray
    prior_sd: float


@dataclass(frozen=True)
class Unlabelled:
    """N products: their likeliest categories int [N, T], the probabilities of these float [N, T]
    and of all others together float [N], under the class mix `before` float [K]; and the family of
    each category, int [K] from 0."""

    top_class: np.ndarray
    prob: np.ndarray
    beyond: np.ndarray
    before: np.ndarray
    family: np.ndarray

    @classmethod
    def of(cls, answers: Answers, before: np.ndarray, family: np.ndarray) -> "Unlabelled":
        """From answers under the mix `before`; `family` int [K] may be any numbers."""
        prob = np.exp(answers.log_prob.astype(np.float64))
        beyond = np.maximum(1 - prob.sum(axis=1), 0)
        family = np.unique(family, return_inverse=True)[1]
        return cls(answers.top_class, prob, beyond, before, family)

    def __len__(self) -> int:
        return len(self.prob)

    @property
    def unshifted(self) -> Shift:
        """The shift that leaves the mix as it was."""
        families = self.family.max(initial=0) + 1
        return Shift(0.0, np.zeros(families), np.zeros(len(self.before)), 0.0)

    def mix(self, shift: Shift) -> np.ndarray:
        """The class mix [K] that a shift makes of the one before."""
        log_ratio = shift.power * self._level + shift.family[self.family] + shift.category
        shifted = self.before * np.exp(log_ratio - log_ratio.max())
        return shifted / shifted.sum()

    def fit(self, prior_sd: float, start: Shift | None = None) -> Shift:
        """The likeliest shift under a prior: expectation-maximisation, with damped Newton steps on
        each part in turn."""
        shift = replace(start or self.unshifted, prior_sd=prior_sd)
        mix = self.mix(shift)
        for _ in range(_STEPS):
            count, last = self.counts(mix), mix
            for _ in range(_NEWTON):
                shift = self._newton_step(shift, count)
            mix = self.mix(shift)
            if np.abs(mix - last).sum() < _CLOSE:
                break
        return shift

    def counts(self, mix: np.ndarray) -> np.ndarray:
        """Expected products of each category under a mix, float [K]. What a product's likeliest
        categories leave is of none: nothing is known of it."""
        responsibility = self._responsibility(mix)
        return np.bincount(self.top_class.ravel(), responsibility.ravel(), len(mix))

    def log_likelihood(self, mix: np.ndarray) -> float:
        """Of all products under a mix, less that under the mix before, in nats."""
        return float(np.log(self._density_ratio(mix)[1]).sum())

    def errors(self, shift: Shift, bias_variance: np.ndarray) -> np.ndarray:
        """Standard errors float [K] of the logarithms of a fitted mix: of its posterior by a normal
        approximation with the information that the products' scores have, and of what log-odds of
        variance `bias_variance` [K] do to the fit."""
        mix = self.mix(shift)
        information, slope = self._information(mix)
        prior = shift.prior_sd**2 * (self.family[:, None] == self.family)
        prior[np.diag_indices_from(prior)] += shift.prior_sd**2
        prior += np.outer(self._level, self._level)
        posterior = prior @ information
        posterior[np.diag_indices_from(posterior)] += 1
        posterior = solve(posterior, prior)
        effect = posterior @ slope
        posterior -= mix @ posterior
        variance = np.diag(posterior) - posterior @ mix
        return np.sqrt(np.maximum(variance + (effect - mix @ effect) ** 2 @ bias_variance, 0))

    def _information(self, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sum over products of the outer products of their scores in log-ratios, [K, K]; and
        the derivative of expected counts in log-odds, [K, K]."""
        responsibility = self._responsibility(mix)
        rows = np.arange(0, responsibility.size + 1, responsibility.shape[1])
        sparse = csr_array(
            (responsibility.ravel(), self.top_class.ravel(), rows), shape=(len(self), len(mix))
        )
        known = responsibility.sum(axis=1)
        both, seen = (sparse.T @ sparse).toarray(), sparse.T @ known
        crossed = np.outer(seen, mix)
        information = both - crossed - crossed.T + (known @ known) * np.outer(mix, mix)
        slope = -both
        slope[np.diag_indices_from(slope)] += self.counts(mix)
        return information, slope

    @property
    def _level(self) -> np.ndarray:
        """Log-shares before less their plain mean, float [K]."""
        level = np.log(self.before)
        return level - level.mean()

    def _density_ratio(self, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much likelier each product is under a mix than under the one before: what each of its
        likeliest categories brings, float [N, T], and in all, float [N]."""
        parts = self.prob * (mix / self.before)[self.top_class]
        return parts, np.maximum(parts.sum(axis=1) + self.beyond, _LEAST)

    def _responsibility(self, mix: np.ndarray) -> np.ndarray:
        """Probabilities of each product's likeliest categories under a mix, float [N, T]."""
        parts, whole = self._density_ratio(mix)
        return parts / whole[:, None]

    def _newton_step(self, shift: Shift, count: np.ndarray) -> Shift:
        """One step on each part towards what expected products [K] make likeliest."""
        total, level = count.sum(), self._level
        mass = total * self.mix(shift)
        curvature = mass @ (level - mass @ level / max(total, _LEAST)) ** 2
        step = ((count - mass) @ level - shift.power) / (curvature + 1)
        shift = replace(shift, power=shift.power + float(_damped(step)))
        if not shift.prior_sd:
            return shift
        precision = shift.prior_sd**-2
        mass = total * self.mix(shift)
        gap = np.bincount(self.family, count - mass) - precision * shift.family
        step = gap / (np.bincount(self.family, mass) + precision)
        shift = replace(shift, family=shift.family + _damped(step))
        mass = total * self.mix(shift)
        step = (count - mass - precision * shift.category) / (mass + precision)
        return replace(shift, category=shift.category + _damped(step))


def _damped(step: np.ndarray | float) -> np.ndarray:
    """A Newton step that can't run away where a share was next to nothing."""
    return _DAMPED * np.clip(step, -1, 1)


def best_prior(pairs: Sequence[tuple[Unlabelled, Unlabelled]]) -> float | None:
    """The prior standard deviation under which what is fitted to each first of a pair is likeliest
    for each second; None if none is surely likelier than no shift. Each product is in one second of
    every two."""
    shifts = [one.unshifted for one, _ in pairs]
    most, best = EVIDENCE * len(pairs) / 2, None
    with progress(len(PRIOR_SDS) * len(pairs), "class mix", "fit") as bar:
        for prior_sd in PRIOR_SDS:
            likelihood = 0.0
            for number, (one, other) in enumerate(pairs):
                shifts[number] = one.fit(prior_sd, shifts[number])
                likelihood += other.log_likelihood(other.mix(shifts[number]))
                bar.update(1)
            if likelihood > most:
                most, best = likelihood, prior_sd
    return best
