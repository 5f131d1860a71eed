"""What speaks for each candidate category of an item: each view's log-probability, and likeness to
the category's fitted photos."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.neighbours import NEAREST, Bank
from stage2_xgb.items import Items

PER_VIEW = (
    "log_prob",
    "behind_first",
    "nearest",
    "nearest_three",
    "class_mean",
    "behind_nearest",
    "vote",
)
COMMON = ("log_train", "log_natural", "log_images")
"""The last inputs of a pair: the same for every item, or for every candidate, so that within one
set they tell nothing apart."""
_VOTERS = 10
_SHARPNESS = 20.0


@dataclass(frozen=True)
class Evidence:
    """Makes the inputs of (item, candidate) pairs.

    banks: a Bank of fitted photos of train and reserve for each view, in projected features.
    log_train, log_natural float32 [K]: log counts of stage 1's training images and of the
    catalogue's.
    """

    banks: tuple[Bank, ...]
    log_train: np.ndarray
    log_natural: np.ndarray

    @cached_property
    def names(self) -> list[str]:
        """Name of each input."""
        return [f"{name}_{view}" for view in range(len(self.banks)) for name in PER_VIEW] + [
            "rank",
            *COMMON,
        ]

    def __call__(self, items: Items, candidates: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
        """Inputs float32 [N, C, P] of the pairs; candidates int [N, C], log_prob float32 [N, V, C]
        of each view for them."""
        parts = []
        for view, bank in enumerate(self.banks):
            mine = log_prob[:, view]
            nearest, mean = bank.cosines(items.z[:, view], items.product_id, candidates)
            best = nearest[:, :, 0]
            with np.errstate(invalid="ignore"):
                behind = best - np.nanmax(np.where(np.isnan(best), -1, best), axis=1, keepdims=True)
            three = np.where(np.isnan(nearest[:, :, :3]), -1, nearest[:, :, :3]).mean(axis=2)
            parts += [
                mine,
                mine - mine.max(axis=1, keepdims=True),
                best,
                three,
                mean,
                behind,
                _votes(nearest),
            ]
        rank = (-log_prob[:, 0]).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        images = np.broadcast_to(np.log(items.n_images)[:, None], candidates.shape)
        parts += [rank, self.log_train[candidates], self.log_natural[candidates], images]
        return np.stack(parts, axis=2).astype(np.float32)


def _votes(nearest: np.ndarray) -> np.ndarray:
    """Share of each candidate [N, C] among the nearest photos of all candidates, closer ones
    counting more."""
    flat = np.where(np.isnan(nearest), -np.inf, nearest).reshape(
        len(nearest), nearest.shape[1] * NEAREST
    )
    voters = min(_VOTERS, flat.shape[1])
    threshold = -np.partition(-flat, voters - 1, axis=1)[:, voters - 1 : voters]
    highest = flat.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weight = np.where(
            (flat >= threshold) & np.isfinite(flat), np.exp(_SHARPNESS * (flat - highest)), 0
        )
    weight = weight.reshape(nearest.shape).sum(axis=2)
    return weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
