"""Trains one reclassifier: picks its rows, and fits the booster or the regression."""

from dataclasses import dataclass

import numpy as np
import xgboost
from sklearn.linear_model import LogisticRegression

from catalog.splits import sample_hash
from stage1_cnn.head import normalise
from stage2_xgb.config import Stage2Config
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items
from stage2_xgb.reclassifier import inputs


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one reclassifier: inputs float32 [N, F], label int32 [N] (place in the set), margin
    float32 [N, S], weight [N]."""

    inputs: np.ndarray
    label: np.ndarray
    margin: np.ndarray
    weight: np.ndarray


class RowPicker:
    """Finds the rows of a set: items of its classes, those that stage 1 never saw at weight 1,
    those it was fitted on at less."""

    def __init__(
        self, items: Items, evidence: Evidence, target: np.ndarray, config: Stage2Config
    ) -> None:
        """`items`: images, and products of several images, of train, reserve and val_a, with the
        opinion to start from; `target` [K]: the mix that this is shifted to."""
        self.items, self.target, self.config = items, target, config
        self.evidence = (
            evidence if config.base_margin else None
        )  # without a margin, features alone are seen
        seen = items.on("train")
        self.weight = np.where(seen & (config.rows == "both"), config.seen_weight, 1).astype(
            np.float32
        )
        wanted = {
            "heldout": ~seen,
            "train": seen,
            "both": enough(items, config.seen_until, config.seed),
        }[config.rows]
        order = _row_order(items, config.seed)
        self.order = order[(wanted & (self.weight > 0))[order]]
        self.sorted_class = items.class_index[self.order]

    def rows(self, members: np.ndarray, only: np.ndarray | None = None) -> TrainingRows:
        """The rows of a set, of those that the mask `only` [items] allows. Their margin is the
        opinion before, under the rows' own class mix, not the target's, so that the trees learn
        what the inputs add and nothing about how common a category is."""
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
        margin = np.zeros_like(log_prob[:, 0])
        if self.config.base_margin:
            mix = np.bincount(label, weight, len(members)) + 0.5
            margin = normalise(
                log_prob[:, 0] + np.log(mix / self.target[members]).astype(np.float32)
            )
        return TrainingRows(inputs(items, members, log_prob, self.evidence), label, margin, weight)


def _row_order(items: Items, seed: int) -> np.ndarray:
    """The items by class, those that stage 1 never saw first, else in an order of products that
    says nothing about split or age: wherever a class is cut off, what stays is a sample."""
    by_hash = sample_hash(items.product_id, "rows of a class", seed)
    return np.lexsort((by_hash, items.on("train"), items.class_index))


def enough(items: Items, limit: int, seed: int) -> np.ndarray:
    """Mask of the items to learn from: all that stage 1 never saw; classes with fewer than `limit`
    of these are topped up with a sample of others."""
    seen, order = items.on("train"), _row_order(items, seed)
    starts = np.flatnonzero(np.r_[True, np.diff(items.class_index[order]) != 0])
    place = np.empty(len(items), dtype=np.int64)
    place[order] = np.arange(len(items)) - np.repeat(starts, np.diff(np.append(starts, len(items))))
    return ~seen | (place < limit)


def fit_booster(rows: TrainingRows, config: Stage2Config) -> xgboost.Booster | None:
    """Trains on one thread. None where fewer than two classes have rows."""
    if len(np.unique(rows.label)) < 2:
        return None
    parameters = config.booster.model_dump(exclude={"n_estimators"}) | {
        "objective": "multi:softprob",
        "num_class": rows.margin.shape[1],
        "tree_method": "hist",
        "nthread": 1,
        "seed": config.seed,
        "verbosity": 0,
        "device": config.device,
    }
    data = xgboost.QuantileDMatrix(
        rows.inputs,
        rows.label,
        weight=rows.weight,
        base_margin=rows.margin,
        max_bin=config.booster.max_bin,
        nthread=1,
    )
    return xgboost.train(parameters, data, num_boost_round=config.booster.n_estimators)


def fit_logistic(rows: TrainingRows, strength: float = 0.1) -> dict[str, np.ndarray] | None:
    """The arrays of a Logistic. None where fewer than two classes have rows."""
    classes = np.unique(rows.label)
    if len(classes) < 2:
        return None
    seen = np.nan_to_num(rows.inputs)
    mean, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    model = LogisticRegression(C=strength, max_iter=200).fit(
        (seen - mean) / scale, rows.label, sample_weight=rows.weight
    )
    weight = np.zeros((rows.margin.shape[1], seen.shape[1]), dtype=np.float32)
    bias = np.full(len(weight), -30.0, dtype=np.float32)  # a member without rows is never chosen
    if len(classes) == 2:
        weight[classes[1]], bias[classes] = model.coef_[0], [0, model.intercept_[0]]
    else:
        weight[classes], bias[classes] = model.coef_, model.intercept_
    return {
        "mean": mean.astype(np.float32),
        "scale": scale.astype(np.float32),
        "weight": weight,
        "bias": bias,
    }
