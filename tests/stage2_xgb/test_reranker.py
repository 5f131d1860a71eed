"""The shared reranker."""

from dataclasses import replace

import numpy as np
import pytest
import xgboost

from catalog.splits import SPLITS, sample_mask
from stage1_cnn.head import normalise
from stage2_xgb.crossfit import folds
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items, compact
from stage2_xgb.prior import importance
from stage2_xgb.reranker import Reranker, top_candidates
from stage2_xgb.train_reranker import Lessons, _conditional_logit, cross_fit, fit_reranker
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, pooled


@pytest.fixture(scope="module")
def problem(fitted: Fitted) -> tuple[Items, Items, Evidence]:
    """Items to learn from, items to answer, and the evidence."""
    bundle = fitted.open()
    learn, ask = (
        compact(pooled(fitted.store, split, "image"), bundle.shifts["image"], bundle.projections)
        for split in ("reserve", "test")
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


def test_its_opinion_takes_the_place_of_stage_1s(
    problem: tuple[Items, Items, Evidence], fitted: Fitted
) -> None:
    _, ask, evidence = problem
    model = fitted.open().reranker
    judged = model(ask, evidence)
    candidates, within = model.log_probs(ask, evidence)
    count = candidates.shape[1]
    np.testing.assert_allclose(normalise(judged.log_prob[:, 0, :count]), within, atol=1e-4)
    np.testing.assert_array_equal(judged.log_prob[:, 0, count:], ask.log_prob[:, 0, count:])
    np.testing.assert_allclose(
        np.exp(judged.log_prob[:, 0]).sum(axis=1), np.exp(ask.log_prob[:, 0]).sum(axis=1), rtol=1e-4
    )


def test_cross_fitting_never_asks_who_has_seen_the_item(
    problem: tuple[Items, Items, Evidence],
) -> None:
    """The labels say nothing here, so that only a model that learnt an item by heart could be right
    of it more often."""
    learn, _, evidence = problem
    rng = np.random.default_rng(0)
    items = replace(learn, class_index=rng.integers(0, CLASSES, len(learn)).astype(np.int32))
    deep = CONFIG.rerank.model_copy(
        update={"max_depth": 8, "n_estimators": 60, "candidates": CLASSES, "min_child_weight": 0}
    )
    model, judged = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), deep, 0, 1)

    def right(log_prob: np.ndarray) -> float:
        best = items.top_class[np.arange(len(items)), log_prob[:, 0].argmax(axis=1)]
        return float((best == items.class_index).mean())

    assert right(model(items, evidence).log_prob) > 0.6  # it has seen them
    assert right(judged.log_prob) < 0.3
    again = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), deep, 0, 1)[1]
    np.testing.assert_array_equal(again.log_prob, judged.log_prob)


def test_one_product_is_too_few_to_cross_fit(
    problem: tuple[Items, Items, Evidence], caplog: pytest.LogCaptureFixture
) -> None:
    learn, _, evidence = problem
    items = learn[learn.product_id == learn.product_id[0]]
    model, judged = cross_fit(items, evidence, np.full(CLASSES, 1 / CLASSES), CONFIG.rerank, 0, 1)
    assert model is None and judged is items
    assert "no reranker: expected products of reserve and val_a in 2 folds, found 1" in caplog.text
    none_useful = replace(learn, class_index=(CLASSES - 1 - learn.predicted).astype(np.int32))
    few = CONFIG.rerank.model_copy(update={"candidates": 2})
    model, judged = cross_fit(none_useful, evidence, np.full(CLASSES, 1 / CLASSES), few, 0, 1)
    assert model is None and judged is none_useful and "in 2 folds, found 0" in caplog.text


def raw(model: Reranker) -> bytearray:
    return model.booster.save_raw("ubj")


def test_lessons_are_a_sample_where_there_are_too_many(
    problem: tuple[Items, Items, Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit is that of the sample alone, weighted to the target mix; with a limit of none there
    is nothing to learn from."""
    learn, _, evidence = problem
    target = np.linspace(1, 2, CLASSES) / np.linspace(1, 2, CLASSES).sum()
    half = len(learn) // 2
    monkeypatch.setattr("stage2_xgb.train_reranker.LESSONS", half)
    model, judged = cross_fit(learn, evidence, target, CONFIG.rerank, 5, 1)
    some = np.flatnonzero(sample_mask(learn.product_id, half / len(learn), "reranker lessons", 5))
    assert len(some) == pytest.approx(half, rel=0.25)
    lessons = Lessons.of(
        learn[some], evidence, importance(learn.class_index[some], target), CONFIG.rerank.candidates
    )
    assert raw(model) == raw(fit_reranker(lessons, CONFIG.rerank, 5, 1))
    fold = folds(learn.product_id, 3, "reranker folds", 5)
    for number in range(3):
        others = fit_reranker(lessons[np.flatnonzero(fold[some] != number)], CONFIG.rerank, 5, 1)
        mine = np.flatnonzero(fold == number)
        np.testing.assert_array_equal(judged.log_prob[mine], others(learn[mine], evidence).log_prob)
    monkeypatch.setattr("stage2_xgb.train_reranker.LESSONS", 0)
    assert cross_fit(learn, evidence, target, CONFIG.rerank, 5, 1)[0] is None


def test_items_that_stage_1_saw_teach_nothing_and_meet_the_whole_reranker(
    problem: tuple[Items, Items, Evidence],
) -> None:
    learn, _, evidence = problem
    target = np.full(CLASSES, 1 / CLASSES)
    split = learn.split.copy()
    seen = learn.product_id % 3 == 0
    split[seen] = SPLITS.index("train")
    mixed = replace(learn, split=split)
    model, judged = cross_fit(mixed, evidence, target, CONFIG.rerank, 0, 1)
    alone, _ = cross_fit(learn[~seen], evidence, target, CONFIG.rerank, 0, 1)
    assert raw(model) == raw(alone)
    np.testing.assert_array_equal(judged.log_prob[seen], model(learn[seen], evidence).log_prob)
    assert (judged.log_prob[~seen] != model(learn[~seen], evidence).log_prob).any()


def test_two_folds_of_lessons_are_enough(problem: tuple[Items, Items, Evidence]) -> None:
    learn, _, evidence = problem
    fold = folds(learn.product_id, 3, "reranker folds", 0)
    target = np.full(CLASSES, 1 / CLASSES)
    assert cross_fit(learn[fold < 2], evidence, target, CONFIG.rerank, 0, 1)[0] is not None
    assert cross_fit(learn[fold < 1], evidence, target, CONFIG.rerank, 0, 1)[0] is None


def test_items_whose_truth_is_no_candidate_teach_nothing(
    problem: tuple[Items, Items, Evidence],
) -> None:
    learn, _, evidence = problem
    lost = np.where(
        np.arange(len(learn)) % 3 == 0, CLASSES - 1 - learn.predicted, learn.class_index
    )
    learn = replace(learn, class_index=lost.astype(np.int32))
    lessons = Lessons.of(learn, evidence, np.arange(1, len(learn) + 1), 2)
    hit = (learn.top_class[:, :2] == learn.class_index[:, None]).any(axis=1)
    np.testing.assert_array_equal(
        lessons.weight, np.where(hit, np.arange(1, len(learn) + 1), 0).astype(np.float32)
    )
    assert 0.6 < hit.mean() < 0.7 and (lessons.truth.sum(axis=1) == hit).all()
    config = CONFIG.rerank.model_copy(update={"candidates": 2})
    assert raw(fit_reranker(lessons, config, 0, 1)) == raw(
        fit_reranker(lessons[np.flatnonzero(hit)], config, 0, 1)
    )


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    """Against finite differences of the weighted log-loss of a softmax within each item."""
    rng = np.random.default_rng(0)
    scores, weight = rng.normal(size=(5, 4)), rng.exponential(size=5)
    truth = np.eye(4, dtype=bool)[rng.integers(0, 4, 5)]

    def loss(x: np.ndarray) -> np.ndarray:
        return -weight * normalise(x)[truth]

    gradient, hessian = _conditional_logit(truth, weight)(scores.reshape(-1), None)
    step = 1e-4
    for place in range(4):
        bump = np.zeros((5, 4))
        bump[:, place] = step
        up, here, down = loss(scores + bump), loss(scores), loss(scores - bump)
        np.testing.assert_allclose(
            gradient.reshape(5, 4)[:, place], (up - down) / (2 * step), atol=1e-6
        )
        np.testing.assert_allclose(
            hessian.reshape(5, 4)[:, place], (up - 2 * here + down) / step**2, atol=1e-5
        )
    sure = _conditional_logit(truth, weight)(np.where(truth, 60.0, 0.0).reshape(-1), None)[1]
    np.testing.assert_allclose(
        sure.reshape(5, 4), np.tile(1e-6 * weight[:, None], 4), rtol=1e-3
    )  # never 0
