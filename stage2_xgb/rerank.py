"""The shared reranker: one XGBoost over (item, candidate) pairs, for every category, the rarest included.

It is a conditional logit (McFadden 1974) boosted by trees: the pair's score is stage 1's log-probability plus the trees, and
the softmax over an item's candidates is its probability. With no trees it answers as stage 1 does.
"""

from dataclasses import dataclass

import numpy as np
import xgboost

from stage1_cnn.head import normalise
from stage2_xgb.config import RerankConfig
from stage2_xgb.dataset import Items
from stage2_xgb.evidence import Evidence


@dataclass(frozen=True)
class Reranker:
    """A trained reranker over the `candidates` likeliest categories of each item."""

    booster: xgboost.Booster
    candidates: int

    def log_probs(self, items: Items, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Candidates int32 [N, C] and their log-probabilities among themselves, float32 [N, C]."""
        candidates, log_prob = top_candidates(items, self.candidates)
        if not len(items):
            return candidates, log_prob[:, 0]
        pairs = evidence(items, candidates, log_prob).reshape(candidates.size, -1)
        margin = np.ascontiguousarray(log_prob[:, 0]).reshape(-1)
        scores = self.booster.inplace_predict(pairs, base_margin=margin, predict_type="margin", validate_features=False)
        return candidates, normalise(scores.reshape(candidates.shape))


def top_candidates(items: Items, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest classes int32 [N, C] and every view's log-probabilities float32 [N, V, C]."""
    return items.top_class[:, :count], items.log_prob[:, :, :count]


def fit_reranker(items: Items, evidence: Evidence, weight: np.ndarray, config: RerankConfig, seed: int, threads: int) -> Reranker:
    """Learns from items [N] that stage 1 never saw; those whose true class is no candidate teach nothing and are left out."""
    candidates, log_prob = top_candidates(items, config.candidates)
    truth = candidates == items.class_index[:, None]
    use = truth.any(axis=1)
    pairs = evidence(items[use], candidates[use], log_prob[use])
    margin, truth, weight = log_prob[use, 0], truth[use], weight[use]
    data = xgboost.QuantileDMatrix(
        pairs.reshape(truth.size, -1), truth.reshape(-1), base_margin=margin.reshape(-1), max_bin=128, nthread=threads
    )
    parameters = config.model_dump(exclude={"n_estimators", "candidates", "use"}) | {
        "tree_method": "hist", "max_bin": 128, "nthread": threads, "seed": seed, "verbosity": 0, "base_score": 0.0,
    }  # fmt: skip
    booster = xgboost.train(parameters, data, config.n_estimators, obj=_conditional_logit(truth, weight))
    return Reranker(booster, candidates.shape[1])


def _conditional_logit(truth: np.ndarray, weight: np.ndarray):
    """Gradient and hessian of the log-loss of the softmax within each item; truth bool [N, C], weight [N]."""

    def objective(scores: np.ndarray, _: xgboost.DMatrix) -> tuple[np.ndarray, np.ndarray]:
        probability = np.exp(normalise(scores.reshape(truth.shape)))
        gradient = weight[:, None] * (probability - truth)
        hessian = weight[:, None] * np.maximum(probability * (1 - probability), 1e-6)
        return gradient.reshape(-1), hessian.reshape(-1)

    return objective
