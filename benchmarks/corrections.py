"""What corrections by the report's advice do to accuracy, on finished demo runs, whose true
categories the drawn catalogue knows.

A reviewer goes through the first --judged doubts of the report: `looked` corrects each wrong label
to the true category and leaves the right ones, `blind` takes every suggestion without a look. Both
are ingested into a copy of the run, which is then brought up to date. Accuracy is of both stages
per product of the test split, plain, against the truth and as measured, by the labels of the run;
and of the second dump, whose labels are the truth. What it is compared with is the same run, stage
2 fitted again without corrections. Claim: the labels get truer with `looked`. The model, whose
stage 1 is kept, gains nothing by them: on the second dump it lost a point on two of three seeds of
the demo, in intervals that don't count what fitting again changes by itself. Run:
python -m benchmarks.corrections runs/demo-0 [runs/demo-1 ...] [--judged N] [--json FILE]
"""

import csv
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks import record
from catalog.artifacts import read_json
from catalog.intervals import clustered_change, clustered_share
from catalog.labels import read_labels
from catalog.sources.keys import Key
from catalog.synthetic.dump import SyntheticSpec, assign, categories
from pipeline import steps
from pipeline.config import load_config
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.label_issues import label_opinions, review_table
from pipeline.run_folder import RunFolder

FIRST = (5, 10, 20, 40)
"""Doubts among which the wrong labels are counted."""


def main() -> None:
    """Prints a line per run and reviewer."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--judged", type=int, default=60, help="doubts that are judged (60)")
    parser.add_argument("--train", action="store_true", help="train stage 1 again, looked alone")
    options = parser.parse_args()
    figures = [measure(run, options.judged, options.train) for run in options.runs]
    record.save(options.json, {"judged": options.judged, "runs": figures}, rounds=len(figures))


def measure(folder: Path, judged: int, train: bool) -> dict[str, Any]:
    """The figures of one run; with `train` stage 1 learns from the corrected labels too."""
    truth = truth_of(folder)
    run = EvaluatedRun(RunFolder(folder))
    review = review_table(run, label_opinions(run)[0])
    doubts = review[review["kind"] == "doubt"].head(judged)
    ids = RunFolder(folder).store.taxonomy.category_ids
    right = truth[doubts["product_id"]].to_numpy()
    wrong = ids[doubts["class_index"]] != right
    counts = {str(n): int(wrong[:n].sum()) for n in FIRST}
    found: dict[str, Any] = {"run": folder.name, "judged": len(doubts), "wrong": int(wrong.sum())}
    found |= {"wrong_among_first": counts}
    reviewers = {"looked": np.where(wrong, right, -1), "blind": ids[doubts["suggested_class"]]}
    if train:
        reviewers = {"looked": reviewers["looked"]}
    before = Answered.after(folder, {})
    for name, categories_given in reviewers.items():
        pairs = zip(doubts["product_id"], categories_given.tolist(), strict=True)
        corrections = {int(product): category for product, category in pairs if category >= 0}
        found[name] = compared(before, Answered.after(folder, corrections, train), truth)
        found[name]["corrected"] = len(corrections)
        print(f"{folder.name}, {name}: {len(corrections)} labels corrected; percentage points")
        for what in ("labels", "against_truth", "measured", "second_dump"):
            change = found[name][what]["change"]
            points = [100 * change[key] for key in ("value", "low", "high")]
            print("  {}: {:+.2f} [{:+.2f}, {:+.2f}]".format(what, *points))
    return found


def truth_of(folder: Path) -> pandas.Series:
    """Product id -> true category id of the run's drawn catalogue."""
    spec = SyntheticSpec(**read_json(folder / "data" / "synthetic.json", "demo"))
    ids = np.array([category.category_id for category in categories(spec)])
    return pandas.Series(
        ids[assign(spec).category], index=spec.first_product_id + np.arange(spec.products)
    )


@dataclass(frozen=True)
class Answered:
    """What a run answers after corrections, by product id: `labels` of the store and `answers` of
    the test split, category ids both, the `groups` of the latter, and answers for the second dump,
    `scored`; `right_there`: which of these are right."""

    labels: pandas.Series
    answers: pandas.Series
    groups: pandas.Series
    scored: pandas.Series
    right_there: pandas.Series

    @classmethod
    def after(cls, folder: Path, corrections: Mapping[int, int], train: bool = False) -> "Answered":
        """Of a copy of the run; without corrections stage 2 is fitted again too, so that nothing
        else tells two of them apart."""
        with tempfile.TemporaryDirectory() as temporary:
            run, out = RunFolder(Path(temporary) / "run"), Path(temporary) / "predictions"
            shutil.copytree(folder, run.folder)
            path = Path(temporary) / "corrections.csv"
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("product_id", "category_id"), *corrections.items()])
            config, data = load_config(run.config_path), run.folder / "data"
            dump, names = [str(data / "train.bson")], data / "category_names.csv"
            given = path if corrections else None
            steps.ingest(run, config, dump, names, False, corrections=given, say=_silent)
            steps.stage1(run, config, train, _silent)
            steps.features(run, config, train, _silent)
            steps.stage2(run, config, not corrections, _silent)
            steps.evaluate(run, config, not corrections, _silent)
            steps.score(run, config, [str(data / "test.bson")], out, say=_silent)
            return cls.of(run, out, read_labels(data / "test_labels.csv"))

    @classmethod
    def of(cls, run: RunFolder, out: Path, truth: Mapping[Key, int]) -> "Answered":
        """Of a run, its predictions in `out`, and the truth about these."""
        ids = run.store.taxonomy.category_ids
        query = "SELECT product_id, class_index FROM products ORDER BY 1"
        product, label = np.array(run.store.connection.execute(query).fetchall()).T
        items = pandas.read_parquet(run.table_path("items"))
        items = items[items["unit"] == "product"].set_index("product_id").sort_index()
        parts = [pandas.read_parquet(part) for part in sorted(out.glob("part-*.parquet"))]
        scored = pandas.concat(parts).set_index("product_id")["category_id"].sort_index()
        answers = pandas.Series(ids[items["two_stage_class"]], index=items.index)
        right = scored == scored.index.map(truth)
        return cls(pandas.Series(ids[label], index=product), answers, items["group"], scored, right)


def _silent(_line: str) -> None:
    pass


def compared(before: Answered, after: Answered, truth: pandas.Series) -> dict[str, Any]:
    """Shares before and after, and the change: of labels that are the truth, of answers on the test
    split that are, or that are as the labels say, and of right answers on the second dump."""
    tested = after.answers.index
    group = after.groups.to_numpy()
    each = {
        "labels": ([x.labels == truth[x.labels.index] for x in (before, after)], None),
        "against_truth": ([x.answers == truth[tested] for x in (before, after)], group),
        "measured": ([x.answers == x.labels[tested] for x in (before, after)], group),
        "second_dump": ([x.right_there for x in (before, after)], None),
    }
    return {name: _changed(old, new, groups) for name, ((old, new), groups) in each.items()}


def _changed(
    before: pandas.Series, after: pandas.Series, group: np.ndarray | None
) -> dict[str, Any]:
    """Two shares of hits, bool [N], and the change, with intervals."""
    group = np.arange(len(after)) if group is None else group
    hits, ones = [x.to_numpy(dtype=np.float64) for x in (before, after)], np.ones(len(group))
    shares = [clustered_share(hit > 0, ones, group).to_json() for hit in hits]
    change = clustered_change(hits[1] - hits[0], ones, group).to_json()
    return {"before": shares[0], "after": shares[1], "change": change}


if __name__ == "__main__":
    main()
