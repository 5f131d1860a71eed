"""Linear discriminants against scikit-learn's, from sums that are exact."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stage2_xgb import lda
from stage2_xgb.experts import GRID, Inputs
from stage2_xgb.lda import Moments, fit_lda

CLASSES, WIDTH = 7, 5
ABSENT = 4
INPUTS = Inputs((0,), root=True)


def rows(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Inputs on the grid, classes (one of them absent), and the features that they come from."""
    rng = np.random.default_rng(seed)
    class_index = rng.choice(np.delete(np.arange(CLASSES), ABSENT), count)
    centres = 2 * rng.normal(size=(CLASSES, WIDTH))
    features = [(centres[class_index] + rng.normal(size=(count, WIDTH))).astype(np.float32)]
    return INPUTS(features), class_index, features


def moments(x: np.ndarray, class_index: np.ndarray) -> Moments:
    """Sums of all rows at once."""
    sums = Moments.zeros(CLASSES, x.shape[1])
    sums.add(x, class_index)
    return sums


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores [N, K] up to a constant of each item."""
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("shrinkage", [0.05, 0.4])
def test_equals_scikit_learn_up_to_a_constant_of_the_item(shrinkage: float) -> None:
    x, class_index, features = rows()
    known = np.delete(np.arange(CLASSES), ABSENT)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(
        x.astype(np.float64), class_index
    )
    expected = theirs.decision_function(x.astype(np.float64)) - np.log(theirs.priors_)
    scores = fit_lda(moments(x, class_index), INPUTS, shrinkage).scores(INPUTS(features))
    np.testing.assert_allclose(centred(scores[:, known]), centred(expected), rtol=0, atol=1e-3)
    assert (scores[:, ABSENT] == -np.inf).all()


def test_sums_do_not_depend_on_order_or_blocks_and_folds_can_be_taken_away() -> None:
    x, class_index, _ = rows()
    whole = moments(x, class_index)
    order, pieces = np.random.default_rng(1).permutation(len(x)), Moments.zeros(CLASSES, WIDTH)
    for part in np.array_split(order, 7):
        pieces.add(x[part], class_index[part])
    fold = np.arange(len(x)) % 3 == 0
    rest = whole - moments(x[fold], class_index[fold])
    assert_same(pieces, whole)
    assert_same(rest, moments(x[~fold], class_index[~fold]))
    assert_same(rest + moments(x[fold], class_index[fold]), whole)


def assert_same(sums: Moments, expected: Moments) -> None:
    """Bit for bit."""
    for name in ("count", "total", "second"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(expected, name))


def test_sums_would_not_be_exact_off_the_grid() -> None:
    """What the grid is for: without it another order gives other bits."""
    x = np.random.default_rng(0).normal(size=(400, WIDTH)).astype(np.float32)
    assert (np.rint(x * GRID) != x * GRID).any()
    forwards, backwards = (moments(part, np.zeros(400, dtype=int)).second for part in (x, x[::-1]))
    assert (forwards != backwards).any()


def test_few_discriminants_score_as_all_of_them_if_they_span_the_class_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven centres in a plane need two."""
    rng = np.random.default_rng(0)
    class_index = rng.integers(CLASSES, size=2000)
    centres = rng.normal(size=(CLASSES, 2)) @ rng.normal(size=(2, 20))
    x = (
        np.rint(GRID * (centres[class_index] + 0.05 * rng.normal(size=(2000, 20))) / 50).astype(
            np.float32
        )
        / GRID
    )
    sums, inputs = moments(x, class_index), Inputs((0,))
    full = fit_lda(sums, inputs)
    monkeypatch.setattr(lda, "MULTIPLICATIONS", 2 * (20 + CLASSES))
    few = fit_lda(sums, inputs)
    assert [factor.shape for factor in few.factors] == [(20, 2), (2, CLASSES)]
    scores = [full.scores(x), few.scores(x)]
    assert (scores[0].argmax(axis=1) == scores[1].argmax(axis=1)).mean() > 0.99
    spread = centred(scores[0]).std()
    assert np.abs(centred(scores[0]) - centred(scores[1])).max() < 0.2 * spread


def test_features_that_hardly_differ_are_scored_as_exactly() -> None:
    """Inputs of some steps of the grid around .5, whose weights are large."""
    rng = np.random.default_rng(0)
    class_index = rng.integers(CLASSES, size=500)
    steps = 3 * rng.normal(size=(CLASSES, 40))[class_index] + rng.normal(size=(500, 40))
    x = (0.5 + np.rint(steps) / GRID).astype(np.float32)
    expert = fit_lda(moments(x, class_index), Inputs((0,)))
    exact = (x.astype(np.float64) - expert.centre) @ expert.factors[0] + expert.bias
    assert np.abs(expert.scores(x) - exact).max() < 1e-6 * np.abs(exact).max()
    assert np.abs(expert.factors[0]).max() > 100


@pytest.mark.parametrize("counts", [[1, 1], [1, 0], [2, 1]])
def test_classes_of_a_row_or_two_are_answered_by_the_nearest_mean(counts: list[int]) -> None:
    class_index = np.repeat(np.arange(2), counts)
    features = [np.eye(3, dtype=np.float32)[class_index]]
    sums = Moments.zeros(2, 3)
    sums.add(Inputs((0,))(features), class_index)
    scores = fit_lda(sums, Inputs((0,))).scores(Inputs((0,))(features))
    assert scores.argmax(axis=1).tolist() == class_index.tolist()
