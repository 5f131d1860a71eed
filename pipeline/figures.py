"""What all figures share: colours, style, and how one is saved."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from catalog.artifacts import atomic_path

BEFORE, AFTER, WRONG = "#8f959d", "#0072b2", "#d55e00"
INK, MUTED, LINE = "#1c1e22", "#5f656e", "#e5e4df"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "shelfsort",
}
"""matplotlib's settings: text stays text in an SVG, and its ids are the same each time; a PDF has
TrueType fonts, which printers want."""
WIDTH, HEIGHT = 7.0, 3.6
"""Inches of a figure: the width of a printed page's text, so that 8 to 9 points stay that size."""


@contextlib.contextmanager
def new_figure(width: float, height: float, out: Path) -> Iterator[Figure]:
    """An empty figure in this style, of so many inches, which is saved to `out` if the block
    succeeds: SVG, PNG or PDF, by its suffix. The same drawing gives the same bytes.

    Raises ShelfsortError if `out` can't be written.

        with new_figure(10, 4.8, folder / "curves.svg") as figure:
            figure.add_subplot().plot(epochs, losses)
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(out.suffix)
        with atomic_path(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:], metadata=dated)
