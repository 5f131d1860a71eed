"""Fits the shared reranker, a boosted conditional logit, on items that stage 1 never saw;
cross-fitted for what builds on it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xgboost

from catalog.splits import sample_mask
from stage1_cnn.head import normalise
from stage2_xgb.config import RerankConfig
from stage2_xgb.crossfit import folds
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items
from stage2_xgb.prior import importance
from stage2_xgb.reranker import Reranker, top_candidates

log = logging.getLogger(__name__)

BINS = 64
FOLDS = 3
"""Of cross-fitting."""
LESSONS = 100_000
"""Items that a reranker learns from, about, at most: a few dozen shallow trees need no more."""


@dataclass(frozen=True)
class Lessons:
    """What a reranker learns from: pairs float32 [N, C, P], margin float32 [N, C], truth bool [N,
    C], weight float32 [N]."""

    pairs: np.ndarray
    margin: np.ndarray
    truth: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, items: Items, evidence: Evidence, weight: np.ndarray, count: int) -> "Lessons":
        """From items [N] that stage 1 never saw; those whose true class is no candidate teach
        nothing and weigh nothing."""
        candidates, log_prob = top_candidates(items, count)
        truth = candidates == items.class_index[:, None]
        weight = np.where(truth.any(axis=1), weight, 0).astype(np.float32)
        return cls(evidence(items, candidates, log_prob), log_prob[:, 0], truth, weight)

    def __getitem__(self, rows: np.ndarray) -> "Lessons":
        return Lessons(self.pairs[rows], self.margin[rows], self.truth[rows], self.weight[rows])


def fit_reranker(
    lessons: Lessons, config: RerankConfig, seed: int, threads: int, device: str = "cpu"
) -> Reranker:
    """Boosts a conditional logit, starting from stage 1's opinion."""
    learn = lessons[np.flatnonzero(lessons.weight)]
    pairs = learn.pairs.reshape(learn.truth.size, learn.pairs.shape[2])
    data = xgboost.QuantileDMatrix(
        pairs, learn.truth.ravel(), base_margin=learn.margin.ravel(), max_bin=BINS, nthread=threads
    )
    parameters = config.model_dump(exclude={"n_estimators", "candidates", "use"}) | {
        "tree_method": "hist",
        "max_bin": BINS,
        "nthread": threads,
        "seed": seed,
        "verbosity": 0,
        "base_score": 0.0,
        "device": device,
    }
    objective = _conditional_logit(learn.truth, learn.weight)
    booster = xgboost.train(parameters, data, config.n_estimators, obj=objective)
    return Reranker(booster, learn.truth.shape[1])


def cross_fit(
    items: Items,
    evidence: Evidence,
    target: np.ndarray,
    config: RerankConfig,
    seed: int,
    threads: int,
    device: str = "cpu",
) -> tuple[Reranker | None, Items]:
    """The reranker, learnt from the items that stage 1 never saw, weighted to the mix `target` [K];
    and `items` with its opinion. Where these are of too few products to be cross-fitted there is
    none, which the log says, and the opinion stays stage 1's.

    Those it could have learnt from get the opinion of one that saw neither them nor their products,
    so that what is trained on top meets opinions such as those on new items.
    """
    unseen = np.flatnonzero(items.on("reserve", "val_a"))
    share = LESSONS / max(len(unseen), 1)
    taught = unseen[sample_mask(items.product_id[unseen], share, "reranker lessons", seed)]
    lessons = Lessons.of(
        items[taught], evidence, importance(items.class_index[taught], target), config.candidates
    )
    fold = folds(items.product_id, FOLDS, "reranker folds", seed)
    useful = taught[lessons.truth.any(axis=1)]
    if len(np.unique(fold[useful])) < 2:
        found = len(np.unique(items.product_id[useful]))
        log.warning(
            "no reranker: expected products of reserve and val_a in 2 folds, found %d", found
        )
        return None, items
    whole = fit_reranker(lessons, config, seed, threads, device)
    log_prob = items.log_prob.copy()
    others = np.ones(len(items), dtype=bool)
    others[unseen] = False
    for number in range(FOLDS):
        rows = unseen[fold[unseen] == number]
        model = fit_reranker(
            lessons[np.flatnonzero(fold[taught] != number)], config, seed, threads, device
        )
        log_prob[rows] = model(items[rows], evidence).log_prob
    log_prob[others] = whole(items[others], evidence).log_prob
    return whole, replace(items, log_prob=log_prob)


def _conditional_logit(
    truth: np.ndarray, weight: np.ndarray
) -> Callable[[np.ndarray, xgboost.DMatrix], tuple]:
    """Gradient and hessian of the log-loss of the softmax within each item; truth bool [N, C],
    weight [N]."""

    def objective(scores: np.ndarray, _: xgboost.DMatrix) -> tuple[np.ndarray, np.ndarray]:
        probability = np.exp(normalise(scores.reshape(truth.shape)))
        gradient = weight[:, None] * (probability - truth)
        hessian = weight[:, None] * np.maximum(probability * (1 - probability), 1e-6)
        return gradient.ravel(), hessian.ravel()

    return objective
