"""The neighbour bank against brute force: highest cosines, means, and who is left out."""

import numpy as np
import pytest

from features import neighbours
from features.neighbours import NEAREST, Bank, unit

CLASSES, WIDTH = 6, 5
EMPTY_CLASS, SMALL_CLASS = 4, 2


def make(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [90, WIDTH] of products with three images each, and their classes; one class is
    empty, one has two images."""
    rng = np.random.default_rng(seed)
    class_index = rng.choice([0, 1, 3, 5], 30)
    class_index = np.repeat(class_index, 3)
    class_index[:2] = SMALL_CLASS
    return (
        rng.normal(size=(90, WIDTH)).astype(np.float32),
        np.repeat(np.arange(30) * 7, 3),
        class_index,
    )


def brute_force(
    vectors, product_id, class_index, query, product, candidate
) -> tuple[list[float], float]:
    """Nearest cosines and mean of one query, by a plain loop over the float16 bank."""
    bank = [v / np.linalg.norm(v) for v in vectors.astype(np.float32)]
    query = query / np.linalg.norm(query)
    found = sorted(
        (
            float(np.dot(np.float16(b).astype(np.float32), query))
            for b, p, c in zip(bank, product_id, class_index, strict=True)
            if c == candidate and p != product
        ),
        reverse=True,
    )
    return found[:NEAREST], float(np.mean(found)) if found else float("nan")


@pytest.mark.parametrize("pairs", [2**24, 7])  # 7: a class in many pieces
def test_equals_brute_force(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(neighbours, "_PAIRS", pairs)
    vectors, product_id, class_index = make()
    bank = Bank.of(vectors, product_id, class_index, CLASSES)
    rng = np.random.default_rng(1)
    rows = rng.permutation(90)[:40]  # members of the bank: their own product must not answer
    candidates = np.stack([rng.permutation(CLASSES)[:5] for _ in rows])
    nearest, mean = bank.cosines(vectors[rows], product_id[rows], candidates)
    for i, row in enumerate(rows):
        for j, candidate in enumerate(candidates[i]):
            expected, average = brute_force(
                vectors, product_id, class_index, vectors[row], product_id[row], candidate
            )
            padded = expected + [np.nan] * (NEAREST - len(expected))
            np.testing.assert_allclose(nearest[i, j], padded, atol=1e-5)
            np.testing.assert_allclose(mean[i, j], average, atol=1e-5)


def test_own_product_is_left_out_and_an_empty_class_is_nan() -> None:
    vectors, product_id, class_index = make()
    bank = Bank.of(vectors, product_id, class_index, CLASSES)
    candidates = np.array([[class_index[10], EMPTY_CLASS]])
    own, mean = bank.cosines(vectors[10:11], product_id[10:11], candidates)
    stranger, _ = bank.cosines(vectors[10:11], np.array([-1]), candidates)
    assert stranger[0, 0, 0] == pytest.approx(1, abs=1e-3) and own[0, 0, 0] < 0.999
    assert np.isnan(own[0, 1]).all() and np.isnan(mean[0, 1])


def test_only_the_own_product_in_a_class_is_nan() -> None:
    bank = Bank.of(np.ones((2, 3)), np.array([5, 5]), np.array([0, 0]), 1)
    nearest, mean = bank.cosines(np.ones((1, 3)), np.array([5]), np.zeros((1, 1), dtype=int))
    assert np.isnan(nearest).all() and np.isnan(mean).all()


def test_unit_keeps_a_zero_vector() -> None:
    np.testing.assert_allclose(unit(np.array([[0, 0], [3, 4]])), [[0, 0], [0.6, 0.8]], rtol=1e-6)
