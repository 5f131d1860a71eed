"""Answers that decisions are made on: the likeliest categories of each product, under one class
mix, and their mass on each level of the hierarchy. Nothing is put on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from catalog.taxonomy import Taxonomy
from stage2_xgb.items import likeliest

_LEAST = 1e-12
"""Probability of all that is not among the likeliest, at least: its logarithm must exist."""
_BLOCK = 4096
"""Products at once where each pair of their categories is compared."""


@dataclass(frozen=True)
class Level:
    """A level of the hierarchy: 3 for the categories themselves, 2 and 1 for the families above.
    `group` int [K]: the family of each category."""

    number: int
    group: np.ndarray


def levels_of(taxonomy: Taxonomy) -> tuple[Level, ...]:
    """The levels that an answer can have, from the categories up. A level is left out if all
    categories share it, or if it has as many families as the level below."""
    levels = [Level(3, np.arange(len(taxonomy), dtype=np.int32))]
    for number in (2, 1):
        group = taxonomy.families[:, number - 1]
        if 1 < len(np.unique(group)) < len(np.unique(levels[-1].group)):
            levels.append(Level(number, group))
    return tuple(levels)


def beside(level: Level, further: int) -> Level:
    """The level with so many further categories, each a family of its own."""
    group = np.arange(further, dtype=level.group.dtype) + level.group.max() + 1
    return Level(level.number, np.concatenate([level.group, group]))


@dataclass(frozen=True)
class Answers:
    """N products: the T likeliest categories `top_class` int32 [N, T], the likeliest first, and
    their log-probabilities `log_prob` float32 [N, T]."""

    top_class: np.ndarray
    log_prob: np.ndarray

    @classmethod
    def of(cls, log_probs: np.ndarray) -> "Answers":
        """From log-probabilities float32 [N, K] of all categories."""
        return cls(*likeliest(log_probs))

    @classmethod
    def concatenate(cls, blocks: Sequence["Answers"]) -> "Answers":
        """Answers one after another."""
        columns = ("top_class", "log_prob")
        return cls(
            *(np.concatenate([getattr(block, name) for block in blocks]) for name in columns)
        )

    def __len__(self) -> int:
        return len(self.top_class)

    def __getitem__(self, rows: np.ndarray) -> "Answers":
        return Answers(self.top_class[rows], self.log_prob[rows])

    def under(self, source: np.ndarray, target: np.ndarray) -> "Answers":
        """The same answers if categories come in the mix `target` [K] instead of `source` [K]:
        probabilities times the ratio of the mixes, normalised (Saerens et al. 2002). All categories
        beyond the likeliest T have one ratio in common, that of what they sum to."""
        log_ratio = np.log(target / source)
        beyond = _beyond(target, self.top_class) / _beyond(source, self.top_class)
        log_beyond = np.log(np.maximum(1 - np.exp(self.log_prob).sum(axis=1), _LEAST)) + np.log(
            beyond
        )
        scores = np.column_stack([self.log_prob + log_ratio[self.top_class], log_beyond])
        scores = (scores - logsumexp(scores, axis=1, keepdims=True))[:, :-1].astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        return Answers(*(np.take_along_axis(x, order, axis=1) for x in (self.top_class, scores)))

    def with_added(self, log_odds: np.ndarray, known: int) -> "Answers":
        """The same answers beside A further categories, which stand after the `known` ones and have
        log-odds float [N, A] against all of these together."""
        if not log_odds.shape[1]:
            return self
        further = np.tile(
            np.arange(known, known + log_odds.shape[1], dtype=np.int32), (len(self), 1)
        )
        scale = np.logaddexp(0, logsumexp(log_odds, axis=1, keepdims=True))
        scores = (np.column_stack([self.log_prob, log_odds]) - scale).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        columns = (np.column_stack([self.top_class, further]), scores)
        return Answers(*(np.take_along_axis(x, order, axis=1) for x in columns))

    def mass(self, allowed: np.ndarray) -> np.ndarray:
        """Probability float [N] of the categories in the mask `allowed` bool [N, T] together."""
        return np.where(allowed, np.exp(self.log_prob), 0).sum(axis=1)

    def restricted(self, allowed: np.ndarray) -> "Answers":
        """The same answers if no other categories than those in the mask `allowed` bool [N, T] are
        possible; each product needs one."""
        scores = np.where(allowed, self.log_prob, -np.inf)
        scores = (scores - logsumexp(scores, axis=1, keepdims=True)).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        return Answers(*(np.take_along_axis(x, order, axis=1) for x in (self.top_class, scores)))

    def at(self, level: Level) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest family on a level: a category of it (its likeliest), int32 [N], and the
        family's probability, float32 [N], summed over its categories."""
        chosen = np.zeros(len(self), dtype=np.int32)
        mass = np.zeros(len(self), dtype=np.float32)
        for start in range(0, len(self), _BLOCK):
            rows = slice(start, start + _BLOCK)
            group, share = level.group[self.top_class[rows]], np.exp(self.log_prob[rows])
            same = group[:, :, None] == group[:, None, :]
            sums = np.einsum("njk,nk->nj", same, share)
            column = sums.argmax(axis=1)[:, None]
            chosen[rows] = np.take_along_axis(self.top_class[rows], column, axis=1)[:, 0]
            mass[rows] = np.take_along_axis(sums, column, axis=1)[:, 0]
        return chosen, mass


def _beyond(mix: np.ndarray, top_class: np.ndarray) -> np.ndarray:
    """Share of a mix [K] that each product's likeliest categories [N, T] leave, float [N]."""
    return np.maximum(1 - mix[top_class].sum(axis=1), _LEAST)
