"""Fits the shared reranker, a boosted conditional logit, on items that stage 1 never saw; cross-fitted for what builds on it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xgboost

from catalog.splits import product_hash
from stage1_cnn.head import normalise
from stage2_xgb.config import RerankConfig
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items
from stage2_xgb.prior import importance
from stage2_xgb.rerank import Reranker, top_candidates

BINS = 64
FOLDS = 3
"""Of cross-fitting."""
LESSONS = 100_000
"""Items that a reranker learns from, about, at most: a few dozen shallow trees need no more."""


@dataclass(frozen=True)
class Lessons:
    """What a reranker learns from: pairs float32 [N, C, P], margin float32 [N, C], truth bool [N, C], weight float32 [N]."""

    pairs: np.ndarray
    margin: np.ndarray
    truth: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, items: Items, evidence: Evidence, weight: np.ndarray, count: int) -> "Lessons":
        """From items [N] that stage 1 never saw; those whose true class is no candidate teach nothing and weigh nothing."""
        candidates, log_prob = top_candidates(items, count)
        truth = candidates == items.class_index[:, None]
        weight = np.where(truth.any(axis=1), weight, 0).astype(np.float32)
        return cls(evidence(items, candidates, log_prob), log_prob[:, 0], truth, weight)

    def __getitem__(self, rows: np.ndarray) -> "Lessons":
        return Lessons(self.pairs[rows], self.margin[rows], self.truth[rows], self.weight[rows])


def fit_reranker(lessons: Lessons, config: RerankConfig, seed: int, threads: int, device: str = "cpu") -> Reranker:
    """Boosts a conditional logit, starting from stage 1's opinion."""
    learn = lessons[np.flatnonzero(lessons.weight)]
    size, count = learn.truth.size, learn.truth.shape[1]
    data = xgboost.QuantileDMatrix(
        learn.pairs.reshape(size, -1), learn.truth.reshape(-1), base_margin=learn.margin.reshape(-1), max_bin=BINS,
        nthread=threads,
    )  # fmt: skip
    parameters = config.model_dump(exclude={"n_estimators", "candidates", "use"}) | {
        "tree_method": "hist", "max_bin": BINS, "nthread": threads, "seed": seed, "verbosity": 0, "base_score": 0.0,
        "device": device,
    }  # fmt: skip
    objective = _conditional_logit(learn.truth, learn.weight)
    return Reranker(xgboost.train(parameters, data, config.n_estimators, obj=objective), count)


def cross_fit(
    items: Items, evidence: Evidence, target: np.ndarray, config: RerankConfig, seed: int, threads: int, device: str = "cpu"
) -> tuple[Reranker | None, Items]:
    """The reranker, learnt from the items that stage 1 never saw, weighted to the mix `target` [K]; and `items` with its opinion.
    Where these are of too few products to be cross-fitted there is none, and the opinion stays stage 1's.

    Those it could have learnt from get the opinion of one that saw neither them nor their products, so that what is trained on
    top meets opinions such as those on new items.
    """
    unseen = np.flatnonzero(items.on("reserve", "val_a"))
    number = product_hash(items.product_id[unseen], seed + 1)
    taught = unseen[number < min(LESSONS / max(len(unseen), 1), 1) * (2**64 - 1)]
    lessons = Lessons.of(items[taught], evidence, importance(items.class_index[taught], target), config.candidates)
    fold = product_hash(items.product_id, seed + 2) % np.uint64(FOLDS)
    if len(np.unique(fold[taught[lessons.weight > 0]])) < 2:
        return None, items
    whole = fit_reranker(lessons, config, seed, threads, device)
    log_prob = items.log_prob.copy()
    others = np.ones(len(items), dtype=bool)
    others[unseen] = False
    for place in range(FOLDS):
        rows = unseen[fold[unseen] == place]
        model = fit_reranker(lessons[np.flatnonzero(fold[taught] != place)], config, seed, threads, device)
        log_prob[rows] = model(items[rows], evidence).log_prob
    log_prob[others] = whole(items[others], evidence).log_prob
    return whole, replace(items, log_prob=log_prob)


def _conditional_logit(truth: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray, xgboost.DMatrix], tuple]:
    """Gradient and hessian of the log-loss of the softmax within each item; truth bool [N, C], weight [N]."""

    def objective(scores: np.ndarray, _: xgboost.DMatrix) -> tuple[np.ndarray, np.ndarray]:
        probability = np.exp(normalise(scores.reshape(truth.shape)))
        gradient = weight[:, None] * (probability - truth)
        hessian = weight[:, None] * np.maximum(probability * (1 - probability), 1e-6)
        return gradient.reshape(-1), hessian.reshape(-1)

    return objective
