"""Intervals of shares and paired changes: against published values, at the extremes, and their
coverage of a planted truth."""

import numpy as np
import pytest

from catalog.intervals import (
    NOTHING,
    clustered_average,
    clustered_average_change,
    clustered_change,
    clustered_share,
    clustered_shares,
    effective_groups,
    wilson,
)


def test_wilson() -> None:
    assert wilson(0.5, 100) == pytest.approx(
        (0.4038, 0.5962), abs=1e-4
    )  # R: prop.test(50, 100, correct = FALSE)
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


@pytest.mark.parametrize(("right", "n"), [(0, 3), (3, 3), (1, 1), (30, 38), (17, 40)])
def test_independent_items_have_wilsons_interval(right: int, n: int) -> None:
    found = clustered_share(np.arange(n) < right, np.full(n, 2.5), np.arange(n))
    assert found == pytest.approx((right / n, *wilson(right / n, n), n)) and found.low < found.high


def test_images_of_a_product_count_once_if_they_agree() -> None:
    """Four times each item: as many items, no more knowledge."""
    right = np.arange(40) < 17
    alone = clustered_share(right, np.ones(40), np.arange(40))
    again = clustered_share(np.repeat(right, 4), np.ones(160), np.repeat(np.arange(40), 4))
    assert again.value == alone.value and again.n == 160
    assert again.high - again.low >= alone.high - alone.low
    assert again.high - again.low == pytest.approx(
        alone.high - alone.low, rel=0.05
    )  # a variance of 40 groups is less sure


def test_images_that_happen_to_differ_in_each_product_are_no_certainty() -> None:
    """Of each product one image right and one wrong: the variance over products is 0."""
    found = clustered_share(np.tile([True, False], 5), np.ones(10), np.repeat(np.arange(5), 2))
    assert found == pytest.approx((0.5, *wilson(0.5, 5), 10))


def test_the_effective_number_by_hand() -> None:
    """Of 3 products with two equal images each, one product is wrong: variance 1/9 of the three
    shares, over 3 - 1 degrees of freedom; the quantiles are those of Student's t with 5 and 2."""
    right, group = np.repeat([True, True, False], 2), np.repeat(np.arange(3), 2)
    variance = (2 / 3) * (1 / 3) / 3 * (3 / 2)
    effective = (2 / 3) * (1 / 3) * 6 / 5 / variance * (2.570582 / 4.302653) ** 2
    found = clustered_share(right, np.ones(6), group)
    assert found == pytest.approx((2 / 3, *wilson(2 / 3, effective), 6), rel=1e-6)


def test_two_groups_have_one_degree_of_freedom() -> None:
    """Their quantile is 12.706, and the effective number is far below two."""
    right, group = np.array([True, True, True, False, False, True]), np.repeat([0, 1], 3)
    influence = np.array([right[:3].sum() - 2, right[3:].sum() - 2]) / 6
    variance = (influence**2).sum() * 2 / 1
    effective = (2 / 3) * (1 / 3) * 6 / 5 / variance * (2.570582 / 12.706205) ** 2
    found = clustered_share(right, np.ones(6), group)
    assert found == pytest.approx((2 / 3, *wilson(2 / 3, effective), 6), rel=1e-6)


def test_more_certain_than_independent_items_is_not_believed() -> None:
    """Of 8 products one image is right and one wrong, so that products hardly differ."""
    right = np.array([True, False] * 8 + [True, True, False, False])
    found = clustered_share(right, np.ones(20), np.repeat(np.arange(10), 2))
    assert found == pytest.approx((0.5, *wilson(0.5, 20), 20))


def test_an_average_whose_influence_is_a_shares_is_that_share() -> None:
    rng = np.random.default_rng(1)
    right, group, weight = rng.random(60) < 0.7, rng.integers(0, 20, 60), rng.uniform(0.5, 2, 60)
    share, part = clustered_share(right, weight, group), weight / weight.sum()
    found = clustered_average(share.value, part * (right - share.value), part, group)
    assert found == pytest.approx(share)


def test_a_change_stays_between_minus_one_and_one() -> None:
    for sign in (-1, 1):
        found = clustered_change(np.full(2, sign, dtype=np.float64), np.ones(2), np.arange(2))
        assert found.value == sign and (found.low if sign < 0 else found.high) == sign
        assert -1 <= found.low < found.high <= 1


def test_nothing_is_none() -> None:
    none, nobody = np.zeros(0), np.zeros(0, dtype=np.int64)
    assert clustered_share(none, none, nobody) == clustered_change(none, none, nobody) == NOTHING
    assert clustered_average(0.0, np.ones(2), np.zeros(2), np.arange(2)) == NOTHING
    assert clustered_average_change(0.0, np.ones(2), np.zeros(2), np.arange(2)) == NOTHING
    cells = clustered_shares(np.ones(2, dtype=bool), np.ones(2), np.arange(2), np.array([0, 2]), 4)
    assert cells[1] == cells[3] == NOTHING and cells[2].value == 1 and cells[2].low > 0


def test_cells_are_as_each_alone() -> None:
    """Whether pairs of cell and group are counted or sorted: many cells are sorted."""
    rng = np.random.default_rng(0)
    right, weight, group = (
        rng.random(300) < 0.6,
        rng.uniform(0.2, 3, 300),
        rng.integers(0, 120, 300),
    )
    for count in (2, 200):
        cell = rng.integers(0, count, 300)
        together = clustered_shares(right, weight, group, cell, count)
        for number in range(count):
            rows = cell == number
            assert together[number] == pytest.approx(
                clustered_share(right[rows], weight[rows], group[rows]), nan_ok=True
            )


def test_an_item_of_weight_0_is_not_counted() -> None:
    right, weight, group = (
        np.array([True, False, True, True]),
        np.array([1.0, 2.0, 0.5, 0.0]),
        np.array([0, 1, 2, 3]),
    )
    assert clustered_share(right, weight, group) == pytest.approx(
        clustered_share(right[:3], weight[:3], group[:3])
    )


def test_no_change_in_a_few_products_is_no_certainty() -> None:
    """Bonett and Price (2012): (d +- z sqrt(p12 + p21 - d^2) / (n + 2)) with one more of each
    kind."""
    found = clustered_change(np.zeros(8), np.ones(8), np.arange(8))
    assert found.value == 0 and found.n == 8
    assert (
        found.high == -found.low == pytest.approx(2.262 * np.sqrt(2 / 10 / 10), rel=1e-3)
    )  # t of 9 degrees of freedom
    some = clustered_change(np.array([1.0, 0, 0, -1, 1, 0, 0, 0]), np.ones(8), np.arange(8))
    better, worse = (2 + 1) / 10, (1 + 1) / 10
    half = 2.262 * np.sqrt((better + worse - (better - worse) ** 2) / 10)
    assert some == pytest.approx((1 / 8, better - worse - half, better - worse + half, 8), rel=1e-3)
    everything = clustered_change(np.ones(3), np.ones(3), np.arange(3))
    assert everything.value == everything.high == 1 and -1 < everything.low < 1


def test_effective_groups() -> None:
    assert effective_groups(np.arange(7)) == effective_groups(np.repeat(np.arange(7), 3)) == 7
    assert effective_groups(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)
    assert effective_groups(np.zeros(1, dtype=np.int64)) == 1
    assert effective_groups(np.zeros(0, dtype=np.int64)) == 0
    assert effective_groups(np.zeros(0, dtype=np.int64)) == 0


@pytest.mark.parametrize(("products", "share"), [(10, 0.5), (10, 0.9), (40, 0.7), (300, 0.05)])
def test_coverage_of_a_share(products: int, share: float) -> None:
    """Of 1,500 samples; the images of a product are right together, or at random each, half of the
    time. Taken for independent, images cover .87 to .90."""
    rng = np.random.default_rng(products)
    covered = 0
    for _ in range(1500):
        group = np.repeat(np.arange(products), rng.integers(1, 5, products))
        together = rng.random(products)[group] < 0.5
        right = np.where(together, rng.random(products)[group], rng.random(len(group))) < share
        found = clustered_share(right, np.ones(len(group)), group)
        covered += found.low <= share <= found.high
    assert 0.93 <= covered / 1500 <= 0.985


@pytest.mark.parametrize(
    ("products", "better", "worse"), [(30, 0.2, 0.1), (100, 0.04, 0.01), (400, 0.05, 0.05)]
)
def test_coverage_of_a_change(products: int, better: float, worse: float) -> None:
    rng = np.random.default_rng(products)
    covered = 0
    for _ in range(1500):
        group = np.repeat(np.arange(products), rng.integers(1, 5, products))
        together = rng.random(products)[group] < 0.7
        draw = np.where(together, rng.random(products)[group], rng.random(len(group)))
        change = (draw < better).astype(float) - (draw > 1 - worse)
        found = clustered_change(change, np.ones(len(group)), group)
        covered += found.low <= better - worse <= found.high
    assert 0.93 <= covered / 1500 <= 0.99
