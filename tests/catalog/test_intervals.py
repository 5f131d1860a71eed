"""Intervals of shares."""

import numpy as np
import pytest

from catalog.intervals import clustered_change, clustered_share, wilson


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


def test_single_items_of_one_weight_have_wilsons_interval() -> None:
    right = np.arange(40) < 31
    for weight in (np.ones(40), np.full(40, 0.2)):
        found = clustered_share(right, weight, np.arange(40))
        assert found == pytest.approx((31 / 40, *wilson(31 / 40, 40)))


@pytest.mark.parametrize("value", [0, 1])
def test_few_items_do_not_prove_certainty(value: int) -> None:
    share, low, high = clustered_share(np.full(3, value, bool), np.ones(3), np.arange(3))
    assert share == value and (low, high) == pytest.approx(wilson(float(value), 3)) and high - low > 0.5
    assert clustered_share(np.full(9, value, bool), np.ones(9), np.repeat([7, 8, 9], 3)) == pytest.approx((share, low, high))


def test_items_of_a_group_count_as_one_where_they_agree() -> None:
    right = np.arange(40) < 31
    five = clustered_share(np.repeat(right, 5), np.ones(200), np.repeat(np.arange(40), 5))
    assert five == pytest.approx(clustered_share(right, np.ones(40), np.arange(40)))


def test_weights_that_one_item_dominates() -> None:
    """A hundred items, of which one weighs as much as the rest: what it is worth stays open."""
    right, weight = np.arange(100) > 0, np.r_[99.0, np.ones(99)]
    share, low, high = clustered_share(right, weight, np.arange(100))
    assert share == pytest.approx(0.5) and high - low > 0.7
    light = clustered_share(np.arange(100) > 0, np.r_[1e-6, np.ones(99)], np.arange(100))
    assert light[1] == pytest.approx(wilson(light[0], 99)[0], abs=1e-3)  # a wrong item of no weight adds no certainty
    assert clustered_share(right, weight * (np.arange(100) > 0), np.arange(100))[0] == 1  # weight 0 does not count


def test_nothing_is_known_of_nothing() -> None:
    nothing = np.zeros(0)
    assert np.isnan(clustered_share(nothing, nothing, nothing)[0]) and clustered_share(nothing, nothing, nothing)[1:] == (0, 1)
    assert np.isnan(clustered_change(nothing, nothing, nothing)[0]) and clustered_change(nothing, nothing, nothing)[1:] == (-1, 1)
    assert clustered_change(np.ones(3), np.zeros(3), np.arange(3))[1:] == (-1, 1)


def test_a_change_by_hand() -> None:
    """20 items, 5 fixed, 2 broken: Agresti and Min add a half to each of the four cells."""
    change = np.r_[np.ones(5), -np.ones(2), np.zeros(13)]
    middle = 3 / 22
    half = 1.959964 * np.sqrt((5.5 + 2.5) - 22 * middle**2) / 22
    for weight in (np.ones(20), np.full(20, 3.0)):
        found = clustered_change(change, weight, np.arange(20))
        assert found == pytest.approx((3 / 20, middle - half, middle + half))
    doubled = clustered_change(np.repeat(change, 2), np.ones(40), np.repeat(np.arange(20), 2))
    assert doubled == pytest.approx(found)


def test_no_change_among_few_says_little() -> None:
    mean, low, high = clustered_change(np.zeros(3), np.ones(3), np.arange(3))
    assert mean == 0 and low == pytest.approx(-high) and high > 0.3
    assert clustered_change(np.zeros(3000), np.ones(3000), np.arange(3000))[2] < 0.001
    assert clustered_change(np.ones(1), np.ones(1), np.zeros(1)) == pytest.approx((1, -0.51, 1), abs=0.01)


@pytest.mark.parametrize("groups", [30, 300])
def test_intervals_hold_what_they_promise(groups: int) -> None:
    """Groups of one to four dependent items, weighted: 95% of the intervals hold the truth, within chance."""
    rng = np.random.default_rng(0)
    held = {"share": 0, "change": 0}
    for _ in range(600):
        size = rng.integers(1, 5, groups)
        group = np.repeat(np.arange(groups), size)
        level = rng.beta(4, 1, groups)[group]  # of the mean 0.8
        right = rng.random(len(group)) < level
        kind = rng.random(groups)[group]
        change = np.where(kind < 0.1, 1, np.where(kind < 0.15, -1, 0)) * (rng.random(len(group)) < 0.8)
        weight = rng.choice([1.0, 2.0], groups)[group]
        _, low, high = clustered_share(right, weight, group)
        held["share"] += low <= 0.8 <= high
        _, low, high = clustered_change(change, weight, group)
        held["change"] += low <= 0.04 <= high
    for name, count in held.items():
        assert 0.92 <= count / 600 <= 0.99, (name, count / 600)
