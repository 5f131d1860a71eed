"""One reclassifier: an XGBoost model that chooses within one confusion set, starting from the
opinion before it: the shared reranker's, or stage 1's where there is none."""

from dataclasses import dataclass

import numpy as np
import xgboost

from stage1_cnn.head import normalise
from stage2_xgb.evidence import COMMON, Evidence
from stage2_xgb.items import Items


@dataclass(frozen=True)
class Reclassifier:
    """A trained model over `members` int32 [S]. Without trees it answers as the opinion before it;
    without `base_margin` it sees features alone."""

    members: np.ndarray
    booster: xgboost.Booster
    base_margin: bool

    def log_probs(self, items: Items, evidence: Evidence, margin: np.ndarray) -> np.ndarray:
        """Log-probabilities within the set, float32 [N, S]; `margin` [N, S] holds those before,
        exact for every member."""
        log_prob = items.log_probs(self.members)
        seen = inputs(items, self.members, log_prob, evidence if self.base_margin else None)
        start = margin if self.base_margin else np.zeros_like(margin)
        scores = self.booster.inplace_predict(
            seen, base_margin=start, predict_type="margin", validate_features=False
        )
        return normalise(scores.reshape(start.shape))


def inputs(
    items: Items, members: np.ndarray, log_prob: np.ndarray, evidence: Evidence | None
) -> np.ndarray:
    """What a reclassifier sees, float32 [N, F]: projected features of every view, the evidence that
    tells one member from another, and the number of images."""
    features = items.z.reshape(len(items), items.z.shape[1] * items.z.shape[2])
    if evidence is None:
        return features
    pairs = evidence(items, np.tile(members, (len(items), 1)), log_prob)
    telling = pairs[:, :, : -len(COMMON)].reshape(
        len(items), len(members) * (pairs.shape[2] - len(COMMON))
    )
    return np.concatenate(
        [features, telling, np.log(items.n_images)[:, None]], axis=1, dtype=np.float32
    )
