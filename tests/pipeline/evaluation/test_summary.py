"""The page of the test split: its figures against metrics.json, and computed again from the
items."""

import json
import re

import numpy as np
import pandas
import pytest

from pipeline import steps
from pipeline.evaluation.measures import measure, reliability
from pipeline.evaluation.summary import CHANGES, METRICS, NOTHING, SYSTEMS, summary
from tests.pipeline.evaluation.test_evaluate import CLASSES, made_items, slow
from tests.pipeline.tiny import Tiny

MIXES = [(unit, mix) for unit in ("image", "product") for mix in ("natural", "balanced")]


@pytest.fixture(scope="module")
def text(tiny: Tiny) -> str:
    """The page of the tiny run."""
    return (tiny.folder / "evaluation" / "summary.txt").read_text()


@pytest.fixture(scope="module")
def metrics(tiny: Tiny) -> dict:
    """What it is made from."""
    return json.loads((tiny.folder / "evaluation" / "metrics.json").read_text())


def block(text: str, unit: str, mix: str) -> str:
    """The rows of one mix."""
    return re.search(rf"  per {unit}, {mix} mix .*\n((?: {{4,}}.*\n)+)", text)[1]


def numbers(row: str) -> list[float]:
    """All numbers of a row."""
    return [float(found) for found in re.findall(r"[+-]?\d+\.\d+", row)]


@pytest.mark.parametrize(("unit", "mix"), MIXES)
def test_every_row_has_the_figures_of_metrics_json(
    text: str, metrics: dict, unit: str, mix: str
) -> None:
    found, rows = metrics[unit][mix], block(text, unit, mix)
    counts = found["counts"]
    more = (
        f", {counts['groups']} independent"
        if mix == "natural"
        else f" of >= {counts['min_support']} independent products"
    )
    assert (
        f"  per {unit}, {mix} mix (n {counts['n']}, {counts['categories']} categories{more})\n"
        in text
    )
    for system in ("stage1", "shifted", "two_stage"):
        expected = [
            found[system][metric][bound] for metric in METRICS for bound in ("value", "low", "high")
        ]
        (row,) = re.findall(rf"^ +{SYSTEMS[system]} (\d.*)$", rows, re.MULTILINE)
        assert numbers(row) == [round(value, 4) for value in expected]
    change = found["changes"]["two_stage_over_shifted"]
    expected = [
        100 * change[metric][bound] for metric in METRICS for bound in ("value", "low", "high")
    ]
    (row,) = re.findall(r"two-stage over adjusted ([+-].*) points$", rows, re.MULTILINE)
    assert numbers(row) == pytest.approx(expected, abs=0.00501)


@pytest.mark.parametrize("unit", ["image", "product"])
def test_the_figures_follow_from_the_items(tiny: Tiny, text: str, metrics: dict, unit: str) -> None:
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet").query("unit == @unit")
    weight, rows = items["weight"].to_numpy(), block(text, unit, "natural")
    right = {
        system: (items[f"{system}_class"] == items["class_index"]).to_numpy()
        for system in ("shifted", "two_stage")
    }
    for system, hit in right.items():
        (row,) = re.findall(rf"^ +{SYSTEMS[system]} (\d.*)$", rows, re.MULTILINE)
        assert numbers(row)[::3] == pytest.approx(
            list(slow(items, system, weight).values()), abs=0.000051
        )
        ece = reliability(items[f"{system}_confidence"].to_numpy(), hit, weight)["ece"]
        assert re.search(
            rf"per {unit}: expected calibration error.* {SYSTEMS[system]} {ece:.4f}", text
        )
    fixed, broken = (
        int((right[new] & ~right[old]).sum())
        for new, old in (("two_stage", "shifted"), ("shifted", "two_stage"))
    )
    assert (
        fixed
        and broken
        and f"  per {unit}: {fixed} {unit}s fixed, {broken} broken, net {fixed - broken:+}\n"
        in text
    )
    moved = metrics[unit]["categories_changed"]
    better, worse = len(moved["better"]), len(moved["worse"])
    assert (
        f"  per {unit}: {better} categories significantly better with stage 2, {worse} worse\n"
        in text
    )
    needed = (
        f"one would have been called worse from {moved['needed']} "
        f"of {moved['needed']} products broken"
    )
    assert (
        f"of {moved['moved']} categories that moved, {needed}; {moved['noticeable']} have so many\n"
        in text
    )


def test_it_says_what_stage_2_is(tiny: Tiny, text: str, metrics: dict) -> None:
    trained = json.loads((tiny.run.stage2 / "summary.json").read_text())
    assert metrics["stage2"] == {
        key: trained[key] for key in ("sets", "models", "default", "answers")
    }
    first = (
        f"stage 2: {trained['sets']} confusion sets, {trained['models']} "
        f"reclassifiers, {trained['answers']['own']} used; "
    )
    assert (
        trained["models"]
        and text.startswith(first)
        and text.endswith(f"seconds: {metrics['seconds']:.1f}\n")
    )


def test_evaluate_prints_what_it_writes(tiny: Tiny, text: str) -> None:
    said: list[str] = []
    steps.evaluate(tiny.run, tiny.config, rebuild=False, say=said.append)
    path = tiny.folder / "evaluation"
    assert said[0] == f"evaluate: current ({path / 'metrics.json'})"
    assert "\n".join(said[1:]) + "\n" == text == (path / "summary.txt").read_text()


def test_the_published_second_stage_stands_beside_where_it_was_trained(
    metrics: dict, text: str
) -> None:
    """Answers of stage 1 in its place, except the first item, which it breaks."""
    assert "published" not in text
    items = made_items()
    for column in ("class", "true_rank", "confidence"):
        items[f"published_{column}"] = items[f"stage1_{column}"]
    first = int(np.flatnonzero(items["stage1_true_rank"] == 0)[0])
    items.loc[first, ["published_class", "published_true_rank"]] = (
        (items.loc[first, "class_index"] + 1) % CLASSES,
        1,
    )
    found = measure(items, CLASSES, min_support=5)
    page = summary(metrics | {"image": found, "product": found})
    rows = block(page, "image", "natural")
    loss = -100 * items["weight"][first] / items["weight"].sum()
    assert re.search(rf" +{CHANGES['published_over_stage1']} {loss:+.2f} \[.* points\n", rows)
    assert f" published {found['natural']['published']['top1']['value']:.4f} [" in rows
    assert f", published {found['ece']['published']:.4f}; by chance " in page
    assert max(map(len, page.splitlines())) <= 130 and len(page.splitlines()) <= 53


def test_nothing_is_said_of_no_items(metrics: dict) -> None:
    """No category has a hundred products: no balanced figure and no macro F1, in the place of zeros
    that would look measured."""
    found = measure(made_items(), CLASSES, min_support=100)
    page = summary(metrics | {"image": found, "product": found})
    assert re.search(
        rf" two-stage +{NOTHING} +{NOTHING} +{NOTHING}\n", block(page, "image", "balanced")
    )
    assert re.search(
        rf" two-stage over adjusted +\S+ \[.*\] +{NOTHING} points\n",
        block(page, "image", "natural"),
    )
    assert "0.0000 [0.0000" not in page


def test_shared_pictures_near_twins_and_what_is_not_counted(metrics: dict, text: str) -> None:
    """All three are printed if they exist, and a warning only of many near twins."""
    linked = metrics["product"]["linked"]
    some = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 40}
    with_linked = metrics["product"] | {
        "linked": linked | {"with": dict.fromkeys(linked["with"], some)}
    }
    page = summary(metrics | {"product": with_linked, "without_photo": 3})
    assert "per product: two-stage top-1 of 40 sharing one: 0.2500 [0.2000, 0.3000]\n" in page
    assert (
        "3 test products are not counted: none of their photos can be read and shows something\n"
        in page
    )
    assert "WARNING" not in summary(
        metrics | {"near_twins": metrics["near_twins"] | {"suspicious": False}}
    )
    twins = metrics["near_twins"] | {"share": some, "suspicious": True, "top1_with": some}
    page = summary(metrics | {"near_twins": twins})
    assert "near twins: 25.0% [20.0%, 30.0%] of 40 sampled test photos have one" in page
    assert "WARNING" in page and "0.2500 [0.2000, 0.3000] with a twin" in page
