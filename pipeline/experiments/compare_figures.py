"""The figures of `shelfsort compare`: how each network learnt, and what it takes for what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catalog.artifacts import atomic_path
from pipeline.report.figures import STYLE

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c1e22", "#8f959d")
"""Told apart by the colour-blind too (Okabe, Ito 2008); after these they come again, dashed."""
_PANELS = (
    ("train_loss", "training loss"),
    ("val_loss", "loss on val_a"),
    ("val_top1", "top-1 on val_a"),
)


def draw_curves(logs: Mapping[str, Sequence[list[dict[str, Any]]]], out: Path) -> None:
    """Writes an SVG: loss and accuracy over the epochs; `logs`: of each network the lines of
    metrics.jsonl, a list a training, of which the mean is drawn."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 4.4), layout="constrained")
        for axis, (key, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            for number, (name, trainings) in enumerate(logs.items()):
                dashed = "--" if number >= len(COLOURS) else "-"
                axis.plot(
                    *_mean(trainings, key), dashed, color=COLOURS[number % len(COLOURS)], label=name
                )
            axis.set(title=title, xlabel="epoch")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _save(figure, out)


def _mean(trainings: Sequence[list[dict[str, Any]]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values; one that stopped earlier counts as long as it lasted."""
    longest = max(map(len, trainings))
    values = np.full((len(trainings), longest), np.nan)
    for row, lines in zip(values, trainings, strict=True):
        row[: len(lines)] = [np.nan if line[key] is None else line[key] for line in lines]
    known = ~np.isnan(values).all(axis=0)
    return np.flatnonzero(known) + 1, np.nanmean(values[:, known], axis=0)


def draw_confusion(confusion: np.ndarray, classes: int, name: str, out: Path) -> None:
    """Writes an SVG: of each true category, in hierarchy order, the share that is taken for each;
    `confusion` int64 [P, 3]."""
    true, predicted, count = confusion.T
    matrix = np.zeros((classes, classes), dtype=np.float32)
    np.add.at(matrix, (true, predicted), count)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axis: Axes = figure.add_subplot()
        shown = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=name, xlabel="predicted class index", ylabel="true class index")
        axis.grid(visible=False)
        figure.colorbar(shown, ax=axis, label="share of the true category's images", shrink=0.8)
        _save(figure, out)


def _save(figure: Figure, out: Path) -> None:
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
