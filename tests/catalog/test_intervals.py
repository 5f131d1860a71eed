"""Intervals of shares."""

import numpy as np
import pytest

from catalog.intervals import wilson


def test_wilson() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # R: prop.test(50, 100, correct = FALSE)
    assert wilson(0.0, 0) == (0, 1)


def test_wilson_of_many() -> None:
    n = np.array([10, 3, 0])
    low, high = wilson(np.array([0.8, 0.0, np.nan]), n)
    assert low[:2] == pytest.approx([0.4902, 0.0], abs=1e-4)
    assert high[:2] == pytest.approx([0.9433, 0.5615], abs=1e-4)
    assert np.isnan(low[2]) and np.isnan(high[2])


@pytest.mark.parametrize("n", [*range(1, 50), 4.2, 1e7])
def test_the_extremes_lie_within_their_intervals(n: float) -> None:
    assert wilson(0.0, n)[0] == 0 and wilson(1.0, n)[1] == 1
