"""What mistakes cost, and which of them would be none: a table of costs by true and predicted
category, and pairs of categories that could be one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from catalog.csv_file import CsvFile, whole_number
from catalog.intervals import Estimate, clustered_change, clustered_share
from catalog.taxonomy import Taxonomy
from pipeline.report.evaluated_run import SYSTEMS

MERGES = 30
"""Pairs that are listed at most."""
_LARGEST = 2**63 - 1
_PER = 1000
"""Items that a cost is given for."""

Costs = Mapping[tuple[int, int], float]
"""True and predicted class index -> cost; a mistake that is not listed costs 1, no mistake 0."""


def read_costs(path: Path, taxonomy: Taxonomy) -> dict[tuple[int, int], float]:
    """A CSV with the columns true, predicted (category ids) and cost. Raises ShelfsortError, naming
    the line, if an id is not of the taxonomy or a cost is no number from 0 on."""
    costs, file = {}, CsvFile(path)
    for *ids, text in file.rows(["true", "predicted", "cost"]):
        try:
            numbers = np.array([whole_number(value, _LARGEST) for value in ids])
            cost = float(text)
        except ValueError as error:
            raise file.fault(f"as true, predicted and cost: {error}") from error
        true, predicted = taxonomy.class_index(numbers).tolist()
        if min(true, predicted) < 0:
            unknown = ids[0] if true < 0 else ids[1]
            raise file.fault(f"category_id {unknown} is not in the taxonomy")
        if not 0 <= cost < np.inf:
            raise file.fault(f"cost {text}, expected a number from 0 on")
        costs[true, predicted] = cost
    return costs


def cost_of(costs: Costs, truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """What each answer costs, float64 [N]; class indices int [N]."""
    pairs = zip(truth.tolist(), answer.tolist(), strict=True)
    return np.array([costs.get(pair, float(pair[0] != pair[1])) for pair in pairs])


def mean_costs(costs: Costs, items: pandas.DataFrame) -> dict[str, Any]:
    """Cost per _PER items of each system in the catalogue mix, and of both stages less stage 1,
    adjusted, with 95% intervals; and of each pair of both stages what it costs together."""
    truth = items["class_index"].to_numpy()
    each = {s: cost_of(costs, truth, items[f"{s}_class"].to_numpy()) for s in SYSTEMS}
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    most = max(1.0, *(float(cost.max(initial=0.0)) for cost in each.values()))

    def mean(values: np.ndarray) -> dict[str, Any]:
        return _scaled(clustered_change(values / most, weight, group), most * _PER)

    figures: dict[str, Any] = {system: mean(cost) for system, cost in each.items()}
    figures["change"] = mean(each["two_stage"] - each["shifted"])
    pairs = pandas.DataFrame(
        {"true": truth, "predicted": items["two_stage_class"], "cost": each["two_stage"]}
    )
    sums = pairs[pairs["cost"] > 0].groupby(["true", "predicted"])["cost"].sum()
    figures["pairs"] = [[int(t), int(p), float(c)] for (t, p), c in sums.items()]
    return figures | {"per": _PER, "listed": len(costs)}


def _scaled(estimate: Estimate, by: float) -> dict[str, Any]:
    figures = estimate.to_json()
    for key in ("value", "low", "high"):
        figures[key] = None if figures[key] is None else by * figures[key]
    return figures


def merges(items: pandas.DataFrame) -> list[dict[str, Any]]:
    """The pairs of categories that would raise the accuracy of both stages most if they were one:
    `a`, `b`, the `items` that would be right, and `gain`, the share of the catalogue mix that these
    are, with its 95% interval."""
    truth, answer = (items[n].to_numpy() for n in ("class_index", "two_stage_class"))
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    wrong = truth != answer
    pair = pandas.DataFrame(
        {"a": np.minimum(truth, answer)[wrong], "b": np.maximum(truth, answer)[wrong]}
    )
    top = pair.assign(weight=weight[wrong]).groupby(["a", "b"])["weight"].sum()
    merged = []
    for a, b in top.sort_values(ascending=False, kind="stable").index[:MERGES]:
        hit = wrong & (np.minimum(truth, answer) == a) & (np.maximum(truth, answer) == b)
        gain = clustered_share(hit, weight, group).to_json()
        merged.append({"a": int(a), "b": int(b), "items": int(hit.sum()), "gain": gain})
    return merged
