"""Which photos an epoch shows, and in which order: arrays only, for any number of rows.

A sample index is `row`, or `row + n * rows` for the n-th repeat of a row within the epoch, so that
repeats can look different.
"""

from dataclasses import dataclass

import numpy as np

from stage1_cnn.config import Stage1Config

LEVEL = 98
"""Percentile of the category sizes up to which `levelled` brings the smaller ones, as published."""
_WINDOW = 64


@dataclass(frozen=True)
class Sampler:
    """Draws the sample indices of an epoch; `class_index` [N] is each row's class, `disk` [N]
    numbers that ascend along the disk."""

    class_index: np.ndarray
    disk: np.ndarray
    config: Stage1Config

    def __len__(self) -> int:
        """Photos per epoch."""
        return int(self.targets().sum())

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Sample indices int64 [len], shuffled."""
        natural = self.config.sampling == "natural"
        samples = np.arange(len(self.class_index)) if natural else self._repeated(rng)
        if not self.config.shuffle_block:
            return rng.permutation(samples)
        return _shuffled_blocks(samples, self.disk, self.config.shuffle_block, rng)

    def targets(self, classes: int = 0) -> np.ndarray:
        """Photos per category in an epoch, int64 [K]; K is at least `classes`."""
        sizes = np.bincount(self.class_index, minlength=classes)
        if self.config.sampling == "natural" or not len(sizes):
            return sizes
        if self.config.sampling == "levelled":
            level = int(np.ceil(np.percentile(sizes[sizes > 0], LEVEL)))
            return np.where(sizes > 0, np.maximum(sizes, level), 0)
        return np.where(sizes > 0, -(-sizes.sum() // (sizes > 0).sum()), 0)

    def _repeated(self, rng: np.random.Generator) -> np.ndarray:
        """Each category's rows in a random order, repeated until its target is met."""
        sizes, targets = np.bincount(self.class_index), self.targets()
        mixed = rng.permutation(len(self.class_index))
        mixed = mixed[np.argsort(self.class_index[mixed], kind="stable")]
        count = np.repeat(sizes, targets)
        nth = np.arange(targets.sum()) - np.repeat(np.cumsum(targets) - targets, targets)
        rows = mixed[np.repeat(np.cumsum(sizes) - sizes, targets) + nth % count]
        return rows + nth // count * len(self.class_index)


def _shuffled_blocks(
    samples: np.ndarray, disk: np.ndarray, block: int, rng: np.random.Generator
) -> np.ndarray:
    """Blocks of neighbours in random order, shuffled within each window of blocks: while a window
    is read, its stretch of the disk fits in memory."""
    samples = samples[np.argsort(disk[samples % len(disk)], kind="stable")]
    starts = rng.permutation(np.arange(0, len(samples), block))
    windows = (starts[first : first + _WINDOW] for first in range(0, len(starts), _WINDOW))
    mixed = [
        rng.permutation(np.concatenate([samples[start : start + block] for start in window]))
        for window in windows
    ]
    return np.concatenate(mixed) if mixed else samples
