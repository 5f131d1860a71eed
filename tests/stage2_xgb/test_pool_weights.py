"""The pool's weights: planted ones are found, and no expert alone is better."""

import numpy as np
import pytest

from stage2_xgb.pool_weights import Terms, fit_weights

PLANTED = np.array([0.7, 0.0, 0.4])
FREE = np.full(3, -np.inf), np.full(3, np.inf)


def terms(count: int = 20_000, weights: np.ndarray = PLANTED, seed: int = 0) -> Terms:
    """Items whose class was drawn from the softmax of a weighted sum of three opinions."""
    rng = np.random.default_rng(seed)
    values = 2 * rng.normal(size=(count, 3, 6)).astype(np.float32)
    scores = np.einsum("nfc,f->nc", values, weights) + rng.gumbel(size=(count, 6))
    return Terms(values, scores.argmax(axis=1), np.ones(count))


def test_finds_planted_weights() -> None:
    found = fit_weights(terms(), np.full(3, 1 / 3), np.zeros(3), np.full(3, np.inf))
    np.testing.assert_allclose(found, PLANTED, rtol=0, atol=0.03)


def test_is_never_worse_than_the_best_expert_alone() -> None:
    items = terms(500)
    found = items.log_loss(fit_weights(items, np.full(3, 1 / 3), np.zeros(3), np.full(3, np.inf)))[
        0
    ]
    alone = min(
        items.log_loss(scale * np.eye(3)[f])[0] for f in range(3) for scale in (0.3, 0.5, 1.0)
    )
    assert found < alone + 1e-3


def test_slope_is_that_of_the_loss() -> None:
    items, at = terms(50), np.array([0.3, -0.2, 1.0])
    items = Terms(items.values, items.truth, np.random.default_rng(1).uniform(size=50))
    step = 1e-5 * np.eye(3)
    expected = [(items.log_loss(at + d)[0] - items.log_loss(at - d)[0]) / 2e-5 for d in step]
    np.testing.assert_allclose(items.log_loss(at)[1], expected, rtol=0, atol=1e-6)


def test_items_count_by_their_weight() -> None:
    items = terms(400)
    twice = Terms(np.repeat(items.values, 2, axis=0), np.repeat(items.truth, 2), np.ones(800))
    doubled = Terms(items.values, items.truth, np.full(400, 2.0))
    np.testing.assert_allclose(twice.log_loss(PLANTED)[0], doubled.log_loss(PLANTED)[0], rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_stays_near_the_first_weights_with_little_to_learn_from(count: int) -> None:
    first = np.full(3, 1 / 3)
    found = fit_weights(terms(count), first, *FREE)
    assert np.abs(found - first).max() <= count
    if not count:
        np.testing.assert_array_equal(found, first)


def test_bounds_are_kept() -> None:
    found = fit_weights(
        terms(weights=np.array([-0.5, 0.2, 3.0])), np.full(3, 1 / 3), np.zeros(3), np.full(3, 2.0)
    )
    assert found[0] == 0
    assert found[2] == 2
