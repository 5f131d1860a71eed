"""Every node of the hierarchy with what each system loses under it: evaluation/hierarchy.parquet,
from the items."""

from collections.abc import Iterator

import numpy as np
import pandas

from catalog.intervals import Shares, clustered_shares
from pipeline.report.evaluated_run import SYSTEMS, EvaluatedRun


def hierarchy(run: EvaluatedRun) -> pandas.DataFrame:
    """A row a unit and node: first the families of level 1, then of level 2, then the categories,
    each in hierarchy order.

    `fixed` and `broken` count what stage 2 did to the shifted stage 1. Accuracy is the plain share
    of the node's items whose category (on level 3) is right, with its 95% interval; a node without
    items has none.
    """
    return pandas.concat(
        [
            table
            for unit, items in run.items.groupby("unit")
            for table in _tables(run, str(unit), items)
        ]
    )


def _tables(run: EvaluatedRun, unit: str, items: pandas.DataFrame) -> Iterator[pandas.DataFrame]:
    classes = len(run.taxonomy)
    truth = items["class_index"].to_numpy()
    right = {
        system: (items[f"{system}_class"] == items["class_index"]).to_numpy() for system in SYSTEMS
    }
    counts = {
        "categories": np.ones(classes, dtype=np.int64),
        "support": np.bincount(truth, minlength=classes),
    }
    counts |= {
        f"{system}_right": np.bincount(truth[right[system]], minlength=classes)
        for system in SYSTEMS
    }
    counts["fixed"] = np.bincount(truth[right["two_stage"] & ~right["shifted"]], minlength=classes)
    counts["broken"] = np.bincount(truth[right["shifted"] & ~right["two_stage"]], minlength=classes)
    group, ones = items["group"].to_numpy(), np.ones(len(items))
    for level, node_of in enumerate((*run.taxonomy.families.T, np.arange(classes)), start=1):
        accuracies = {
            s: clustered_shares(right[s], ones, group, node_of[truth], int(node_of.max()) + 1)
            for s in SYSTEMS
        }
        yield _level(run, unit, level, node_of, counts, accuracies)


def _level(
    run: EvaluatedRun,
    unit: str,
    level: int,
    node_of: np.ndarray,
    counts: dict[str, np.ndarray],
    accuracies: dict[str, Shares],
) -> pandas.DataFrame:
    first = [run.taxonomy[i] for i in np.unique(node_of, return_index=True)[1]]
    columns = {
        "unit": unit,
        "level": level,
        "category_id": [c.category_id if level == 3 else -1 for c in first],
    }
    columns |= {
        f"level{k}": [getattr(c, f"level{k}") if k <= level else "" for c in first]
        for k in (1, 2, 3)
    }
    sums = {
        name: np.bincount(node_of, weights=count).astype(np.int64) for name, count in counts.items()
    }
    columns |= sums
    for system, node in accuracies.items():
        columns[f"{system}_lost"] = sums["support"] - sums[f"{system}_right"]
        columns |= {
            f"{system}_accuracy": node.value,
            f"{system}_low": node.low,
            f"{system}_high": node.high,
        }
    return pandas.DataFrame(columns)
