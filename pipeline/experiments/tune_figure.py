"""The figure of `shelfsort tune stage1`: top-1 on val_a over what was tuned, and the loss of the
range test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from pipeline.figures import AFTER, MUTED, WRONG, new_figure

TITLES = {
    "lr": "learning rate",
    "trainable_blocks": "trainable blocks",
    "validation_share": "validation share",
}


def draw_tuning(
    rows: Sequence[dict],
    range_rows: Sequence[tuple[float, float]],
    advised: float | None,
    out: Path,
) -> None:
    """Writes an SVG. `rows` are those of tune/stage1.csv, `range_rows` the range test's rates and
    losses."""
    with new_figure(11, 6, out) as figure:
        axes = figure.subplots(2, 2).ravel()
        for axis, (varied, title) in zip(axes, TITLES.items(), strict=False):
            _outcomes(axis, [row for row in rows if row["what"] == varied], varied, title)
        _range(axes[3], range_rows, advised)


def _outcomes(axis: Axes, rows: list[dict], column: str, title: str) -> None:
    values = np.array([[row["val_top1"], row["low"], row["high"]] for row in rows])
    positions = np.arange(len(rows))
    axis.errorbar(
        positions,
        values[:, 0],
        np.abs(values[:, 1:].T - values[:, 0]),
        fmt="o",
        color=AFTER,
        capsize=3,
    )
    axis.set_xticks(positions, [str(row[column]) for row in rows])
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.set_title(title)
    axis.set_ylabel(f"top-1 on val_a, {rows[0]['val_images']} images")


def _range(axis: Axes, rows: Sequence[tuple[float, float]], advised: float | None) -> None:
    axis.set_title("range test")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    if rows:
        axis.plot(*np.array(rows).T, color=AFTER)
    if advised:
        axis.axvline(advised, color=WRONG, linewidth=1)
        axis.annotate(
            f" falls fastest at {advised:.2g}", (advised, axis.get_ylim()[1]), va="top", color=MUTED
        )
