"""The plan of a training: its phases, when each ends, and which process takes which photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catalog.errors import ConfigError
from stage1_cnn.config import Stage1Config
from stage1_cnn.dataset import in_parts
from stage1_cnn.processes import Processes


@dataclass(frozen=True)
class Phase:
    """A phase: its name, number (part of every seed), epochs and highest learning rate."""

    name: str
    number: int
    epochs: int
    lr: float


def phases_of(config: Stage1Config) -> list[Phase]:
    """The phases that a configuration asks for; random weights skip the frozen backbone's."""
    head_epochs = 0 if config.weights == "none" else config.head_epochs
    phases = (
        Phase("head", 0, head_epochs, config.head_lr),
        Phase("finetune", 1, config.epochs, config.lr),
    )
    return [phase for phase in phases if phase.epochs]


def finished(phase: Phase, history: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether a phase has had its epochs, or val_a has not improved for `patience` epochs;
    `history` as in metrics.jsonl."""
    top1 = [line["val_top1"] for line in history if line["phase"] == phase.name]
    if len(top1) >= phase.epochs:
        return True
    if patience is None or not top1 or None in top1:  # without images in val_a nothing can improve
        return False
    return len(top1) - 1 - top1.index(max(top1)) >= patience


def check_batch(config: Stage1Config, processes: Processes) -> None:
    """Raises ConfigError if a step has too few images for so many processes and parts."""
    parts = processes.size * config.accumulate
    if config.batch_size < 2 * parts:
        raise ConfigError(
            f"stage1.batch_size: {config.batch_size} images per step in {processes.size} processes "
            f"x {config.accumulate} parts, expected at least {2 * parts}"
        )


def parts_of(
    order: np.ndarray, batch: int, accumulate: int, processes: Processes
) -> Iterator[np.ndarray]:
    """This process's share of each step's photos, in `accumulate` parts."""
    count = processes.size * accumulate
    own = slice(processes.rank * accumulate, (processes.rank + 1) * accumulate)
    return (part for step in in_parts(order, batch) for part in np.array_split(step, count)[own])
