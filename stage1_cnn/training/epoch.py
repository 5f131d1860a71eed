"""A phase and an epoch under way, and the history of the epochs that ended."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stage1_cnn.mixing import Mixing
from stage1_cnn.training.inputs import CachedFeatures, PhotoInputs
from stage1_cnn.training.learner import Learner, Tally, require_finite
from stage1_cnn.training.plan import Phase, finished


@dataclass(frozen=True)
class ActivePhase:
    """A phase under way: its inputs, what learns from them, and what mixes photos."""

    phase: Phase
    source: PhotoInputs | CachedFeatures
    learner: Learner
    mixing: Mixing


@dataclass(frozen=True)
class Epoch:
    """An epoch under way: its number within the phase, from 1, and how far it is."""

    active: ActivePhase
    number: int
    tally: Tally

    def generator(self, seed: int, *keys: int) -> np.random.Generator:
        """The random generator that follows from the seed, the phase, the epoch, and `keys`."""
        return np.random.default_rng([seed, self.active.phase.number, self.number, *keys])

    def loss_sum(self) -> float:
        """Sum of the losses of all processes so far. Raises ShelfsortError if it is not finite."""
        processes = self.active.learner.compute.processes
        total = processes.total([float(self.tally.loss)])[0]
        return require_finite(total, f"{self.active.phase.name} epoch {self.number}")


class History:
    """The lines of metrics.jsonl, the best of them, and the seconds of training; all of them over
    all restarts."""

    def __init__(self, resumed: Mapping[str, Any]) -> None:
        """`resumed`: the content of last.pt, or empty."""
        self.lines: list[dict[str, Any]] = resumed.get("history", [])
        self.best: dict[str, Any] | None = resumed.get("best")
        self._earlier: float = resumed.get("seconds", 0.0)
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._earlier + time.monotonic() - self._begun

    def epochs_done(self, phase: Phase) -> int:
        """Epochs of a phase that ended."""
        return sum(line["phase"] == phase.name for line in self.lines)

    def finished(self, phase: Phase, patience: int | None) -> bool:
        """Whether a phase has ended, as `plan.finished` says."""
        return finished(phase, self.lines, patience)

    def add(self, line: dict[str, Any]) -> None:
        """Adds an epoch. The best has the highest top-1 on val_a; the last one if val_a is
        empty."""
        self.lines.append(line)
        top1 = line["val_top1"]
        if top1 is None or self.best is None or top1 > self.best["val_top1"]:
            self.best = line

    @property
    def last_is_best(self) -> bool:
        """Whether the last epoch is the best one."""
        return self.best is self.lines[-1]
