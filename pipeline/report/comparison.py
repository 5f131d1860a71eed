"""Two runs item by item: which items the other run alone gets right, and which the first alone, per
category and with what chance would do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas

from pipeline.evaluation.measures import changed_categories, paired_change, sign_test
from pipeline.report.evaluated_run import EvaluatedRun


@dataclass(frozen=True)
class Comparison:
    """The items that both runs evaluated, in the same category.

    `items`: item_id, class_index, both answers (`first`, `other`; -1 if the first run has no such
    category), weight and group, a row per common item. `gained` and `lost` int64 [K]: items that
    the other run alone gets right, or the first alone; `chance` float64 [K]: p-value of the paired
    sign test over independent products, NaN where nothing moved.
    """

    items: pandas.DataFrame
    gained: np.ndarray
    lost: np.ndarray
    chance: np.ndarray
    figures: dict[str, Any]
    """For the page: the numbers of items, the change of accuracy, the categories that are surely
    `better` or `worse` in the other run."""


def compare_runs(run: EvaluatedRun, other: EvaluatedRun, unit: str) -> Comparison:
    """The comparison of `other` with `run`, both stages, per `unit`."""
    items, classes = _common(run, other, unit), len(run.taxonomy)
    truth, group = (items[name].to_numpy(dtype=np.int64) for name in ("class_index", "group"))
    before, after = (items[name].to_numpy() == truth for name in ("first", "other"))
    gained, lost = (
        np.bincount(truth[moved], minlength=classes) for moved in (after & ~before, before & ~after)
    )
    weight = items["weight"].to_numpy(dtype=np.float64)
    figures = {
        "common": len(items),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "change": paired_change(after, before, weight, group).to_json(),
        "categories": changed_categories(truth, group, before, after, classes),
    }
    chance = sign_test(truth, group, before, after, classes)
    return Comparison(items, gained, lost, chance, figures)


def _common(run: EvaluatedRun, other: EvaluatedRun, unit: str) -> pandas.DataFrame:
    own, theirs = (_labelled(r, unit) for r in (run, other))
    both = own.merge(theirs, on=["item_id", "category_id"], suffixes=("", "_other"))
    return pandas.DataFrame(
        {
            "item_id": both["item_id"],
            "class_index": run.taxonomy.class_index(both["category_id"].to_numpy()),
            "first": run.taxonomy.class_index(both["answer"].to_numpy()),
            "other": run.taxonomy.class_index(both["answer_other"].to_numpy()),
            "weight": both["weight"],
            "group": both["group"],
        }
    )


def _labelled(run: EvaluatedRun, unit: str) -> pandas.DataFrame:
    items, ids = run.items[run.items["unit"] == unit], run.taxonomy.category_ids
    return pandas.DataFrame(
        {
            "item_id": items["item_id"],
            "category_id": ids[items["class_index"]],
            "answer": ids[items["two_stage_class"]],
            "weight": items["weight"],
            "group": items["group"],
        }
    )
