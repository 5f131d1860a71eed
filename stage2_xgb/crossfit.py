"""Chosen on some products, scored on others: folds by product, and the mean over many ways of
halving the products.

A figure that is counted on the items which chose something flatters the choice. Whatever is chosen
on a split (who answers for a category, a threshold, a weight) is therefore scored here on the
products that had no part in choosing.
"""

from collections.abc import Callable, Iterator

import numpy as np

from catalog.splits import sample_hash

REPEATS = 20
"""Ways of halving the products; each half decides once and is scored once, so that there are twice
as many scores."""


def folds(product_id: np.ndarray, count: int, purpose: str, seed: int) -> np.ndarray:
    """Fold int64 [N] of each item, 0 .. count - 1: by product, whatever other items there are."""
    return (sample_hash(product_id, purpose, seed) % np.uint64(count)).astype(np.int64)


def halves(
    product_id: np.ndarray, purpose: str, seed: int, repeats: int = REPEATS
) -> Iterator[np.ndarray]:
    """Masks bool [N] of the items of half of the products (the smaller half if their number is
    odd), another half each time."""
    products, product = np.unique(product_id, return_inverse=True)
    for repeat in range(repeats):
        rank = np.argsort(np.argsort(sample_hash(products, f"{purpose}, repeat {repeat}", seed)))
        yield (rank < len(products) // 2)[product]


def cross_fitted_scores(
    product_id: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    purpose: str,
    seed: int,
    repeats: int = REPEATS,
) -> np.ndarray:
    """Mean score [N, ...] of each item, float64, over `repeats` choices that its product had no
    part in.

    `score(deciders, others)` gets two masks [N] that share no product, chooses on the first, and
    returns the scores [others.sum(), ...] of the second.
    """
    total: np.ndarray | None = None
    for half in halves(product_id, purpose, seed, repeats):
        for deciders in (half, ~half):
            scores = np.asarray(score(deciders, ~deciders), dtype=np.float64)
            if total is None:
                total = np.zeros((len(product_id), *scores.shape[1:]))
            total[~deciders] += scores
    if total is None:
        raise ValueError(f"repeats: expected at least 1, found {repeats}")
    return total / repeats
