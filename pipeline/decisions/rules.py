"""Which answers stand, and on which level: the category itself if it is sure enough, else the
deepest family that is, else a person decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.decisions.answers import Answers, Level
from pipeline.decisions.promise import RISK, Promise, promise

REVIEW = 0
"""In place of a level: a person decides."""


@dataclass(frozen=True)
class Rule:
    """On a level, the least confidence with which an answer stands; None if none does."""

    level: Level
    threshold: float | None


@dataclass(frozen=True)
class Decided:
    """N products: `level` int8 [N] of the answer that stands (REVIEW if none does), a category of
    the family that is answered, `class_index` int32 [N] (the likeliest category if none stands),
    and `confidence` float32 [N] of that answer."""

    level: np.ndarray
    class_index: np.ndarray
    confidence: np.ndarray

    def right(self, truth: np.ndarray, levels: Sequence[Level]) -> np.ndarray:
        """Whether the true category, int [N], lies in the answered family, bool [N]; for review the
        likeliest category counts."""
        right = self.class_index == truth
        for level in levels:
            rows = self.level == level.number
            right[rows] = level.group[self.class_index[rows]] == level.group[truth[rows]]
        return right


def decide(answers: Answers, rules: Sequence[Rule]) -> Decided:
    """Asks one rule after the other; the first whose threshold an answer reaches accepts it."""
    level = np.full(len(answers), REVIEW, dtype=np.int8)
    class_index = answers.top_class[:, 0].copy()
    confidence = np.exp(answers.log_prob[:, 0])
    for rule in rules:
        if rule.threshold is None:
            continue
        chosen, mass = answers.at(rule.level)
        sure = (level == REVIEW) & (mass >= np.float32(rule.threshold))
        level[sure] = rule.level.number
        class_index[sure], confidence[sure] = chosen[sure], mass[sure]
    return Decided(level, class_index, confidence)


def promised(
    answers: Answers, truth: np.ndarray, levels: Sequence[Level], precision: float
) -> tuple[list[Rule], list[Promise]]:
    """Rules that keep a promised precision on each level, and what held-out products, whose true
    categories are int [N], say of it.

    A level is judged on the products that those below leave over, at its part of the risk that the
    promise is not kept.
    """
    left = np.ones(len(answers), dtype=bool)
    rules, promises = [], []
    for level in levels:
        chosen, mass = answers.at(level)
        right = level.group[chosen] == level.group[truth]
        kept = promise(mass[left], right[left], precision, RISK / len(levels))
        rules.append(Rule(level, kept.threshold))
        promises.append(kept)
        if kept.threshold is not None:
            left &= mass < np.float32(kept.threshold)
    return rules, promises
