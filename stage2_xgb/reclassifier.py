"""One reclassifier: an XGBoost model that chooses within one confusion set, starting from the
opinion before it: the pool's, or the adjusted stage 1's if there is no pool."""

from dataclasses import dataclass

import numpy as np
import xgboost

from features.columns import MISSING
from stage1_cnn.head import log_softmax
from stage2_xgb.experts import Columns
from stage2_xgb.items import Items


@dataclass(frozen=True)
class Reclassifier:
    """A trained model over `members` int32 [S]. Without trees it answers as the opinion before it;
    without `base_margin` it sees features alone."""

    members: np.ndarray
    booster: xgboost.Booster
    base_margin: bool

    def log_probs(self, items: Items, margin: np.ndarray) -> np.ndarray:
        """Log-probabilities within the set, float32 [N, S]; `margin` [N, S] holds those before,
        exact for every member."""
        log_prob = items.log_probs(self.members) if self.base_margin else None
        start = margin if self.base_margin else np.zeros_like(margin)
        scores = self.booster.inplace_predict(
            inputs(items, log_prob),
            base_margin=start,
            predict_type="margin",
            validate_features=False,
        )
        return log_softmax(scores.reshape(start.shape))


def inputs(items: Items, log_prob: np.ndarray | None) -> np.ndarray:
    """What a reclassifier sees, float32 [N, F]: the codes of the columns, NaN where missing;
    projected features of every view; and, if it starts from an opinion, that of its members,
    log_prob float32 [N, S], and the number of images."""
    codes = np.where(items.codes == MISSING, np.nan, items.codes)
    parts = [codes, items.z.reshape(len(items), items.z.shape[1] * items.z.shape[2])]
    if log_prob is not None:
        parts += [log_prob, np.log(items.n_images)[:, None]]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def input_types(inputs: np.ndarray, columns: Columns | None) -> list[str]:
    """XGBoost's types of `inputs` [N, F]: categories for columns whose order says nothing, numbers
    for all else."""
    first = ["c" if categorical else "q" for categorical in columns.categorical] if columns else []
    return first + ["q"] * (inputs.shape[1] - len(first))
