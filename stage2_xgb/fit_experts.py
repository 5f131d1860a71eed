"""Fits the pool of experts on train, extra, reserve and val_a, and its weights on out-of-fold
opinions of reserve and val_a.

The experts of a fold know every row but the fold's own; rows of train, which stage 1 knows too, are
known to all. Neighbours never look at an item's own product, so that one bank serves all folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from catalog.arithmetic import one_blas_thread
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool, Weights, mix_terms
from stage2_xgb.expert_rows import FOLDS, HeldOut, Rows, image_fold, read_rows
from stage2_xgb.experts import LinearExpert, OneHot, highest
from stage2_xgb.items import (
    ItemBlock,
    has_columns,
    images_by_product,
    mean_by_product,
    product_starts,
)
from stage2_xgb.lda import fit_lda
from stage2_xgb.logistic import fit_by_fold
from stage2_xgb.pool_weights import Terms, fit_weights
from stage2_xgb.prior import importance

DISCRIMINANTS, LOGISTIC, COLUMNS, JOINT = "discriminants", "logistic", "columns", "joint"
FIRST_TEMPERATURE = {DISCRIMINANTS: 0.1, LOGISTIC: 1.0, COLUMNS: 1.0, JOINT: 1.0}
"""Inverse temperatures if no held-out item can calibrate: features are far from normal, so that
discriminants are far too sure."""
MIX_TERMS = ("log_ratio", "log_target")
"""What class frequencies add (`mix_terms`)."""
KEPT = 256
"""Classes of an item that the weights are fitted on, at most: the likeliest and the true one."""
_LOWEST = -1e4
"""Score behind the likeliest class, at least, in calibration: it has to be finite."""


@dataclass(frozen=True)
class FittedPool:
    """The pool for new items; for each fold of what stage 1 never saw the pool that knows none of
    its products, with weights that the other folds chose; the linear experts' names; and on how
    many images and products the weights were fitted: 0 if there were none, and the first weights
    stand."""

    pool: ExpertPool
    by_fold: tuple[ExpertPool, ...]
    names: tuple[str, ...]
    weighed: Mapping[str, int]
    seed: int

    def named_weights(self) -> dict[str, dict[str, float]]:
        """Unit -> the weight of each expert, of `log_ratio` and of `log_target`, for one image."""
        experts = ("stage1", *self.names, *(("neighbours",) if self.pool.neighbours else ()))
        bare = {f"{unit} without columns": w for unit, w in self.pool.bare.items()}
        return {
            name: dict(zip((*experts, *MIX_TERMS), weights.plain.tolist(), strict=True))
            for name, weights in {**self.pool.weights, **bare}.items()
        }

    def log_probs(self, images: ItemBlock, unit: str) -> np.ndarray:
        """As ExpertPool.log_probs, but out of fold for images that stage 1 never saw."""
        fold = image_fold(images, self.seed)
        item_fold = fold[product_starts(images.product_id)] if unit == "product" else fold
        out = np.empty((len(item_fold), images.log_probs.shape[1]), dtype=np.float32)
        for number in np.unique(fold).tolist():
            pool = self.pool if number < 0 else self.by_fold[number]
            rows = images.rows(fold == number)
            out[item_fold == number] = pool.log_probs(rows, unit, strangers=False)
        return out

    def distances(self, images: ItemBlock) -> np.ndarray:
        """As ExpertPool.distances, float32 [N, 2], but out of fold for images that stage 1 never
        saw."""
        fold = image_fold(images, self.seed)
        out = np.empty((len(images), 2), dtype=np.float32)
        for number in np.unique(fold).tolist():
            pool, rows = self.pool if number < 0 else self.by_fold[number], fold == number
            out[rows] = np.stack(pool.distances(images.rows(rows)), axis=1)
        return out


def fit_experts(
    views: Views, targets: Mapping[str, np.ndarray], train: np.ndarray, seed: int, jobs: int
) -> FittedPool:
    """Fits everything; `targets` are the target mix [K] of each unit, `train` is the mix [K] that
    stage 1 was shown. `jobs` threads have one thread of arithmetic each: their number changes no
    bit."""
    with one_blas_thread():
        rows, held = read_rows(views, seed, jobs), HeldOut.of(views, seed)
        names = _linear_experts(rows)
        linear = fit_linear(rows) if names else [()] * (FOLDS + 1)
        first = _first_weights(targets, train, 1 + len(names) + (rows.neighbours is not None))
        pools = [ExpertPool(experts, rows.neighbours, first) for experts in linear]
        pools = _calibrated(pools, held, names, targets["image"])
        weights, weighed = _all_weights(pools, held, targets)
        pools = [replace(pool, weights=w) for pool, w in zip(pools, weights, strict=True)]
        if COLUMNS in names:
            bare = _bare_weights(pools, held, targets, train)
            pools = [replace(pool, bare=b) for pool, b in zip(pools, bare, strict=True)]
    *by_fold, whole = pools
    return FittedPool(whole, tuple(by_fold), names, weighed, seed)


def _linear_experts(rows: Rows) -> tuple[str, ...]:
    """The kinds of linear expert that the rows are enough, and not too many, for."""
    if rows.neighbours is None:
        return ()
    possible = {
        DISCRIMINANTS: True,
        LOGISTIC: rows.logistic is not None,
        COLUMNS: rows.coded is not None,
        JOINT: rows.joint is not None,
    }
    return tuple(name for name, can in possible.items() if can)


def fit_linear(rows: Rows) -> list[tuple[LinearExpert, ...]]:
    """The linear experts of each fold, which know all rows but its own, and at the end those of all
    rows."""
    total = rows.total
    sums = [*(total - moments for moments in rows.sums[:FOLDS]), total]
    experts: list[Sequence[LinearExpert]] = [[fit_lda(moments, rows.inputs) for moments in sums]]
    classes = len(total.count)
    if rows.logistic is not None:
        experts.append(fit_by_fold(*rows.logistic, FOLDS, classes, rows.logistic_inputs))
    experts += [coded.fit_by_fold(FOLDS, classes) for coded in (rows.coded, rows.joint) if coded]
    return list(zip(*experts, strict=True))


def _first_weights(
    targets: Mapping[str, np.ndarray], train: np.ndarray, experts: int
) -> dict[str, Weights]:
    """The weights of each unit before any held-out item: experts count the same, and the train mix
    is shifted to the target's."""
    plain = np.r_[np.full(experts, 1 / experts), 1.0, 0.0]
    growth = np.zeros(len(plain))
    return {u: Weights(plain, growth, mix_terms(mix, train)) for u, mix in targets.items()}


def _calibrated(
    pools: Sequence[ExpertPool], held: HeldOut, names: Sequence[str], target: np.ndarray
) -> list[ExpertPool]:
    """The pools with the inverse temperature of each kind of linear expert that fits the held-out
    images best. An image of a class that the fold's experts do not know is left out."""
    linear = [pool.linear for pool in pools]
    for position, name in enumerate(names):
        parts = []
        for fold, images in held.by_fold():
            expert = linear[fold][position]
            known = images.rows(np.isfinite(expert.bias[images.class_index]))
            if isinstance(expert.inputs, OneHot):
                known = known.rows(has_columns(known.codes))
            scores = expert.scores(expert.inputs.of(known))
            scores -= scores.max(axis=1, keepdims=True)
            classes, true_column = keep_likeliest(scores, known.class_index)
            values = np.take_along_axis(scores, classes, axis=1).clip(min=_LOWEST)
            parts.append((values[:, None], true_column, known.class_index))
        inverse = np.array([FIRST_TEMPERATURE[name]])
        if parts:
            values, true_column, class_index = map(np.concatenate, zip(*parts, strict=True))
            terms = Terms(values, true_column, importance(class_index, target))
            inverse = fit_weights(terms, inverse, low=inverse / 1000, high=inverse * 1000)
        for fold, experts in enumerate(linear):
            warm = replace(experts[position], inverse_temperature=float(inverse[0]))
            linear[fold] = (*experts[:position], warm, *experts[position + 1 :])
    return [replace(pool, linear=experts) for pool, experts in zip(pools, linear, strict=True)]


def keep_likeliest(scores: np.ndarray, class_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The KEPT classes int32 [N, C] of the highest scores [N, K], the true ones [N] among them, and
    the true ones' columns [N]."""
    scores = scores.copy()
    scores[np.arange(len(scores)), class_index] = np.inf
    classes = highest(scores, KEPT)
    return classes, (classes == class_index[:, None]).argmax(axis=1)


def _all_weights(
    pools: Sequence[ExpertPool], held: HeldOut, targets: Mapping[str, np.ndarray]
) -> tuple[list[dict[str, Weights]], dict[str, int]]:
    """For each fold, and at the end for new items, each unit's weights; and on how many held-out
    items they were fitted."""
    weights: list[dict[str, Weights]] = [{} for _ in pools]
    weighed = {}
    for unit, target in targets.items():
        items = _terms(pools, held, unit, target)
        weighed[unit] = len(items.fold)
        by_pool = _cross_fitted(items, pools[-1].weights[unit])
        for pool_weights, fitted in zip(weights, by_pool, strict=True):
            pool_weights[unit] = fitted
    return weights, weighed


def _bare_weights(
    pools: Sequence[ExpertPool],
    held: HeldOut,
    targets: Mapping[str, np.ndarray],
    train: np.ndarray,
) -> list[dict[str, Weights]]:
    """For each fold, and for new items, each unit's weights of items without columns: those of the
    pools without their last linear experts, which read columns and weigh nothing here."""
    readers = [isinstance(expert.inputs, OneHot) for expert in pools[-1].linear]
    others = readers.count(False)
    first = _first_weights(targets, train, len(pools[-1]) - sum(readers))
    blind = [replace(pool, linear=pool.linear[:others], weights=first) for pool in pools]
    return [
        {unit: _with_zeros(fitted, 1 + others, sum(readers)) for unit, fitted in weights.items()}
        for weights in _all_weights(blind, held, targets)[0]
    ]


def _with_zeros(weights: Weights, index: int, count: int) -> Weights:
    """The same with terms from this index on that weigh nothing."""
    terms = [index] * count
    plain, growth = (np.insert(x, terms, 0.0) for x in (weights.plain, weights.growth))
    return replace(weights, plain=plain, growth=growth)


@dataclass(frozen=True)
class _HeldTerms:
    """The terms of held-out items' scores, each item's number of images [N] and fold [N]."""

    terms: Terms
    count: np.ndarray
    fold: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "_HeldTerms":
        return _HeldTerms(self.terms[rows], self.count[rows], self.fold[rows])


def _terms(pools: Sequence[ExpertPool], held: HeldOut, unit: str, target: np.ndarray) -> _HeldTerms:
    """The terms of the held-out items' scores, from the pool that knows none of their products.
    Pools that read columns are asked about the items that have some."""
    mix, parts = pools[-1].weights[unit].mix, []
    for fold, every in held.by_fold():
        images = every.rows(has_columns(every.codes)) if pools[fold].reads_columns else every
        if not len(images):
            continue
        opinions, class_index, count = _items(images, pools[fold], unit)
        classes, true_column = keep_likeliest(np.sum(opinions, axis=0), class_index)
        values = np.take_along_axis(opinions, classes[None], axis=2)
        values = np.concatenate([values, mix[:, classes]]).swapaxes(0, 1)
        parts.append((values, true_column, class_index, count, np.full(len(count), fold)))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        terms = Terms(np.zeros((0, len(pools[-1]) + len(mix), 1), np.float32), none, none)
        return _HeldTerms(terms, none, none)
    values, true_column, class_index, count, of_fold = map(np.concatenate, zip(*parts, strict=True))
    return _HeldTerms(Terms(values, true_column, importance(class_index, target)), count, of_fold)


def _cross_fitted(items: _HeldTerms, first: Weights) -> list[Weights]:
    """Weights that the items of all folds but one choose, for each fold; at the end, those of
    all."""
    whole = _fit_weights(items, first)
    by_fold = [_fit_weights(items[items.fold != f], first, whole) for f in range(FOLDS)]
    return [*by_fold, whole]


def _items(
    images: ItemBlock, pool: ExpertPool, unit: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opinions float32 [E, N, K] of images or products, the items' classes [N] and numbers of
    images [N]."""
    opinions = pool.opinions(images)
    if unit == "image":
        return opinions, images.class_index, np.ones(len(images), dtype=np.int64)
    starts = product_starts(images.product_id)
    pooled = np.stack([mean_by_product(x, images.product_id) for x in opinions])
    return pooled, images.class_index[starts], images_by_product(images.product_id)


def _fit_weights(items: _HeldTerms, first: Weights, start: Weights | None = None) -> Weights:
    """Weights of least log-loss; those of experts are at least 0 for a single image. They grow with
    the logarithm of the number of images only if some items have several. The search begins at
    `start`."""
    terms, count, begin = items.terms, items.count, start or first
    size = len(first.plain)
    experts = np.arange(size) < size - len(first.mix)
    low, high = np.where(experts, 0, -1.0), np.where(experts, np.inf, 2.0)
    if (count == 1).all():
        return replace(first, plain=fit_weights(terms, first.plain, low, high, start=begin.plain))
    log_n = np.log(count).astype(np.float32)[:, None, None]
    both = replace(terms, values=np.concatenate([terms.values, log_n * terms.values], axis=1))
    low, high = np.r_[low, np.full(size, -1.0)], np.r_[high, np.full(size, 2.0)]
    ends = (np.r_[weights.plain, weights.growth] for weights in (first, begin))
    best = fit_weights(both, next(ends), low, high, start=next(ends))
    return replace(first, plain=best[:size], growth=best[size:])
