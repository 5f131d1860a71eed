"""Single figures of a run for print and slides, drawn by matplotlib: as SVG, PNG or PDF, whichever
the file's name ends in. Each says how many items it is of, and has 95% intervals where it has
shares."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from catalog.arrays import group_starts
from catalog.errors import ConfigError
from catalog.intervals import wilson
from pipeline.figures import AFTER, BEFORE, HEIGHT, INK, LINE, MUTED, WIDTH, WRONG, new_figure
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.findings import findings_of
from pipeline.run_folder import RunFolder

ACCURACY = LinearSegmentedColormap.from_list(
    "accuracy", [(0.0, WRONG), (0.6, "#efece4"), (1.0, AFTER)]
)
STAGES = (("shifted", BEFORE, "stage 1, adjusted"), ("two_stage", AFTER, "both stages"))
"""Stage 2 starts from stage 1 adjusted to the catalogue's class mix, so that what it adds shows
beside that."""
_LEVELS = {3: AFTER, 2: "#56a0d3", 1: "#a9cde8"}
"""Colours of the levels of the hierarchy that an answer can have."""
_SHARE = PercentFormatter(1, decimals=0)
WITH_INTERVALS = 100
"""Categories up to which each one's interval is drawn: more would hide each other."""


def plot(name: str, run: RunFolder, out: Path) -> Path:
    """Draws one figure of a run to `out`; `name` is a key of FIGURES. Raises ConfigError on another
    name or kind of file."""
    if name not in FIGURES:
        raise ConfigError(f"plot: expected one of {', '.join(FIGURES)}, found {name!r}")
    if Path(out).suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"plot: {out}: expected a file name ending in .svg, .png or .pdf")
    evaluated = EvaluatedRun(run)
    return _draw(name, evaluated, findings_of(evaluated), Path(out))


def write_figures(run: EvaluatedRun, findings: dict, folder: Path) -> list[Path]:
    """Draws all figures as SVG into `folder`; returns their paths."""
    return [_draw(name, run, findings, folder / f"{name}.svg") for name in FIGURES]


def _draw(name: str, run: EvaluatedRun, findings: dict, out: Path) -> Path:
    with new_figure(WIDTH, HEIGHT, out) as figure:
        FIGURES[name](figure, run, findings)
    return out


def _plain(text: str, most: int = 40) -> str:
    """A name as text: matplotlib would read $ as mathematics."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def _count(run: EvaluatedRun) -> str:
    """How many items a figure is about, for its title."""
    n = int((run.items["unit"] == run.unit).sum())
    return f"n = {n:,} {run.unit}s"


def _bars(axes: Axes, x: Any, rows: Sequence[dict[str, Any]], color: str) -> None:
    """95% intervals of `rows` (value, low, high) at the places x."""
    value = np.array([row["value"] for row in rows])
    ends = np.array([[row["low"] for row in rows], [row["high"] for row in rows]])
    axes.errorbar(x, value, np.abs(ends - value), fmt="none", ecolor=color, elinewidth=1, alpha=0.7)


def _nodes(run: EvaluatedRun, level: int) -> pandas.DataFrame:
    """The nodes of a level with the intervals of their accuracies."""
    rows = pandas.read_parquet(run.files.table_path("hierarchy"))
    return rows[(rows["unit"] == run.unit) & (rows["level"] == level)].reset_index(drop=True)


def _per_category(figure: Figure, run: EvaluatedRun, _findings: dict) -> None:
    axes, rows = figure.add_subplot(), run.categories(run.unit)
    size = 6 + 60 * np.sqrt(rows["support"] / max(1, rows["support"].max()))
    level1 = run.taxonomy.families[:, 0]
    starts = group_starts(level1).tolist()
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(level1)], strict=True)):
        if number % 2:
            axes.axvspan(start - 0.5, stop - 0.5, color="#f2f1ed", zorder=0)
        if (stop - start) / len(level1) > 0.06:
            axes.text(
                start,
                1.03,
                _plain(run.taxonomy[start].level1, int(110 * (stop - start) / len(level1))),
                fontsize=8,
                color=MUTED,
            )
    for system, color, label in STAGES:
        axes.scatter(
            rows.index,
            rows[f"{system}_recall"],
            s=size,
            color=color,
            alpha=0.55,
            linewidth=0,
            label=label,
            rasterized=len(rows) > 500,
        )
    if len(rows) <= WITH_INTERVALS:
        nodes = _nodes(run, 3).rename(columns=lambda name: name.removeprefix("two_stage_"))
        nodes = nodes.rename(columns={"accuracy": "value"}).dropna(subset=["value"])
        _bars(axes, nodes.index, nodes[["value", "low", "high"]].to_dict("records"), AFTER)
    axes.set(
        title=f"Accuracy of every category, per {run.unit} ({_count(run)})",
        xlabel="categories in hierarchy order",
        xlim=(-1, len(rows)),
        ylim=(-0.03, 1.08),
    )
    axes.yaxis.set_major_formatter(_SHARE)
    axes.grid(axis="x", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)


def _strongest_confusions(run: EvaluatedRun) -> pandas.DataFrame:
    """Counts of both stages by true and predicted class, the strongest last."""
    rows = run.confusion[
        (run.confusion["unit"] == run.unit)
        & (run.confusion["true_class"] != run.confusion["predicted_class"])
    ]
    table = rows.pivot_table(
        index=["true_class", "predicted_class"],
        columns="system",
        values="count",
        fill_value=0,
        aggfunc="sum",
    )
    return (
        table.reindex(columns=["shifted", "two_stage"], fill_value=0)
        .sort_values(["two_stage", "shifted"], ascending=False)
        .head(15)[::-1]
    )


def _confusion(figure: Figure, run: EvaluatedRun, _findings: dict) -> None:
    table = _strongest_confusions(run)
    axes, y = figure.add_subplot(), np.arange(len(table))
    axes.barh(y + 0.2, table["shifted"], 0.36, color=BEFORE, label="stage 1, adjusted")
    axes.barh(y - 0.2, table["two_stage"], 0.36, color=AFTER, label="both stages")
    names = [
        f"{_plain(run.taxonomy[t].name, 28)}  →  {_plain(run.taxonomy[p].name, 28)}"
        for t, p in table.index
    ]
    axes.set_yticks(y, names)
    n = int((run.items["unit"] == run.unit).sum())
    for side, system in ((0.2, "shifted"), (-0.2, "two_stage")):
        count = table[system].to_numpy(dtype=np.float64)
        low, high = (n * end for end in wilson(count / n, n))
        axes.errorbar(
            count,
            y + side,
            xerr=[count - low, high - count],
            fmt="none",
            ecolor=INK,
            elinewidth=0.8,
        )
    axes.set(
        title=f"The strongest confusions: true category → answer ({_count(run)})",
        xlabel=f"{run.unit}s, with 95% intervals",
    )
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")


def _hierarchy(figure: Figure, run: EvaluatedRun, _findings: dict) -> None:
    """An icicle: one row per level, width by evaluated items, colour by accuracy."""
    axes, rows = figure.add_subplot(), run.categories(run.unit)
    support = rows["support"].to_numpy()
    right = support * rows["two_stage_recall"].fillna(0).to_numpy()
    families = np.column_stack([run.taxonomy.families, np.arange(len(support))])
    for level in range(3):
        _icicle_row(axes, run, families[:, level], support, right, level)
    axes.set(
        title=f"Accuracy over the hierarchy, both stages, with 95% intervals ({_count(run)})",
        xlim=(0, max(1, support.sum())),
        ylim=(3, 0),
        xticks=[],
    )
    axes.set_yticks([0.5, 1.5, 2.5], ["level 1", "level 2", "level 3"])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    scale = matplotlib.cm.ScalarMappable(cmap=ACCURACY)
    figure.colorbar(scale, ax=axes, format=_SHARE, shrink=0.7, pad=0.01).outline.set_visible(False)


def _icicle_row(
    axes: Axes,
    run: EvaluatedRun,
    node: np.ndarray,
    support: np.ndarray,
    right: np.ndarray,
    level: int,
) -> None:
    cuts = group_starts(node)
    width, hits = np.add.reduceat(support, cuts), np.add.reduceat(right, cuts)
    left = np.concatenate([[0], np.cumsum(width)])[:-1]
    color: Colormap = ACCURACY
    edge = 0.8 if len(cuts) < 400 else 0.0
    nodes = _nodes(run, level + 1)
    ends = zip(nodes["two_stage_low"], nodes["two_stage_high"], strict=True)
    for x, w, h, first, (low, high) in zip(left, width, hits, cuts.tolist(), ends, strict=True):
        if not w:
            continue
        axes.add_patch(
            Rectangle(
                (x, level),
                w,
                1,
                facecolor=color(h / w),
                edgecolor="white",
                linewidth=edge,
                rasterized=len(cuts) > 500,
            )
        )
        if w > 0.11 * support.sum():
            name = getattr(run.taxonomy[first], f"level{level + 1}")
            axes.text(
                x + w / 2,
                level + 0.5,
                f"{_plain(name, 14)}\n{h / w:.0%}\n[{low:.0%}, {high:.0%}]",
                ha="center",
                va="center",
                fontsize=8,
            )


def _coverage(figure: Figure, run: EvaluatedRun, findings: dict) -> None:
    axes = figure.add_subplot()
    for system, color, label in STAGES:
        rows = [
            row for row in findings[run.unit][system]["coverage"] if row["accuracy"] is not None
        ]
        x = [row["coverage"] for row in rows]
        axes.plot(x, [row["accuracy"] for row in rows], color=color, label=label)
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(
        title=f"Coverage against accuracy, catalogue mix, with 95% intervals ({_count(run)})",
        xlabel=f"share of {run.unit}s accepted",
        ylabel="right among the accepted",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    axes.xaxis.set_major_formatter(_SHARE)
    axes.yaxis.set_major_formatter(_SHARE)
    axes.legend(loc="lower left")


def _reliability(figure: Figure, run: EvaluatedRun, findings: dict) -> None:
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    for system, color, label in STAGES:
        reliability = findings[run.unit][system]["reliability"]
        bins = [row for row in reliability["bins"] if row["n"]]
        sizes = [20 + 700 * row["share"] for row in bins]
        axes.scatter(
            [row["confidence"] for row in bins],
            [row["accuracy"] for row in bins],
            s=sizes,
            color=color,
            alpha=0.8,
            linewidth=0,
            label=f"{label}, calibration error {reliability['ece']:.1%}",
        )
        ends = [wilson(row["accuracy"], row["n"]) for row in bins]
        each = [
            {"value": row["accuracy"], "low": float(low), "high": float(high)}
            for row, (low, high) in zip(bins, ends, strict=True)
        ]
        _bars(axes, [row["confidence"] for row in bins], each, color)
    axes.set(
        title=f"Reliability, with 95% intervals ({_count(run)})",
        xlabel="confidence",
        ylabel="right",
        xlim=(0, 1.02),
        ylim=(0, 1.03),
    )
    axes.xaxis.set_major_formatter(_SHARE)
    axes.yaxis.set_major_formatter(_SHARE)
    axes.legend(loc="upper left", markerscale=0.5)


def _distribution(figure: Figure, run: EvaluatedRun, findings: dict) -> None:
    sizes, errors = figure.subplots(1, 2)
    trained = np.sort(run.train_images)
    if run.store:
        sizes.plot(
            np.sort(run.store.natural_counts("image")).clip(0.8),
            color=BEFORE,
            label="in the catalogue",
        )
        if cap := run.store.settings.get("caps", {}).get("train"):
            sizes.axhline(cap, color=INK, linewidth=0.8, linestyle="--", label=f"cap {cap}")
    sizes.plot(trained.clip(0.8), color=AFTER, label="trained on")
    sizes.set(
        title=f"Images per category (n = {len(trained):,})",
        xlabel="categories, the smallest first",
        yscale="log",
    )
    sizes.legend(loc="upper left")
    bins = findings[run.unit]["two_stage"]["distance"]
    errors.bar(np.arange(len(bins)), [row["n"] for row in bins], color=AFTER, width=0.85)
    labels = [
        f"{row['low'] if abs(row['low']) < abs(row['high']) else row['high']:+d}" for row in bins
    ]
    errors.set_xticks(
        np.arange(len(bins)), labels, rotation=60 if len(bins) > 10 else 0, fontsize=8
    )
    n = sum(row["n"] for row in bins)
    errors.set(title=f"Errors by distance (n = {n:,})", xlabel="predicted less true class index")
    errors.grid(axis="x", visible=False)


def _training(figure: Figure, run: EvaluatedRun, _findings: dict) -> None:
    loss, accuracy = figure.subplots(1, 2)
    epochs = np.arange(1, len(run.epochs) + 1)
    lines = (
        (loss, "train_loss", BEFORE, "training"),
        (loss, "val_loss", AFTER, "validation"),
        (accuracy, "val_top5", BEFORE, "among the first five"),
        (accuracy, "val_top1", AFTER, "first"),
    )
    for axes, key, color, label in lines:
        axes.plot(
            epochs,
            [row[key] for row in run.epochs],
            color=color,
            label=label,
            marker="o",
            markersize=3,
        )
        axes.set(xlabel="epoch" if run.epochs else "this run has no training log")
        axes.legend()
    loss.set(title="Loss")
    n = run.validation_images
    if n and run.epochs:
        low, high = wilson(np.array([row["val_top1"] for row in run.epochs], dtype=float), n)
        accuracy.fill_between(epochs, low, high, color=AFTER, alpha=0.15, linewidth=0)
    accuracy.set(title=f"On validation (n = {n:,} images)" if n else "On validation", ylim=(0, 1))
    accuracy.yaxis.set_major_formatter(_SHARE)


def _promises(figure: Figure, run: EvaluatedRun, _findings: dict) -> None:
    """What each promise accepts of the test split, by level, and how much of that is right."""
    axes, rows = figure.add_subplot(), run.metrics["promises"]
    for y, row in enumerate(rows):
        start = 0.0
        for level in row["levels"]:
            share = level["accepted"]["value"] or 0.0
            axes.barh(y, share, left=start, color=_LEVELS[level["level"]], height=0.6)
            start += share
        axes.barh(y, 1 - start, left=start, color=LINE, height=0.6)
        right = row["right"]
        caption = "nothing can be promised"
        if right["value"] is not None:
            caption = f"{right['value']:.1%} right [{right['low']:.1%}, {right['high']:.1%}]"
        axes.text(0.01, y + 0.36, caption, color=INK, fontsize=8)
    for name, color in (*((f"level {n}", c) for n, c in _LEVELS.items()), ("for review", LINE)):
        axes.barh(0, 0, color=color, label=name)
    axes.set(
        title=f"Promised precision on the test split, with 95% intervals ({_count(run)})",
        xlabel="share of products",
        xlim=(0, 1),
        ylim=(-0.5, len(rows) - 0.3),
    )
    axes.set_yticks(range(len(rows)), [f"{row['precision']:.0%}" for row in rows])
    axes.xaxis.set_major_formatter(_SHARE)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)


FIGURES: dict[str, Callable[[Figure, EvaluatedRun, dict], None]] = {
    "per-category": _per_category,
    "confusion": _confusion,
    "hierarchy": _hierarchy,
    "coverage": _coverage,
    "reliability": _reliability,
    "distribution": _distribution,
    "training": _training,
    "promises": _promises,
}
