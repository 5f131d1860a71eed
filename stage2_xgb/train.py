"""One reclassifier: an XGBoost model that chooses within one confusion set, starting from the opinion before it: the shared
reranker's, or stage 1's where there is none."""

from dataclasses import dataclass

import numpy as np
import xgboost

from stage1_cnn.head import normalise
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Items
from stage2_xgb.evidence import COMMON, Evidence

BINS = 16
"""Histogram bins: as good as 64 on a few hundred rows, and trained in half the time."""


@dataclass(frozen=True)
class Reclassifier:
    """A trained model over `members` int32 [S]. Without trees it answers as the opinion before it; without `base_margin` it sees
    features alone."""

    members: np.ndarray
    booster: xgboost.Booster
    base_margin: bool

    def log_probs(self, items: Items, evidence: Evidence, margin: np.ndarray) -> np.ndarray:
        """Log-probabilities within the set, float32 [N, S]; `margin` [N, S] holds those before, exact for every member."""
        log_prob = items.log_probs(self.members)
        seen = inputs(items, self.members, log_prob, evidence if self.base_margin else None)
        start = margin if self.base_margin else np.zeros_like(margin)
        scores = self.booster.inplace_predict(seen, base_margin=start, predict_type="margin", validate_features=False)
        return normalise(scores.reshape(start.shape))


def inputs(items: Items, members: np.ndarray, log_prob: np.ndarray, evidence: Evidence | None) -> np.ndarray:
    """What a reclassifier sees, float32 [N, F]: projected features of every view, the evidence that tells one member from
    another, and the number of images."""
    features = items.z.reshape(len(items), -1)
    if evidence is None:
        return features
    pairs = evidence(items, np.tile(members, (len(items), 1)), log_prob)
    telling = pairs[:, :, : -len(COMMON)].reshape(len(items), -1)
    return np.concatenate([features, telling, np.log(items.n_images)[:, None]], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one reclassifier: inputs float32 [N, F], label int32 [N] (place in the set), margin float32 [N, S], weight [N]."""

    inputs: np.ndarray
    label: np.ndarray
    margin: np.ndarray
    weight: np.ndarray


class RowPicker:
    """Finds the rows of a set: items of its classes, those that stage 1 never saw at weight 1, those it was fitted on at less."""

    def __init__(self, items: Items, evidence: Evidence, target: np.ndarray, config: Stage2Config) -> None:
        """`items`: images, and products of several images, of train, reserve and val_a, with the opinion to start from; `target`
        [K]: the mix that this is shifted to."""
        self.items, self.evidence, self.target, self.config = items, evidence, target, config
        seen = items.on("train")
        self.weight = np.where(seen & (config.rows == "both"), config.seen_weight, 1).astype(np.float32)
        wanted = {"heldout": ~seen, "train": seen, "both": enough(items, config.seen_until)}[config.rows]
        rows = np.flatnonzero(wanted & (self.weight > 0))
        self.order = rows[np.lexsort((seen[rows], items.class_index[rows]))]
        self.sorted_class = items.class_index[self.order]

    def rows(self, members: np.ndarray, only: np.ndarray | None = None) -> TrainingRows:
        """The rows of a set, of those that the mask `only` [items] allows. Their margin is the opinion before, under the rows'
        own class mix, not the target's, so that the trees learn what the inputs add and nothing about how common a category
        is."""
        picked, labels = [], []
        for label, member in enumerate(members):
            span = np.searchsorted(self.sorted_class, [member, member + 1])
            rows = self.order[span[0] : span[1]]
            rows = (rows if only is None else rows[only[rows]])[: self.config.max_rows_per_class]
            picked.append(rows)
            labels.append(np.full(len(rows), label, dtype=np.int32))
        chosen, label = np.concatenate(picked), np.concatenate(labels)
        items, weight = self.items[chosen], self.weight[chosen]
        log_prob = items.log_probs(members)
        if not self.config.base_margin:
            return TrainingRows(inputs(items, members, log_prob, None), label, np.zeros_like(log_prob[:, 0]), weight)
        mix = np.bincount(label, weight, len(members)) + 0.5
        margin = normalise(log_prob[:, 0] + np.log(mix / self.target[members]).astype(np.float32))
        return TrainingRows(inputs(items, members, log_prob, self.evidence), label, margin, weight)


def enough(items: Items, limit: int) -> np.ndarray:
    """Mask of the items to learn from: those that stage 1 never saw, and of a class that has fewer than `limit` of them as many
    others as make it up."""
    seen = items.on("train")
    order = np.lexsort((seen, items.class_index))
    starts = np.flatnonzero(np.r_[True, np.diff(items.class_index[order]) != 0])
    place = np.empty(len(items), dtype=np.int64)
    place[order] = np.arange(len(items)) - np.repeat(starts, np.diff(np.append(starts, len(items))))
    return ~seen | (place < limit)


def fit_booster(rows: TrainingRows, config: Stage2Config) -> xgboost.Booster | None:
    """Trains on one thread. None where fewer than two classes have rows."""
    if len(np.unique(rows.label)) < 2:
        return None
    parameters = config.booster.model_dump(exclude={"n_estimators"}) | {
        "objective": "multi:softprob", "num_class": rows.margin.shape[1], "tree_method": "hist", "max_bin": BINS, "nthread": 1,
        "seed": config.seed, "verbosity": 0, "device": config.device,
    }  # fmt: skip
    data = xgboost.QuantileDMatrix(rows.inputs, rows.label, weight=rows.weight, base_margin=rows.margin, max_bin=BINS, nthread=1)
    return xgboost.train(parameters, data, num_boost_round=config.booster.n_estimators)
