"""Fits a category from a few photos beside a finished second stage: a column of the discriminants,
photos for the neighbours, and what both weigh against all known categories.

What they weigh is fitted on held-out photos of known categories that are treated as new, one after
the other: a few of its photos stand for it, and its own column and photos are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from catalog.arithmetic import one_blas_thread
from catalog.errors import ShelfsortError
from catalog.splits import SPLITS, sample_hash, sample_mask
from catalog.taxonomy import Category
from features.neighbours import unit
from stage2_xgb.addition import NO_POOL, Addition, Known, Newcomer, experts_of
from stage2_xgb.bundle import Bundle
from stage2_xgb.crossfit import folds
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.expert_rows import FITTED, HELD
from stage2_xgb.items import ItemBlock
from stage2_xgb.lda import Moments, discriminants

LEAST, MOST = 5, 20
"""Photos of a new category."""
_FEWEST = 3
"""Photos that stand for a known category treated as new, at least."""
_CATEGORIES = 60
"""Known categories that are treated as new, at most."""
_OTHERS = 2000
"""Photos of other categories that these are compared with, about, at most."""
_FOLDS = 5
OTHERS = ("val_b",)
"""Where these are taken from."""
_PURPOSE = "category as new"


@dataclass(frozen=True)
class Trial:
    """A known category treated as new: its evidence [P, 2] on photos of its own that don't stand
    for it, and [N, 2] on those of other categories."""

    own: np.ndarray
    others: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """Of its photos and the others: both count as much."""
        return np.repeat([0.5 / len(self.own), 0.5 / len(self.others)], self.sizes)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many photos of its own and of others."""
        return len(self.own), len(self.others)


@one_blas_thread()
def fit_addition(
    views: Views,
    evaluated: Bundle,
    answering: Bundle,
    photos: ItemBlock,
    category: Category,
    share: float,
    seed: int,
) -> Addition:
    """A category from LEAST to MOST `photos`, beside the bundle that is `answering`; what evidence
    weighs is fitted with the `evaluated` one, which knows no photo of val_b. `share`: of the
    products, how many are expected to be of it.

    Raises ShelfsortError if the photos are too few or too many, or the bundle has no pool of
    experts with discriminants and neighbours, or no known category has enough held-out photos.
    """
    if not LEAST <= len(photos) <= MOST:
        raise ShelfsortError(
            f"expected {LEAST} to {MOST} photos that can be read and show something, found "
            f"{len(photos)}; more than that are worth a training: ingest them"
        )
    if evaluated.pool is None or answering.pool is None:
        raise ShelfsortError(f"{answering.folder}: {NO_POOL}")
    splits = FITTED if answering.final is None else SPLITS
    (new,) = newcomers(views, answering.pool, [photos], splits)
    tried = list(trials(views, evaluated.pool, len(photos), seed))
    if len(tried) < 2:
        raise ShelfsortError(
            f"{evaluated.folder}: expected at least 2 categories with {2 * _FEWEST} held-out "
            f"photos (reserve and val_a) to learn from, found {len(tried)}; ingest more products"
        )
    return weighed(category, new, tried, share)


def weighed(category: Category, new: Newcomer, tried: Sequence["Trial"], share: float) -> Addition:
    """What known categories treated as new say that the evidence for a new one weighs."""
    slope, intercept = fit_slopes(tried)
    return Addition(category, new, slope, intercept + _log_odds(share), _expected(tried, share))


def newcomers(
    views: Views, pool: ExpertPool, photos: Sequence[ItemBlock], splits: Sequence[str]
) -> list[Newcomer]:
    """What is known of each category that some `photos` stand for, beside a pool that was fitted on
    some splits."""
    lda, expert = experts_of(pool)
    mean = np.stack([lda.inputs.of(images).mean(axis=0) for images in photos])
    moments = Moments.zeros(views.classes, mean.shape[1])
    for split in splits:
        for block in views.features(split, fit_only=True):
            moments.add(lda.inputs.of(block), block.table.class_index)
    weight, bias = discriminants(moments, lda.centre, mean)
    vectors = [unit(expert.projection(expert.inputs(images.features))) for images in photos]
    return list(map(Newcomer, weight.T, bias.tolist(), vectors))


def trials(views: Views, pool: ExpertPool, size: int, seed: int) -> Iterator[Trial]:
    """Known categories treated as new, each with about `size` photos that stand for it."""
    count = views.fitted(*HELD)
    eligible = np.flatnonzero(count >= 2 * _FEWEST)
    chosen = eligible[np.argsort(sample_hash(eligible, _PURPOSE, seed))][:_CATEGORIES]
    wanted = np.isin(np.arange(len(count)), chosen) * 2 * MOST / np.maximum(count, 1)
    held = _images(views, HELD, wanted, seed)
    shown = [_parted(held.rows(held.class_index == c), size) for c in chosen.tolist()]
    if not shown or not views.fitted(*OTHERS).any():
        return
    support, own = zip(*shown, strict=True)
    few = _OTHERS / max(int(views.fitted(*OTHERS).sum()), 1)
    others = _images(views, OTHERS, np.full(len(count), few), seed)
    new, known = newcomers(views, pool, support, FITTED), Known.of(pool, others)
    for c, images, newcomer in zip(chosen.tolist(), own, new, strict=True):
        apart = others.class_index != c
        if len(images) and apart.any():  # else all photos are of the products that stand for it
            of_class, of_others = Known.of(pool, images), known[apart]
            yield Trial(of_class.evidence(newcomer, c), of_others.evidence(newcomer, c))


def _parted(images: ItemBlock, size: int) -> tuple[ItemBlock, ItemBlock]:
    """About `size` of the images of a category that stand for it, and others, of other products."""
    cut = min(size, len(images) // 2)
    support = images.rows(slice(0, cut))
    apart = ~np.isin(images.product_id, support.product_id)
    return support, images.rows(np.flatnonzero(apart)[:MOST])


def _images(views: Views, splits: Sequence[str], share: np.ndarray, seed: int) -> ItemBlock:
    """Fitted images of some splits, of about a `share` [K] of each class's products, product
    by product in an order drawn for the purpose."""
    parts = []
    for split in splits:
        for block in views.features(split, fit_only=True):
            table = block.table
            kept = sample_mask(table.product_id, share[table.class_index], _PURPOSE, seed)
            parts.append(block.rows(kept).items(views.head))
    images = ItemBlock.concatenate(parts)
    return images.rows(np.argsort(sample_hash(images.product_id, _PURPOSE, seed), kind="stable"))


def fit_slopes(trials: Sequence[Trial]) -> tuple[np.ndarray, float]:
    """What evidence weighs, float64 [2], and an intercept, as log-odds if a photo is as likely of
    the new category as of another."""
    x = np.concatenate([evidence for trial in trials for evidence in (trial.own, trial.others)])
    sizes = [n for trial in trials for n in trial.sizes]
    y = np.repeat([1, 0] * len(trials), sizes)
    weight = np.concatenate([trial.weight for trial in trials])
    model = LogisticRegression(C=1.0).fit(x, y, sample_weight=weight * len(trials))
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def _expected(trials: Sequence[Trial], share: float) -> dict[str, float]:
    """The share of photos recognised, and of others taken, by what other categories say."""
    fold = folds(np.arange(len(trials)), _FOLDS, "categories as new", 0)
    recognised, taken = [], []
    for number in np.unique(fold).tolist():
        others = [trial for trial, f in zip(trials, fold, strict=True) if f != number]
        if not others:
            continue
        slope, intercept = fit_slopes(others)
        for trial, f in zip(trials, fold, strict=True):
            if f == number:
                least = -intercept - _log_odds(share)
                recognised.append(float((trial.own @ slope > least).mean()))
                taken.append(float((trial.others @ slope > least).mean()))
    return {
        "categories": float(len(recognised)),
        "recognised": float(np.mean(recognised)) if recognised else 0.0,
        "taken": float(np.mean(taken)) if taken else 0.0,
    }


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))
