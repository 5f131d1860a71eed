"""docs/results.md is what benchmarks.render makes of docs/results/; the README has its figures."""

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.render import (
    FOLDER,
    PAGE,
    mean_points,
    number,
    points,
    render,
    share,
    shell,
    wrapped,
)

README = PAGE.parents[1] / "README.md"


def test_the_page_is_the_rendered_one() -> None:
    assert PAGE.read_text() == render(), (
        "docs/results.md: render it again with: python -m benchmarks.render"
    )


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(FOLDER, folder / "results"))


def test_a_file_that_no_table_uses_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    shutil.copy(folder / "heap.json", folder / "pile.json")
    with pytest.raises(ValueError, match=r"no figure of pile$"):
        render(folder)


@pytest.mark.parametrize(
    "field", ["command", "revision", "date", "processor", "precision", "rounds", "figures"]
)
def test_a_file_without_a_field_is_refused(tmp_path: Path, field: str) -> None:
    folder = copied(tmp_path)
    figures = json.loads((folder / "heap.json").read_text())
    del figures[field]
    (folder / "heap.json").write_text(json.dumps(figures))
    with pytest.raises(
        ValueError, match=rf"heap\.json: expected the fields .* found none named {field}$"
    ):
        render(folder)


def test_another_figure_is_another_page(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    found = json.loads((folder / "fashion.json").read_text())
    found["figures"]["seeds"][0]["test"]["product"]["natural"]["two_stage"]["top1"]["value"] = (
        0.98765
    )
    (folder / "fashion.json").write_text(json.dumps(found))
    assert "| .9877 [" in render(folder) and "| .9877 [" not in render()


def test_headers_are_filled() -> None:
    for path in FOLDER.glob("*.json"):
        found = json.loads(path.read_text())
        assert all(line.split()[0] for line in found["command"].splitlines()), path
        assert re.fullmatch(r"[0-9a-f]{7,40}\+?", found["revision"]) and re.fullmatch(
            r"\d{4}-\d\d-\d\d", found["date"]
        ), path
        assert {"name", "bf16", "cores", "threads"} == set(found["processor"]), path
        assert found["rounds"] >= 1 and found["figures"], path


def test_every_accuracy_table_says_where_it_was_measured() -> None:
    page = PAGE.read_text()
    for path in FOLDER.glob("*.json"):
        found = json.loads(path.read_text())
        assert (
            found["revision"] in page
            and found["date"] in page
            and found["processor"]["name"] in page
        ), path
        if "split" in found["figures"]:
            assert found["precision"] in ("fp32", "bf16", "fp16"), path


def test_no_path_of_a_machine_stands_in_them() -> None:
    for path in [PAGE, *FOLDER.glob("*.json")]:
        assert not re.search(
            r"(?<![\w.<])/(home|root|tmp|work|mnt|data|Users)\b", path.read_text()
        ), path


def test_the_figures_of_the_readme_stand_on_the_page() -> None:
    section = README.read_text().partition("## What it gains")[2].partition("\n## ")[0]
    figures = re.findall(r"[+-]?\d*\.\d+", section)
    assert len(figures) >= 12
    page = PAGE.read_text()
    assert [figure for figure in figures if figure not in page] == []


def test_numbers_are_written_alike() -> None:
    figure = {"value": 0.0211, "low": 0.0141, "high": 0.0283}
    assert points(figure) == "**+2.11 [+1.41, +2.83]**"
    assert points(figure | {"low": -0.001}) == "+2.11 [-0.10, +2.83]"
    assert points(-0.0055) == "-0.55"
    assert share({"value": 0.40712, "low": 0.3887, "high": 1.0}) == ".4071 [.3887, 1.0000]"
    assert mean_points([0.01, 0.03]) == "+2.00 (+1.00 to +3.00)"
    assert [number(value) for value in (None, 12345, 2.5, 44.0)] == ["–", "12,345", "2.5", "44"]


def test_prose_is_wrapped_and_all_else_is_not() -> None:
    table, code = "| " + "cell | " * 40, "x" * 130
    page = f"# T\n{'word ' * 60}\n\n- {'item ' * 40}\n- short\n\n{table}\n\n```\n{code}\n```\n"
    lines = wrapped(page).splitlines()
    assert table in lines and code in lines and "- short" in lines
    assert all(len(line) <= 120 for line in lines if line not in (table, code))
    assert " ".join(lines[1:4]).split() == ["word"] * 60


def test_a_long_command_can_be_pasted() -> None:
    command = "shelfsort ingest " + " ".join(f"--set stage1.key{i}={i}" for i in range(9))
    text = shell(f"{command}\nshelfsort stage1")
    assert text.replace(" \\\n  ", " ") == f"{command}\nshelfsort stage1"
    assert len(text.splitlines()) > 2 and all(len(line) <= 110 for line in text.splitlines())
