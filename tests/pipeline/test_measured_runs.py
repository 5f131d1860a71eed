"""The benchmarks of finished runs, on the tiny one: promises, two runs side by side, and categories
that were left out."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import new_category, paired, promises
from catalog.synthetic.dump import SyntheticSpec
from pipeline.demo import write_synthetic
from pipeline.run_folder import RunFolder
from tests.pipeline.tiny import ONE_VIEW, Tiny


def figures(module: Any, monkeypatch: pytest.MonkeyPatch, path: Path, *words: object) -> Any:
    """What a benchmark's main writes."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words), "--json", str(path)])
    module.main()
    return json.loads(path.read_text())["figures"]


def labelled(tiny: Tiny) -> list[object]:
    """The options that name the second dump."""
    return ["--labels", tiny.data / "test_labels.csv"]


def test_promises(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [tiny.folder, "--dump", tiny.data / "test.bson", *labelled(tiny)]
    words += ["--mix", "natural", "balanced", "--folder", tmp_path / "predictions"]
    (seed,) = figures(promises, monkeypatch, tmp_path / "found.json", *words)["seeds"]
    kinds = [(row["mix"], row["promise"]) for row in seed["rows"]]
    assert kinds == [(mix, p) for mix in ("natural", "balanced") for p in (0.9, 0.95, 0.98)]
    for row in seed["rows"]:
        assert row["accepted"] + row["review"] == pytest.approx(1)
        assert sum(row["levels"]) == pytest.approx(row["accepted"])
        assert (row["accepted"] > 0) == ("all" in row["right"])
    assert set(seed["top1"]) == {"natural", "balanced"}


def test_two_runs_side_by_side(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tiny.copy(tmp_path / name).folder for name in ("a", "b")]
    words = [*runs, "--dump", tiny.data / "test.bson", *labelled(tiny)]
    found = figures(paired, monkeypatch, tmp_path / "found.json", *words)
    sizes = {name: row["change"]["n"] for name, row in found.items()}
    assert sizes["all"] == sizes["held_out"] + sizes["test"] + sizes["dump"]
    for row in found.values():
        assert row["change"]["value"] == 0 and row["without"] == row["with"]


@pytest.mark.slow
def test_categories_that_were_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_category, "LEFT_OUT", 2)
    monkeypatch.setattr(new_category, "ENOUGH", (20, 3))
    data = tmp_path / "data"
    write_synthetic(data, SyntheticSpec(categories=8, products=720, side=32))
    files = [(f"--{name}", data / file) for name, file in FILES.items()]
    words = [word for pair in files for word in pair] + ["--folder", tmp_path]
    words += [word for setting in ONE_VIEW for word in ("--set", setting)]
    found = figures(new_category, monkeypatch, tmp_path / "found.json", *words)
    assert found["left_out"] == 2
    assert [(row["photos"], row["added"]) for row in found["rows"]][:2] == [(5, 1), (5, 2)]
    left_out = json.loads((tmp_path / "left_out.json").read_text())
    known = RunFolder(tmp_path / "run").store.taxonomy.category_ids.tolist()
    assert len(known) == 6 and not set(known) & set(left_out)


FILES = {
    "dump": "train.bson",
    "categories": "category_names.csv",
    "test": "test.bson",
    "labels": "test_labels.csv",
}
