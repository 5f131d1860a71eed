"""Which photos an epoch shows, and in what order: arrays alone, however many rows.

A place is a number: `row`, or `row + n * rows` for the n-th repeat of a row within the epoch, so
that repeats can look different.
"""

from dataclasses import dataclass

import numpy as np

from stage1_cnn.config import Stage1Config

LEVEL = 98
"""Percentile of the category sizes up to which `levelled` brings the smaller ones, as published."""
_WINDOW = 64


@dataclass(frozen=True)
class Sampler:
    """Draws the places of an epoch; `class_index` [N] of each row, and `disk` [N], numbers that
    rise along the disk."""

    class_index: np.ndarray
    disk: np.ndarray
    config: Stage1Config

    def __len__(self) -> int:
        """Photos an epoch."""
        return int(self.targets().sum())

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Places int64 [len], shuffled."""
        natural = self.config.sampling == "natural"
        places = np.arange(len(self.class_index)) if natural else self._repeated(rng)
        if not self.config.shuffle_block:
            return rng.permutation(places)
        return _shuffled_blocks(places, self.disk, self.config.shuffle_block, rng)

    def targets(self, classes: int = 0) -> np.ndarray:
        """Photos of each category in an epoch, int64 [K]; K is at least `classes`."""
        sizes = np.bincount(self.class_index, minlength=classes)
        if self.config.sampling == "natural" or not len(sizes):
            return sizes
        if self.config.sampling == "levelled":
            level = int(np.ceil(np.percentile(sizes[sizes > 0], LEVEL)))
            return np.where(sizes > 0, np.maximum(sizes, level), 0)
        return np.where(sizes > 0, -(-sizes.sum() // (sizes > 0).sum()), 0)

    def _repeated(self, rng: np.random.Generator) -> np.ndarray:
        """Every category's rows in a random order, over and over until its target is met."""
        sizes, targets = np.bincount(self.class_index), self.targets()
        mixed = rng.permutation(len(self.class_index))
        mixed = mixed[np.argsort(self.class_index[mixed], kind="stable")]
        count = np.repeat(sizes, targets)
        nth = np.arange(targets.sum()) - np.repeat(np.cumsum(targets) - targets, targets)
        rows = mixed[np.repeat(np.cumsum(sizes) - sizes, targets) + nth % count]
        return rows + nth // count * len(self.class_index)


def _shuffled_blocks(
    places: np.ndarray, disk: np.ndarray, block: int, rng: np.random.Generator
) -> np.ndarray:
    """Blocks of neighbours in random order, and the places of each window of blocks mixed: while a
    window is read, its stretch of the disk fits in memory."""
    places = places[np.argsort(disk[places % len(disk)], kind="stable")]
    starts = rng.permutation(np.arange(0, len(places), block))
    windows = (starts[first : first + _WINDOW] for first in range(0, len(starts), _WINDOW))
    mixed = [
        rng.permutation(np.concatenate([places[start : start + block] for start in window]))
        for window in windows
    ]
    return np.concatenate(mixed) if mixed else places
