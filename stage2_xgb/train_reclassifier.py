"""Trains one reclassifier: picks its rows, and fits the booster."""

from dataclasses import dataclass

import numpy as np
import xgboost

from catalog.splits import sample_hash
from stage1_cnn.head import log_softmax
from stage2_xgb.config import Stage2Config
from stage2_xgb.experts import Columns
from stage2_xgb.items import Items
from stage2_xgb.reclassifier import input_types, inputs


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one reclassifier: inputs float32 [N, F], label int32 [N] (place in the set), margin
    float32 [N, S]."""

    inputs: np.ndarray
    label: np.ndarray
    margin: np.ndarray


class RowPicker:
    """Finds the rows of a set: items of its classes, which stage 1 never saw, or was fitted on."""

    def __init__(
        self,
        items: Items,
        target: np.ndarray,
        config: Stage2Config,
        columns: Columns | None = None,
    ) -> None:
        """`items`: images, and products of several images, of train and of what stage 1 never saw,
        with the opinion to start from and `columns`; `target` [K]: the mix that this is for."""
        self.items, self.target, self.config, self.columns = items, target, config, columns
        order = _row_order(items, config.seed)
        self.order = order[(items.on("train") == (config.rows == "train"))[order]]
        self.sorted_class = items.class_index[self.order]

    def rows(self, members: np.ndarray, only: np.ndarray | None = None) -> TrainingRows:
        """The rows of a set, of those that the mask `only` [items] allows. Their margin is the
        opinion before, under the rows' own class mix, not the target's, so that the trees learn
        what the inputs add and nothing about how common a category is."""
        picked, labels = [], []
        for number, member in enumerate(members):
            span = np.searchsorted(self.sorted_class, [member, member + 1])
            rows = self.order[span[0] : span[1]]
            rows = (rows if only is None else rows[only[rows]])[: self.config.max_rows_per_class]
            picked.append(rows)
            labels.append(np.full(len(rows), number, dtype=np.int32))
        items, label = self.items[np.concatenate(picked)], np.concatenate(labels)
        if not self.config.base_margin:
            margin = np.zeros((len(label), len(members)), dtype=np.float32)
            return TrainingRows(inputs(items, None), label, margin)
        log_prob = items.log_probs(members)
        mix = np.bincount(label, minlength=len(members)) + 0.5
        margin = log_softmax(log_prob + np.log(mix / self.target[members]).astype(np.float32))
        return TrainingRows(inputs(items, log_prob), label, margin)


def _row_order(items: Items, seed: int) -> np.ndarray:
    """The items by class, else in an order of products that says nothing about split or age: where
    a class is cut off, what stays is a sample."""
    by_hash = sample_hash(items.product_id, "rows of a class", seed)
    return np.lexsort((by_hash, items.class_index))


def fit_booster(
    rows: TrainingRows, config: Stage2Config, columns: Columns | None = None
) -> xgboost.Booster | None:
    """Trains on one thread; `columns` are those of the inputs. None where fewer than two classes
    have rows."""
    if len(np.unique(rows.label)) < 2:
        return None
    parameters = config.booster.model_dump(exclude={"n_estimators"}) | {
        "objective": "multi:softprob",
        "num_class": rows.margin.shape[1],
        "tree_method": "hist",
        "nthread": 1,
        "seed": config.seed,
    }
    data = xgboost.QuantileDMatrix(
        rows.inputs,
        rows.label,
        base_margin=rows.margin,
        max_bin=config.booster.max_bin,
        feature_types=input_types(rows.inputs, columns),
        nthread=1,
    )
    return xgboost.train(parameters, data, num_boost_round=config.booster.n_estimators)
