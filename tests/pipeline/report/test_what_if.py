"""Thresholds of a wanted precision are those that `score --promise` takes."""

import numpy as np

from pipeline.decisions.answers import levels_of
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.rules import promised
from pipeline.report.what_if import PRECISIONS, what_if
from tests.pipeline.decisions.planted import CLASSES, Population, taxonomy


def test_the_rules_are_those_of_score():
    rng, n = np.random.default_rng(0), 3000
    population = Population.draw(n, rng)
    truth = population.truths(np.arange(n), rng).astype(np.int32)
    even = np.full(CLASSES, 1 / CLASSES)
    z, far = np.zeros((n, 1)), np.full(n, np.nan)
    held = HeldOutAnswers(np.arange(n), truth, population.answers, z, far, far, even, even)
    found = what_if(held, taxonomy())
    levels = levels_of(taxonomy())
    assert found["n"] == n and found["levels"] == [3, 2, 1]
    assert len(found["promises"]) == 3 * len(PRECISIONS)
    for row in found["promises"]:
        if row["depth"] == 3:
            _, kept = promised(held.answers, truth, levels, row["precision"])
            expected = [{"level": 3 - k} | x.to_json() for k, x in enumerate(kept)]
            assert row["levels"] == expected
    surest = [curve[0]["accuracy"] for curve in found["curves"]]
    assert surest == sorted(surest)  # families are easier than categories
