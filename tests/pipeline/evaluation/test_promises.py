"""What promises come to, on drawn products whose truth is known."""

import numpy as np
import pytest

from pipeline.decisions.answers import levels_of
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.evaluation.promises import PROMISES, realised
from tests.pipeline.decisions.planted import CLASSES, Population, taxonomy


def test_promises_are_counted_on_products_that_had_no_part() -> None:
    rng = np.random.default_rng(3)
    population = Population.draw(6000, rng)
    truth = population.truths(np.arange(6000), rng)
    known, new = np.arange(6000) < 3000, np.arange(6000) >= 3000
    even = np.full(CLASSES, 1 / CLASSES)
    z, far = np.zeros((3000, 1)), np.full(3000, np.nan)
    own = (np.arange(3000), truth[known], population.answers[known])
    held = HeldOutAnswers(*own, z, far, far, even, even)
    answers, truth = population.answers[new], truth[new]
    found = realised(held, answers, truth, np.ones(3000), np.arange(3000), taxonomy())
    assert tuple(row["precision"] for row in found) == PROMISES
    for row in found:
        assert row["right"]["high"] > row["precision"]
        parts = [level["accepted"]["value"] for level in row["levels"]]
        assert row["accepted"]["value"] == pytest.approx(sum(parts)) and parts[0] > 0
        leaf = row["levels"][0]
        chosen, mass = answers.at(levels_of(taxonomy())[0])
        sure = mass >= np.float32(leaf["threshold"])
        right = chosen[sure] == truth[sure]
        assert leaf["accepted"]["value"] == pytest.approx(sure.mean())
        assert leaf["right"]["value"] == pytest.approx(right.mean())
    shares = [row["accepted"]["value"] for row in found]
    assert shares == sorted(shares, reverse=True)
