"""Logistic regression against scikit-learn's."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from stage1_cnn.head import log_softmax
from stage2_xgb import logistic
from stage2_xgb.experts import Inputs
from stage2_xgb.logistic import fit_logistic, too_large

CLASSES, ABSENT = 5, 2


def rows(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Inputs float32 [N, 6] and classes, one of which is absent."""
    rng = np.random.default_rng(0)
    class_index = rng.choice(np.delete(np.arange(CLASSES), ABSENT), count)
    x = rng.normal(size=(CLASSES, 6))[class_index] + rng.normal(size=(count, 6))
    return x.astype(np.float32), class_index


def test_probabilities_are_scikit_learns(monkeypatch) -> None:
    monkeypatch.setattr(logistic, "_TOLERANCE", 1e-10)
    x, class_index = rows()
    theirs = LogisticRegression(C=3.0, max_iter=1000, tol=1e-8).fit(
        x.astype(np.float64), class_index
    )
    expert = fit_logistic(x, class_index, CLASSES, Inputs((0,)), c=3.0)
    ours = log_softmax((x @ expert.factors[0] + expert.bias)[:, theirs.classes_])
    np.testing.assert_allclose(np.exp(ours), theirs.predict_proba(x), rtol=0, atol=2e-3)
    assert expert.bias[ABSENT] == -np.inf


def test_any_start_leads_to_the_same_fit(monkeypatch) -> None:
    monkeypatch.setattr(logistic, "_TOLERANCE", 1e-10)
    x, class_index = rows()
    start = fit_logistic(x[:100], class_index[:100], CLASSES, Inputs((0,)))
    cold, warm = (
        fit_logistic(x, class_index, CLASSES, Inputs((0,)), start=s) for s in (None, start)
    )
    np.testing.assert_allclose(warm.factors[0], cold.factors[0], rtol=0, atol=0.02)


def test_a_single_class_is_certain() -> None:
    expert = fit_logistic(np.eye(3, dtype=np.float32), np.full(3, 1), 2, Inputs((0,)))
    assert expert.bias.tolist() == [-np.inf, 0]


def test_is_left_out_if_it_would_take_too_long() -> None:
    assert not too_large(10_000, 1024, 100)
    assert too_large(1_500_000, 2048, 5270)
