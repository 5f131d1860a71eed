"""Products unlike every category: few known ones are flagged, and a threshold that few products
can't show is none."""

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.decisions.answers import Answers
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.novelty import ALARMS, CALIBRATED, novelty

EVEN = np.full(4, 0.25)


def held(size: int, rng: np.random.Generator, gap: float = 2.0) -> HeldOutAnswers:
    """Products whose distance is normal, and larger by about a `gap` without their category."""
    answers = Answers.of(np.log(rng.dirichlet(np.ones(4), size).astype(np.float32)))
    distance = rng.normal(size=size).astype(np.float32)
    apart = distance + np.abs(rng.normal(gap, 0.5, size)).astype(np.float32)
    own = (np.arange(size), rng.integers(0, 4, size), answers, np.zeros((size, 1)))
    return HeldOutAnswers(*own, distance, apart, EVEN, EVEN)


def test_few_known_products_are_flagged() -> None:
    """Of 400 thresholds from 1000 products at most about one in twenty flags too many of the
    normal distribution's; and they flag what they can."""
    rng, too_many, shares = np.random.default_rng(0), 0, []
    for _ in range(400):
        found = novelty(held(1000, rng))
        assert found is not None and found.alarms <= CALIBRATED * found.held_out
        shares.append(norm.sf(found.threshold))
        too_many += shares[-1] > CALIBRATED
    assert too_many <= 32 and np.mean(shares) > 0.025 and max(shares) < ALARMS


def test_power_is_of_categories_left_out() -> None:
    far, near = (novelty(held(2000, np.random.default_rng(1), gap)) for gap in (6.0, 0.0))
    assert far is not None and near is not None
    assert far.power.value > 0.95 and near.power.value < 0.2


@pytest.mark.parametrize("size", [0, 73])
def test_few_products_show_nothing(size: int) -> None:
    assert novelty(held(size, np.random.default_rng(2))) is None
    assert novelty(held(74, np.random.default_rng(2))) is not None


def test_an_unknown_distance_flags_nothing() -> None:
    some = held(500, np.random.default_rng(3))
    some.distance[:] = np.nan
    assert novelty(some) is None


def test_too_many_are_said() -> None:
    found = novelty(held(2000, np.random.default_rng(4)))
    assert found is not None
    assert "nothing is promised" in found.text(120, 1000)
    assert "nothing is promised" not in found.text(50, 1000)
    assert not found.too_many(0, 0)
