"""Simple systems on the same features, for comparison in `evaluate`: stage 1's head refitted, a
logistic regression on all views, one on all views and the columns, nearest neighbours.

Each is fitted on what the pool of experts sees, or on train alone, and shifted to the target mix
like stage 1, with temperature and strength from val_b, which none of them saw. Nothing is put on
disk.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from catalog.arithmetic import one_blas_thread
from features.neighbours import STRANGER
from stage1_cnn.head import log_softmax
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.expert_rows import FITTED, sample
from stage2_xgb.experts import (
    Inputs,
    LinearExpert,
    NeighbourExpert,
    OneHot,
    bounded,
    highest,
)
from stage2_xgb.items import ItemBlock, mean_by_product, product_starts
from stage2_xgb.logistic import fit_logistic, too_large
from stage2_xgb.prior import Shift, fit_shift, mix

log = logging.getLogger(__name__)

HEAD_TRAIN, HEAD_ALL, LOGISTIC, NEIGHBOURS = "head_train", "head_all", "logistic", "neighbours"
LOGISTIC_COLUMNS = "logistic_columns"
RIVALS = (HEAD_TRAIN, HEAD_ALL, LOGISTIC, LOGISTIC_COLUMNS, NEIGHBOURS)
_CLASSES = 256
"""Classes whose photos neighbours are looked for among, at most: those likeliest to stage 1."""
_SHIFT_IMAGES = 10_000
"""Images of val_b that temperature and strength are fitted on, about, at most."""
_ROWS = 512


@dataclass(frozen=True)
class JointExpert:
    """One logistic regression on all views and the columns side by side; its scores are the sum of
    both parts' scores."""

    views: LinearExpert
    columns: LinearExpert

    def scores(self, images: ItemBlock) -> np.ndarray:
        """Scores float32 [N, K]."""
        both = (self.views, self.columns)
        views, columns = (expert.scores(expert.inputs.of(images)) for expert in both)
        return views + columns


Expert = LinearExpert | JointExpert | NeighbourExpert


@dataclass(frozen=True)
class Rival:
    """One expert and each unit's shift to the target mix."""

    expert: Expert
    shifts: Mapping[str, Shift]

    def log_probs(self, images: ItemBlock, unit: str) -> np.ndarray:
        """Log-probabilities float32 [N, K] of images, or of their products if `unit` is `product`:
        the mean of the images' log-probabilities, as stage 1 has it."""
        return self.shifts[unit](_pooled(opinion(self.expert, images), images, unit))


def opinion(expert: Expert, images: ItemBlock) -> np.ndarray:
    """An expert's log-probabilities float32 [N, K] of single images, before any shift."""
    parts = [
        _opinion(expert, images.rows(slice(start, start + _ROWS)))
        for start in range(0, max(len(images), 1), _ROWS)
    ]
    return np.concatenate(parts)


def _opinion(expert: Expert, images: ItemBlock) -> np.ndarray:
    if isinstance(expert, JointExpert):
        return log_softmax(bounded(expert.scores(images)))
    x = expert.inputs.of(images)
    if isinstance(expert, LinearExpert):
        return log_softmax(bounded(expert.scores(x), expert.inverse_temperature))
    candidates = highest(images.log_probs, _CLASSES)
    scores, strangers = np.zeros_like(images.log_probs), np.full(len(images), STRANGER)
    votes = expert.log_votes(expert.projection(x), strangers, candidates)
    np.put_along_axis(scores, candidates, votes, axis=1)
    return log_softmax(scores)


def _pooled(log_probs: np.ndarray, images: ItemBlock, unit: str) -> np.ndarray:
    if unit == "image":
        return log_probs
    return log_softmax(mean_by_product(log_probs, images.product_id))


@one_blas_thread()
def fit_rivals(
    views: Views, targets: Mapping[str, np.ndarray], pool: ExpertPool | None, seed: int
) -> dict[str, Rival]:
    """The rivals of RIVALS that can be fitted; `targets` are the target mix [K] of each unit. The
    logistic regression on all views and the neighbours are those of the `pool`, each alone."""
    fitted = views.fitted(*FITTED)
    experts: dict[str, tuple[Expert, np.ndarray]] = {
        name: (_fit_head(views, splits), views.fitted(*splits))
        for name, splits in ((HEAD_TRAIN, FITTED[:1]), (HEAD_ALL, FITTED))
        if _possible(name, views, splits, views.first.width)
    }
    if views.columns is not None:
        columns = OneHot(views.columns.sizes)
        width = sum(store.width for store in views.stores) + columns.width
        if _possible(LOGISTIC_COLUMNS, views, FITTED, width):
            experts[LOGISTIC_COLUMNS] = _fit_joint(views, columns), fitted
    if pool is not None and pool.logistic is not None:
        experts[LOGISTIC] = pool.logistic, fitted
    if pool is not None and pool.neighbours is not None:
        experts[NEIGHBOURS] = pool.neighbours, np.diff(pool.neighbours.bank.starts)
    held = list(_held_out(views, seed))
    rivals = {}
    for name in sorted(experts, key=RIVALS.index):
        expert, counts = experts[name]
        rivals[name] = Rival(expert, _fit_shifts(expert, held, mix(counts), targets))
    return rivals


def _possible(name: str, views: Views, splits: Sequence[str], width: int) -> bool:
    counts = views.fitted(*splits)
    if too_large(int(counts.sum()), width, views.classes):
        log.warning("rival %s is left out: its fit would take too long", name)
        return False
    return int((counts > 0).sum()) > 1


def _fit_head(views: Views, splits: Sequence[str]) -> LinearExpert:
    """A logistic regression on stage 1's features of some splits."""
    inputs = Inputs((0,))
    blocks = [block for split in splits for block in views.features(split, fit_only=True)]
    x = np.concatenate([inputs(block.features) for block in blocks])
    class_index = np.concatenate([block.table.class_index for block in blocks])
    return fit_logistic(x, class_index, views.classes, inputs)


def _fit_joint(views: Views, columns: OneHot) -> JointExpert:
    """A logistic regression on all that the pool sees, columns included."""
    inputs = Inputs(tuple(range(len(views.stores))))
    blocks = [block for split in FITTED for block in views.features(split, fit_only=True)]
    x = np.concatenate([np.hstack([inputs(b.features), columns(b.codes)]) for b in blocks])
    class_index = np.concatenate([block.table.class_index for block in blocks])
    fitted = fit_logistic(x, class_index, views.classes, inputs)
    weight, first = fitted.factors[0], x.shape[1] - columns.width
    none = np.zeros_like(fitted.bias)
    return JointExpert(
        LinearExpert(inputs, fitted.centre[:first], (weight[:first],), fitted.bias),
        LinearExpert(columns, fitted.centre[first:], (weight[first:],), none),
    )


def _held_out(views: Views, seed: int) -> Iterator[ItemBlock]:
    for block in sample(views, ("val_b",), _SHIFT_IMAGES, "shift of rivals", seed):
        yield block.items(views.head)


def _fit_shifts(
    expert: Expert,
    held: Sequence[ItemBlock],
    fitted: np.ndarray,
    targets: Mapping[str, np.ndarray],
) -> dict[str, Shift]:
    """Each unit's shift from the mix `fitted` [K] to its target, fitted on held-out images."""
    opinions = [opinion(expert, images) for images in held]
    shifts = {}
    for unit, target in targets.items():
        pairs = list(zip(opinions, held, strict=True))
        log_probs = np.concatenate([_pooled(x, images, unit) for x, images in pairs])
        labels = np.concatenate([_labels(images, unit) for images in held])
        shifts[unit] = fit_shift(log_probs, labels, fitted, target)
    return shifts


def _labels(images: ItemBlock, unit: str) -> np.ndarray:
    rows = slice(None) if unit == "image" else product_starts(images.product_id)
    return images.class_index[rows]
