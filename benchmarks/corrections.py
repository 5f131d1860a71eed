"""What corrections by the report's advice do to accuracy, on finished demo runs, whose true
categories the drawn catalogue knows.

A reviewer goes through the first --judged doubts of the report: `looked` corrects each wrong label
to the true category and leaves the right ones, `blind` takes every suggestion without a look. Both
are ingested into a copy of the run, which is then brought up to date. Accuracy is of both stages
per product of the test split, plain, against the truth and as measured, by the labels of the run;
and of the second dump, whose labels are the truth. Claim: against the truth it rises with `looked`.
Run: python -m benchmarks.corrections runs/demo-0 [runs/demo-1 ...] [--judged N] [--json FILE]
"""

import csv
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks import record
from catalog.artifacts import read_json
from catalog.intervals import clustered_change, clustered_share
from catalog.labels import read_labels
from catalog.sources.keys import Key
from catalog.synthetic.dump import SyntheticSpec, categories, plan
from pipeline import steps
from pipeline.config import load_config
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.label_issues import review_table
from pipeline.run_folder import RunFolder

FIRST = (5, 10, 20, 40)
"""Doubts among which the wrong labels are counted."""


def main() -> None:
    """Prints a line per run and reviewer."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--judged", type=int, default=60, help="doubts that are judged (60)")
    options = parser.parse_args()
    figures = [measure(run, options.judged) for run in options.runs]
    record.save(options.json, {"judged": options.judged, "runs": figures}, rounds=len(figures))


def measure(folder: Path, judged: int) -> dict[str, Any]:
    """The figures of one run."""
    truth = truth_of(folder)
    review, _ = review_table(EvaluatedRun(RunFolder(folder)))
    doubts = review[review["kind"] == "doubt"].head(judged)
    ids = RunFolder(folder).store.taxonomy.category_ids
    right = truth[doubts["product_id"]].to_numpy()
    wrong = ids[doubts["class_index"]] != right
    counts = {str(n): int(wrong[:n].sum()) for n in FIRST}
    found: dict[str, Any] = {"run": folder.name, "judged": len(doubts), "wrong": int(wrong.sum())}
    found |= {"wrong_among_first": counts, "wrong_in_catalogue": wrong_labels(folder, truth)}
    reviewers = {"looked": np.where(wrong, right, -1), "blind": ids[doubts["suggested_class"]]}
    for name, categories_given in reviewers.items():
        pairs = zip(doubts["product_id"], categories_given.tolist(), strict=True)
        corrections = {int(product): category for product, category in pairs if category >= 0}
        found[name] = after(folder, corrections, truth)
        found[name]["corrected"] = len(corrections)
        print(f"{folder.name}, {name}: {len(corrections)} labels corrected; percentage points")
        for what in ("against_truth", "measured", "second_dump"):
            change = found[name][what]["change"]
            points = [100 * change[key] for key in ("value", "low", "high")]
            print("  {}: {:+.2f} [{:+.2f}, {:+.2f}]".format(what, *points))
    return found


def truth_of(folder: Path) -> pandas.Series:
    """Product id -> true category id of the run's drawn catalogue."""
    spec = SyntheticSpec(**read_json(folder / "data" / "synthetic.json", "demo"))
    ids = np.array([category.category_id for category in categories(spec)])
    return pandas.Series(
        ids[plan(spec).category], index=spec.first_product_id + np.arange(spec.products)
    )


def wrong_labels(folder: Path, truth: pandas.Series) -> int:
    """Products of the store whose label is not the truth."""
    query = "SELECT product_id, category_id FROM products JOIN categories USING (class_index)"
    rows = np.array(RunFolder(folder).store.connection.execute(query).fetchall())
    return int((truth[rows[:, 0]].to_numpy() != rows[:, 1]).sum())


def after(folder: Path, corrections: dict[int, int], truth: pandas.Series) -> dict[str, Any]:
    """What a copy of the run answers after these corrections, beside what it answered before."""
    with tempfile.TemporaryDirectory() as temporary:
        run = RunFolder(Path(temporary) / "run")
        shutil.copytree(folder, run.folder)
        path = Path(temporary) / "corrections.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("product_id", "category_id"), *corrections.items()])
        config = load_config(run.config_path)
        data, out = run.folder / "data", Path(temporary) / "predictions"
        dump, names = [str(data / "train.bson")], data / "category_names.csv"
        steps.ingest(run, config, dump, names, False, corrections=path, say=_silent)
        for step in (steps.stage1, steps.features, steps.stage2, steps.evaluate):
            step(run, config, False, _silent)
        steps.score(run, config, [str(data / "test.bson")], out, say=_silent)
        labels = read_labels(data / "test_labels.csv")
        return compared(folder, run.folder, truth) | {
            "second_dump": scored(folder / "predictions", out, labels)
        }


def _silent(_line: str) -> None:
    pass


def compared(before: Path, now: Path, truth: pandas.Series) -> dict[str, Any]:
    """Accuracy of two evaluations of the same products, and its change, by both yardsticks."""
    ids = RunFolder(before).store.taxonomy.category_ids
    old, new = (products(folder) for folder in (before, now))
    true = truth[new.index].to_numpy()
    yardsticks = {
        "against_truth": (true, true),
        "measured": (ids[old["class_index"]], ids[new["class_index"]]),
    }
    answers = [ids[table["two_stage_class"]] for table in (old, new)]
    group = new["group"].to_numpy()
    return {
        name: changed(answers[0] == labels[0], answers[1] == labels[1], group)
        for name, labels in yardsticks.items()
    }


def scored(before: Path, now: Path, labels: Mapping[Key, int]) -> dict[str, Any]:
    """The same of two scorings of the second dump, whose labels are the truth."""
    old, new = (_answers(folder) for folder in (before, now))
    truth = new.index.map(labels)
    return changed(old[new.index] == truth, new == truth, np.arange(len(new)))


def _answers(folder: Path) -> pandas.Series:
    parts = [pandas.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))]
    return pandas.concat(parts).set_index("product_id")["category_id"]


def changed(before: np.ndarray, after: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Two shares of right answers, bool [N], and the change, with intervals."""
    hits = [np.asarray(hit, dtype=np.float64) for hit in (before, after)]
    ones = np.ones(len(group))
    shares = [clustered_share(hit > 0, ones, group).to_json() for hit in hits]
    change = clustered_change(hits[1] - hits[0], ones, group).to_json()
    return {"before": shares[0], "after": shares[1], "change": change}


def products(folder: Path) -> pandas.DataFrame:
    """The evaluated products, by product id."""
    items = pandas.read_parquet(folder / "evaluation" / "items.parquet")
    return items[items["unit"] == "product"].set_index("product_id").sort_index()


if __name__ == "__main__":
    main()
