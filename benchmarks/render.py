"""docs/results.md from docs/results/: the template's prose, with the figures of the JSON files.

The template is results.md.j2; the JSON files beside it are those of benchmarks.record and
benchmarks.run_results. Run, after any of them changed: python -m benchmarks.render
"""

import json
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.record import FIELDS
from catalog.artifacts import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "results"
PAGE = FOLDER.with_suffix(".md")
_WIDTH = 120
_AS_IT_IS = re.compile(r"[|#]|$")
"""Start of a line that is not wrapped: a table's, a heading's, an empty one."""


def main() -> None:
    """Writes the page."""
    write_text(PAGE, render())
    print(PAGE)


def render(folder: Path = FOLDER) -> str:
    """The page. Raises ValueError if a file lacks one of the FIELDS, or if no table uses it."""
    files = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    used = set()

    def measured(name: str) -> dict[str, Any] | None:
        used.add(name)
        return files.get(name)

    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {
        "share": share,
        "percent": percent,
        "points": points,
        "mean_share": mean_share,
        "mean_points": mean_points,
        "number": number,
        "median": median,
        "rate": rate,
        "shell": shell,
    }
    page = environment.get_template("results.md.j2").render(measured=measured)
    if unused := files.keys() - used:
        raise ValueError(f"{folder}: results.md.j2 uses no figure of {', '.join(sorted(unused))}")
    return wrapped(page)


def _read(path: Path) -> dict[str, Any]:
    results = json.loads(path.read_text(encoding="utf-8"))
    if missing := [field for field in FIELDS if field not in results]:
        expected = f"expected the fields {', '.join(FIELDS)}"
        raise ValueError(f"{path}: {expected}, found none named {', '.join(missing)}")
    return results


def share(figure: Any) -> str:
    """A share from 0 to 1, such as .4071; with its interval if it has one: .4071 [.3887, .4271]."""
    value, low, high = _interval(figure)
    if value is None:
        return "–"
    if low is None or high is None:
        return _decimal(value)
    return f"{_decimal(value)} [{_decimal(low)}, {_decimal(high)}]"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def points(figure: Any) -> str:
    """A change of a share in points: +2.76; with its interval if it has one, and bold if that
    excludes zero."""
    value, low, high = _interval(figure)
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{100 * value:+.2f}"
    text = f"{100 * value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def mean_share(figures: Sequence[Any]) -> str:
    """Mean and range of several shares."""
    values = _values(figures)
    mean, low, high = map(_decimal, (sum(values) / len(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def mean_points(figures: Sequence[Any]) -> str:
    """Mean and range of several changes, in points."""
    values = [100 * value for value in _values(figures)]
    return f"{sum(values) / len(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def number(value: float | None) -> str:
    """A number with commas between thousands; at most three digits after the point."""
    return "–" if value is None else f"{round(value, 3):,}".removesuffix(".0")


def rate(figure: dict[str, Any]) -> str:
    """A median over rounds by itself, to three or four digits: 25.5, 1,035."""
    return f"{figure['median']:,.{0 if figure['median'] >= 100 else 1}f}"


def median(figure: dict[str, Any]) -> str:
    """A median over rounds, and the rounds: 4.09 (3.9, 4.1, 4.2)."""
    rounds = figure.get("rounds", ())
    listed = f" ({', '.join(map(_rounded, rounds))})" if len(rounds) > 1 else ""
    return _rounded(figure["median"]) + listed


def _rounded(value: float) -> str:
    """Three figures, and all before the point: 0.0148, 1,785."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def shell(command: str) -> str:
    """Commands, one a line, as lines of at most about 100 columns that a shell continues."""
    return "\n".join(" \\\n  ".join(_lines_of(line)) for line in command.splitlines())


def _lines_of(command: str) -> Iterator[str]:
    line = ""
    for option in re.split(r" (?=--)", command):
        if line and len(line) + len(option) > _WIDTH - 20:
            yield line
            line = option
        else:
            line = f"{line} {option}" if line else option
    yield line


def _values(figures: Sequence[Any]) -> list[float]:
    """Those that have items; NaN if none has."""
    return [value for value, _, _ in map(_interval, figures) if value is not None] or [math.nan]


def _interval(figure: Any) -> tuple[float | None, float | None, float | None]:
    if isinstance(figure, dict):
        return figure["value"], figure.get("low"), figure.get("high")
    return figure, None, None


def _decimal(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def wrapped(page: str) -> str:
    """The page with each paragraph wrapped again; tables, headings and code stay as they are."""
    lines, code = [], False
    for line in page.splitlines():
        code ^= line.startswith("```")
        lines.append((line, code or line.startswith("```") or bool(_AS_IT_IS.match(line))))
    out: list[str] = []
    for fixed, group in groupby(lines, key=lambda pair: pair[1]):
        text = [line for line, _ in group]
        out += text if fixed else _paragraph(text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip() + "\n"


def _paragraph(lines: list[str]) -> list[str]:
    """One paragraph, or the items of a list."""
    items = re.split(r"\n(?=- )", "\n".join(line.strip() for line in lines))
    wrapper = textwrap.TextWrapper(_WIDTH, break_long_words=False, break_on_hyphens=False)
    wrapped: list[str] = []
    for item in items:
        wrapper.subsequent_indent = "  " if item.startswith("- ") else ""
        wrapped += wrapper.wrap(item)
    return wrapped


if __name__ == "__main__":
    main()
