"""The figures of `shelfsort compare`: learning curves, and confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.figures import new_figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c1e22", "#8f959d")
"""Distinguishable if colour-blind (Okabe, Ito 2008); further networks repeat them, dashed."""
_PANELS = (
    ("train_loss", "training loss"),
    ("val_loss", "loss on val_a"),
    ("val_top1", "top-1 on val_a"),
)


def draw_curves(logs: Mapping[str, Sequence[list[dict[str, Any]]]], out: Path) -> None:
    """Writes an SVG: loss and accuracy over the epochs; `logs`: per network the lines of
    metrics.jsonl, one list per training, whose mean is drawn."""
    with new_figure(13, 4.4, out) as figure:
        for axis, (key, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            for number, (name, trainings) in enumerate(logs.items()):
                dashed = "--" if number >= len(COLOURS) else "-"
                axis.plot(
                    *_mean(trainings, key), dashed, color=COLOURS[number % len(COLOURS)], label=name
                )
            axis.set(title=title, xlabel="epoch")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _mean(trainings: Sequence[list[dict[str, Any]]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values; a training that stopped earlier counts up to its last epoch."""
    longest = max(map(len, trainings))
    values = np.full((len(trainings), longest), np.nan)
    for row, lines in zip(values, trainings, strict=True):
        row[: len(lines)] = [np.nan if line[key] is None else line[key] for line in lines]
    known = ~np.isnan(values).all(axis=0)
    return np.flatnonzero(known) + 1, np.nanmean(values[:, known], axis=0)


def draw_confusion(confusion: np.ndarray, classes: int, name: str, out: Path) -> None:
    """Writes an SVG: for each true category, in hierarchy order, the shares of its images by
    predicted category; `confusion` int64 [P, 3] (true class, predicted class, images)."""
    true, predicted, count = confusion.T
    matrix = np.zeros((classes, classes), dtype=np.float32)
    np.add.at(matrix, (true, predicted), count)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with new_figure(6.4, 5.6, out) as figure:
        axis = figure.add_subplot()
        shown = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=name, xlabel="predicted class index", ylabel="true class index")
        axis.grid(visible=False)
        figure.colorbar(shown, ax=axis, label="share of the true category's images", shrink=0.8)
