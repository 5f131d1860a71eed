"""Inputs, opinions and votes of the experts."""

import numpy as np
import pytest

from features.neighbours import Bank
from stage2_xgb import experts
from stage2_xgb.experts import FLOOR, GRID, Inputs, NeighbourExpert, bounded, highest, votes
from stage2_xgb.items import Projection


def test_inputs_are_signed_roots_of_unit_length_views_on_the_grid() -> None:
    features = [np.array([[3.0, -4.0]]), np.array([[0.0, 2.0, 0.0]])]
    x = Inputs((0, 1), root=True)(features)
    np.testing.assert_allclose(x, [[0.6**0.5, -(0.8**0.5), 0, 1, 0]], rtol=0, atol=1 / GRID)
    np.testing.assert_array_equal(np.rint(x * GRID), x * GRID)
    assert Inputs((1,))(features).tolist() == [[0, 1, 0]]


def test_features_of_no_length_are_no_fault() -> None:
    assert Inputs((0,), root=True)([np.zeros((1, 3))]).tolist() == [[0, 0, 0]]


def test_an_opinion_is_bounded_log_odds_against_the_likeliest() -> None:
    opinion = bounded(np.array([[1.0, 3.0, -np.inf, -1e6]], dtype=np.float32), 0.5)
    assert opinion.tolist() == [[-1, 0, -FLOOR, -FLOOR]]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_highest_are_in_order_of_the_class(count: int) -> None:
    scores = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    found = highest(scores, count)
    for row, classes in zip(scores, found, strict=True):
        assert sorted(np.argsort(-row)[:count].tolist()) == classes.tolist()


def test_votes_are_of_the_nearest_and_closer_ones_count_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experts, "VOTERS", 3)
    nearest = np.array([[[0.9, 0.8, 0.1], [0.85, np.nan, np.nan], [np.nan] * 3]], dtype=np.float32)
    expected = np.exp(np.array([0.0, -0.1, -0.05]) / 0.05)
    np.testing.assert_allclose(
        votes(nearest)[0],
        np.array([expected[0] + expected[1], expected[2], 0]) / expected.sum(),
        rtol=1e-5,
    )


def test_no_photo_no_vote() -> None:
    assert votes(np.full((2, 3, 5), np.nan, dtype=np.float32)).tolist() == [[0, 0, 0]] * 2


def test_an_item_does_not_vote_for_itself() -> None:
    vectors, product_id = np.eye(4, dtype=np.float32), np.array([1, 1, 2, 3])
    bank = Bank.of(vectors, product_id, np.array([0, 0, 1, 1]), 2)
    as_they_are = Projection(np.zeros(4, dtype=np.float32), np.eye(4, dtype=np.float32))
    expert = NeighbourExpert.of(Inputs((0,)), as_they_are, bank)
    found = expert.log_votes(vectors, product_id, np.zeros((4, 1), dtype=np.int32))[:, 0]
    assert found[:2].tolist() == [0, 0]
    assert (found[2:] > 0).all()
