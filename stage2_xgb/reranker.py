"""The shared reranker: one XGBoost over (item, candidate) pairs, for every category, the rarest
included.

It is a conditional logit (McFadden 1974) boosted by trees: the pair's score is stage 1's
log-probability plus the trees, and the softmax over an item's candidates is its probability. With
no trees it answers as stage 1 does.
"""

from dataclasses import dataclass, replace

import numpy as np
import xgboost
from scipy.special import logsumexp

from stage1_cnn.head import normalise
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items

_BLOCK = 16_384


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
        scores = self.booster.inplace_predict(
            pairs, base_margin=margin, predict_type="margin", validate_features=False
        )
        return candidates, normalise(scores.reshape(candidates.shape))

    def __call__(self, items: Items, evidence: Evidence) -> Items:
        """The items with this opinion in the place of stage 1's: the candidates' mass is spread as
        it says, all else stands."""
        log_prob = items.log_prob.copy()
        for start in range(0, len(items), _BLOCK):
            rows = slice(start, start + _BLOCK)
            within = self.log_probs(items[rows], evidence)[1]
            mine = log_prob[rows, 0, : within.shape[1]]
            mine[:] = within + logsumexp(mine, axis=1, keepdims=True)
        return replace(items, log_prob=log_prob)


def top_candidates(items: Items, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest classes int32 [N, C] and every view's log-probabilities float32 [N, V, C]."""
    return items.top_class[:, :count], items.log_prob[:, :, :count]
