"""Promised precisions hold: exact tests by hand, and a simulation with known truth."""

import numpy as np
import pytest

from pipeline.decisions.answers import levels_of
from pipeline.decisions.promise import RISK, fewest, promise
from pipeline.decisions.rules import REVIEW, decide, promised
from tests.pipeline.decisions.planted import Population, taxonomy

LEVELS = levels_of(taxonomy())


def test_all_right_is_proved_by_the_fewest() -> None:
    """0.95^59 is just below 5%."""
    assert fewest(0.95) == 59 and 0.95**59 < RISK < 0.95**58
    assert promise(np.ones(58), np.ones(58, dtype=bool), 0.95).threshold is None
    proved = promise(np.ones(59), np.ones(59, dtype=bool), 0.95)
    assert (proved.threshold, proved.accepted, proved.right) == (1.0, 59, 59)
    assert proved.low == pytest.approx(RISK ** (1 / 59)) and proved.low > 0.95


def test_the_lowest_threshold_that_holds() -> None:
    """The surest 1,000 of 2,000 are right, of the others every second one: 95% is exceeded until
    about a tenth of the accepted ones are of these."""
    confidence = np.linspace(1, 0, 2000)
    right = (np.arange(2000) < 1000) | (np.arange(2000) % 2 == 0)
    found = promise(confidence, right, 0.95)
    assert 1000 < found.accepted < 1112
    assert found.right == right[confidence >= found.threshold].sum() and found.low >= 0.95
    assert promise(confidence, right, 0.8).accepted > found.accepted


def test_what_cannot_be_promised_says_why() -> None:
    none = promise(np.zeros(0), np.zeros(0, dtype=bool), 0.98)
    assert none.threshold is None and "takes at least 149 held-out products, found 0" in none.text()
    wrong = promise(np.ones(500), np.arange(500) % 2 == 0, 0.9)
    assert wrong.threshold is None and "are not right often enough" in wrong.text()


def test_equal_confidences_are_accepted_together() -> None:
    found = promise(np.full(300, 0.5), np.arange(300) > 0, 0.95)
    assert (found.threshold, found.accepted) == (0.5, 300)


def _kept(size: int, precision: float, repeats: int, seed: int) -> tuple[int, float]:
    """In how many repeats the precision of all accepted products, known exactly, is what was
    promised on `size` held-out products; and their mean share."""
    rng = np.random.default_rng(seed)
    population = Population.draw(4000, rng)
    kept, shares = 0, []
    for _ in range(repeats):
        rows = rng.integers(0, len(population.answers), size)
        truth = population.truths(rows, rng)
        rules, _ = promised(population.answers[rows], truth, LEVELS, precision)
        decided = decide(population.answers, rules)
        accepted = decided.level != REVIEW
        right = population.chance_right(decided.level, decided.class_index)[accepted]
        kept += not len(right) or right.mean() >= precision
        shares.append(accepted.mean())
    return kept, float(np.mean(shares))


def test_a_promise_holds_and_accepts() -> None:
    kept, share = _kept(1000, 0.9, repeats=100, seed=1)
    assert kept >= 95 and share > 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "precision"), [(300, 0.9), (1000, 0.9), (1000, 0.95), (5000, 0.95), (5000, 0.98)]
)
def test_a_promise_holds_in_95_of_100(size: int, precision: float) -> None:
    kept, _ = _kept(size, precision, repeats=500, seed=size)
    assert kept >= 475
