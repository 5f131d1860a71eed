"""Chosen on some products, judged on others."""

import numpy as np
import pytest

from stage2_xgb.crossfit import REPEATS, cross_fitted_scores, folds, halves

PRODUCTS = np.repeat([70, 3, 512, 44, 9], [2, 1, 3, 1, 2])


def test_folds_keep_products_whole_and_do_not_depend_on_others() -> None:
    ids = np.random.default_rng(0).permutation(30_000)
    fold = folds(ids, 3, "some folds", 5)
    assert (np.abs(np.bincount(fold) - 10_000) < 300).all()
    np.testing.assert_array_equal(folds(ids[::7], 3, "some folds", 5), fold[::7])
    for other in (folds(ids, 3, "other folds", 5), folds(ids, 3, "some folds", 6)):
        assert abs((other == fold).mean() - 1 / 3) < 0.02


def test_halves_are_of_whole_products_and_differ() -> None:
    found = list(halves(PRODUCTS, "gate", 0))
    assert len(found) == REPEATS
    for half in found:
        products = [set(PRODUCTS[mask].tolist()) for mask in (half, ~half)]
        assert list(map(len, products)) == [2, 3] and not products[0] & products[1]
    assert len({half.tobytes() for half in found}) > 6  # of the 10 ways of choosing 2 of 5
    assert [half.tobytes() for half in halves(PRODUCTS, "gate", 0)] == [
        half.tobytes() for half in found
    ]
    assert [half.tobytes() for half in halves(PRODUCTS, "gate", 1)] != [
        half.tobytes() for half in found
    ]


def test_each_product_is_chosen_as_often_as_the_others() -> None:
    ids = np.arange(101)
    chosen = np.mean(list(halves(ids, "gate", 0, repeats=400)), axis=0)
    assert np.abs(chosen - 50 / 101).max() < 0.11  # over four standard errors


def test_an_item_is_judged_by_products_that_are_not_its_own() -> None:
    """The choice is the mean of the deciders' values: each item must meet the mean over others
    alone."""
    values = np.random.default_rng(0).normal(size=len(PRODUCTS))
    met = []

    def score(deciders: np.ndarray, others: np.ndarray) -> np.ndarray:
        assert not (deciders & others).any() and (deciders | others).all()
        assert not set(PRODUCTS[deciders].tolist()) & set(PRODUCTS[others].tolist())
        met.append(others)
        return np.full((others.sum(), 2), values[deciders].mean())

    found = cross_fitted_scores(PRODUCTS, score, "gate", 0)
    assert found.shape == (len(PRODUCTS), 2) and len(met) == 2 * REPEATS
    np.testing.assert_array_equal(np.sum(met, axis=0), REPEATS)
    expected = np.zeros(len(PRODUCTS))
    for half in halves(PRODUCTS, "gate", 0):
        expected += np.where(half, values[~half].mean(), values[half].mean()) / REPEATS
    np.testing.assert_allclose(found[:, 1], expected)


def test_a_choice_by_chance_gains_nothing_once_judged_on_others() -> None:
    """Of many coins the luckiest looks good to those who chose it, and to nobody else."""
    claimed, cross_fitted = [], []
    for seed in range(30):
        coins = np.random.default_rng(seed).choice([-1.0, 1.0], size=(200, 40))

        def score(
            deciders: np.ndarray, others: np.ndarray, coins: np.ndarray = coins
        ) -> np.ndarray:
            return coins[others][:, coins[deciders].sum(axis=0).argmax()]

        claimed.append(coins.mean(axis=0).max())
        cross_fitted.append(cross_fitted_scores(np.arange(200), score, "coins", seed).mean())
    assert np.mean(claimed) > 0.1
    assert np.mean(cross_fitted) < 2.5 * np.std(cross_fitted) / len(cross_fitted) ** 0.5


def test_without_items_there_are_no_scores() -> None:
    assert cross_fitted_scores(
        np.zeros(0, int), lambda deciders, others: np.zeros(others.sum()), "none", 0
    ).shape == (0,)
    with pytest.raises(ValueError, match="repeats: expected at least 1, found 0"):
        cross_fitted_scores(
            PRODUCTS, lambda deciders, others: np.zeros(others.sum()), "none", 0, repeats=0
        )
