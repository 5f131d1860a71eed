"""benchmarks.run_results: finished runs as one JSON file that docs/results.md is rendered from."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

from benchmarks.record import FIELDS
from benchmarks.run_results import same_settings
from catalog.artifacts import read_json
from pipeline import steps
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from pipeline.shipped import CONFIGS
from tests.pipeline.tiny import Tiny

ROOT = Path(__file__).parents[2]


def reconfigured(tiny: Tiny, folder: Path, key: str, value: object) -> Tiny:
    """A copy of the run with one key of config.yaml changed."""
    other = tiny.copy(folder)
    path, (section, name) = folder / "config.yaml", key.split(".")
    config = yaml.safe_load(path.read_text())
    config[section][name] = value
    path.write_text(yaml.safe_dump(config))
    return other


def export(*arguments: object) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "benchmarks.run_results", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def exported(
    tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict, str, list[str], Tiny]:
    """The file of two runs, its text, what was printed when it was written again, and the first
    run."""
    folder = tmp_path_factory.mktemp("exported")
    first, path = tiny.copy(folder / "first"), folder / "tiny.json"
    lines: list[str] = []
    labels = tiny.data / "test_labels.csv"
    steps.score(
        first.run,
        first.config,
        [str(tiny.data / "test.bson")],
        first.folder / "answers",
        labels,
        say=lines.append,
    )
    second = reconfigured(first, folder / "second", "catalog.seed", 7)
    scored = ("--scored", "answers", "--labels", labels, "--json", path)
    export(first.folder, second.folder, *scored)
    before = json.loads(path.read_text())
    for seed in before["figures"]["seeds"]:
        seed["test"]["image"]["natural"]["two_stage"]["top1"]["value"] -= 0.25
    path.write_text(json.dumps(before))
    moved = export(first.folder, second.folder, *scored)
    return json.loads(path.read_text()), path.read_text(), [*lines, *moved.splitlines()], first


def test_the_file_says_how_it_was_made_and_nothing_of_the_machine(
    exported, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found, text, _, first = exported
    assert tuple(found) == FIELDS
    assert (
        found["rounds"] == 2 and found["precision"] == first.run.features.computed_with["precision"]
    )
    assert [seed["seed"] for seed in found["figures"]["seeds"]] == [first.config.catalog.seed, 7]
    assert str(tmp_path_factory.getbasetemp()) not in text and str(ROOT) not in text


def test_twice_the_items_have_the_same_error_and_less_by_chance(exported) -> None:
    found, _, _, first = exported
    for unit, together in found["figures"]["calibration"].items():
        alone = read_json(first.run.metrics_path, "evaluate")[unit]
        assert together["n"] == 2 * alone["natural"]["counts"]["n"]
        assert together["ece"] == pytest.approx(alone["ece"]["two_stage"])
        chance = alone["ece_by_chance"]["two_stage"] / 2**0.5
        assert together["by_chance"] == pytest.approx(chance)


def test_the_command_gives_the_same_configuration(exported) -> None:
    found, _, _, first = exported
    ingest, *others = [shlex.split(line) for line in found["command"].splitlines()]
    assert [line[1] for line in others] == ["stage1", "features", "stage2", "evaluate", "score"]
    overrides = [
        word for word, before in zip(ingest[1:], ingest, strict=False) if before == "--set"
    ]
    assert {"catalog.seed=N", "stage1.seed=N", "stage2.seed=N"} <= set(overrides)
    again = load_config(None, ["jobs=1", *(word.replace("=N", "=0") for word in overrides)])
    assert again == first.config


def test_views_that_a_configuration_has_and_the_run_not_are_replaced(tiny: Tiny) -> None:
    changed = same_settings([tiny.run], CONFIGS / "photos.yaml")
    assert changed["views"] == tiny.config.views and "lite2" not in changed["views"]


def test_figures_are_those_of_the_run(exported) -> None:
    found, _, _, first = exported
    seed, metrics = (
        found["figures"]["seeds"][0],
        json.loads((first.folder / "evaluation" / "metrics.json").read_text()),
    )
    for unit in ("image", "product"):
        one, other = (
            seed["test"][unit]["natural"]["two_stage"]["top1"],
            metrics[unit]["natural"]["two_stage"]["top1"],
        )
        assert one == other
    assert (
        seed["stage2"]["sets"]
        == json.loads((first.folder / "stage2" / "summary.json").read_text())["sets"]
    )
    items = pandas.read_parquet(first.folder / "evaluation" / "items.parquet").query(
        "unit == 'image'"
    )
    assert sum(row["n"] for row in seed["by_support"]) == len(items)
    for system in ("stage1", "shifted", "two_stage"):
        assert (
            sum(row[system] for row in seed["by_support"])
            == (items[f"{system}_true_rank"] == 0).sum()
        )


def test_the_scored_dump_has_the_accuracy_that_score_prints(exported) -> None:
    found, _, said, _ = exported
    scored = found["figures"]["seeds"][0]["scored"]
    line = next(line for line in said if "labelled products" in line)
    assert f"top-1 of {scored['two_stage']['n']} labelled products" in line
    value, low = (100 * scored["two_stage"][name] for name in ("value", "low"))
    assert f"two-stage {value:.1f}% [{low:.1f}," in line


def test_what_moved_is_printed(exported) -> None:
    found, _, said, _ = exported
    name = "test.image.natural.two_stage.top1.value"
    now = found["figures"]["seeds"][0]["test"]["image"]["natural"]["two_stage"]["top1"]["value"]
    row = next(line for line in said if line.startswith(f"| {name} |"))
    before, after, change = row.split(" | ")[1:]
    assert float(after) == pytest.approx(now, abs=1e-4)
    assert float(after) - float(before) == pytest.approx(0.25, abs=1e-3) and change == "+0.2500 |"


def test_runs_of_other_settings_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    other = reconfigured(tiny, tmp_path / "other", "stage1.lr", 0.5)
    with pytest.raises(SystemExit, match=r"found others: stage1\.lr"):
        same_settings([tiny.run, RunFolder(other.folder)], None)
