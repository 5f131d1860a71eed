"""The shared reranker."""

from dataclasses import replace

import numpy as np
import pytest
import xgboost

from stage1_cnn.head import normalise
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items, compact
from stage2_xgb.rerank import Reranker, top_candidates
from stage2_xgb.train_reranker import Lessons, cross_fit, fit_reranker
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, pooled


@pytest.fixture(scope="module")
def problem(fitted: Fitted) -> tuple[Items, Items, Evidence]:
    """Items to learn from, items to answer, and the evidence."""
    bundle = fitted.open()
    learn, ask = (
        compact(pooled(fitted.store, split, "image"), bundle.shifts["image"], bundle.projections) for split in ("reserve", "test")
    )
    return learn, ask, bundle.evidence


def test_candidates_are_the_likeliest(problem: tuple[Items, Items, Evidence]) -> None:
    _, ask, _ = problem
    candidates, log_prob = top_candidates(ask, 3)
    assert candidates.shape == (len(ask), 3) and (np.diff(log_prob[:, 0], axis=1) <= 0).all()
    np.testing.assert_array_equal(candidates[:, 0], ask.predicted)


def test_without_trees_it_answers_as_stage_1(problem: tuple[Items, Items, Evidence]) -> None:
    _, ask, evidence = problem
    pairs = np.zeros((2, len(evidence.names)), np.float32)
    booster = xgboost.train({"base_score": 0.0}, xgboost.DMatrix(pairs, [0, 1]), 0)
    candidates, log_probs = Reranker(booster, 4).log_probs(ask, evidence)
    np.testing.assert_allclose(log_probs, normalise(ask.log_prob[:, 0, :4]), atol=1e-6)
    np.testing.assert_array_equal(candidates, ask.top_class[:, :4])


def test_learns_what_the_features_hold(problem: tuple[Items, Items, Evidence]) -> None:
    learn, ask, evidence = problem
    lessons = Lessons.of(learn, evidence, np.ones(len(learn), np.float32), CONFIG.rerank.candidates)
    model = fit_reranker(lessons, CONFIG.rerank, 0, 1)
    candidates, log_probs = model.log_probs(ask, evidence)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-5)
    right = candidates[np.arange(len(ask)), log_probs.argmax(axis=1)] == ask.class_index
    assert right.mean() > (ask.predicted == ask.class_index).mean() + 0.12


def test_no_items_no_answers(problem: tuple[Items, Items, Evidence], fitted: Fitted) -> None:
    candidates, log_probs = fitted.open().reranker.log_probs(problem[1][:0], problem[2])
    assert len(candidates) == len(log_probs) == 0


def test_its_opinion_takes_the_place_of_stage_1s(problem: tuple[Items, Items, Evidence], fitted: Fitted) -> None:
    _, ask, evidence = problem
    model = fitted.open().reranker
    judged = model(ask, evidence)
    candidates, within = model.log_probs(ask, evidence)
    count = candidates.shape[1]
    np.testing.assert_allclose(normalise(judged.log_prob[:, 0, :count]), within, atol=1e-4)
    np.testing.assert_array_equal(judged.log_prob[:, 0, count:], ask.log_prob[:, 0, count:])
    np.testing.assert_allclose(np.exp(judged.log_prob[:, 0]).sum(axis=1), np.exp(ask.log_prob[:, 0]).sum(axis=1), rtol=1e-4)


def test_cross_fitting_never_asks_who_has_seen_the_item(problem: tuple[Items, Items, Evidence]) -> None:
    """The labels say nothing here, so that only a model that learnt an item by heart could be right of it more often."""
    learn, _, evidence = problem
    rng = np.random.default_rng(0)
    items = replace(learn, class_index=rng.integers(0, CLASSES, len(learn)).astype(np.int32))
    deep = CONFIG.rerank.model_copy(update={"max_depth": 8, "n_estimators": 60, "candidates": CLASSES, "min_child_weight": 0})
    model, judged = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), deep, 0, 1)

    def right(log_prob: np.ndarray) -> float:
        best = items.top_class[np.arange(len(items)), log_prob[:, 0].argmax(axis=1)]
        return float((best == items.class_index).mean())

    assert right(model(items, evidence).log_prob) > 0.6  # it has seen them
    assert right(judged.log_prob) < 0.3
    again = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), deep, 0, 1)[1]
    np.testing.assert_array_equal(again.log_prob, judged.log_prob)


def test_one_product_is_too_few_to_cross_fit(problem: tuple[Items, Items, Evidence]) -> None:
    learn, _, evidence = problem
    items = learn[learn.product_id == learn.product_id[0]]
    model, judged = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), CONFIG.rerank, 0, 1)
    assert model is None and judged is items
