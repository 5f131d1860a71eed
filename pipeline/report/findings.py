"""What the report says beyond the evaluation's own tables. It is stored beside them, and the page
is made from what is stored:

evaluation/hierarchy.parquet each node of the hierarchy: what every system loses there
(pipeline.report.hierarchy) evaluation/report.json       accuracy per level, coverage, reliability,
distances of errors, health of the data, training evaluation/catalogue.parquet images and products
of each category in the whole catalogue evaluation/review.parquet    labels that are likely wrong
"""

from dataclasses import asdict

import numpy as np
import pandas

from catalog.artifacts import atomic_path, fingerprint, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.intervals import clustered_share
from catalog.store.reader import Store
from pipeline.decisions import heldout
from pipeline.evaluation.measures import paired_change, reliability
from pipeline.report.evaluated_run import SYSTEMS, EvaluatedRun
from pipeline.report.hierarchy import hierarchy
from pipeline.scoring import coverage

SCHEMA = 3
FEW_IMAGES = 20
"""Categories that were trained on fewer images than this are listed as too small."""
LISTED = 2000
"""Most rejects, and most blank images, that are listed one by one."""


def findings_of(run: EvaluatedRun) -> dict:
    """The content of report.json; computed and stored anew unless it is whole and about the
    evaluation that is there now."""
    try:
        stored = read_sealed(run.evaluation / "report.json", "report", SCHEMA)
    except ArtifactError:
        return write_findings(run)
    whole = all(
        (run.evaluation / name).exists() and sha256_file(run.evaluation / name) == checksum
        for name, checksum in stored["files"].items()
    )
    return (
        stored
        if whole and stored["evaluation"] == fingerprint(run.metrics)
        else write_findings(run)
    )


def write_findings(run: EvaluatedRun) -> dict:
    """Computes and stores the four files; returns the content of report.json."""
    found = {
        "schema": SCHEMA,
        "evaluation": fingerprint(run.metrics),
        "unit": run.unit,
        "few_images": FEW_IMAGES,
    }
    families = run.taxonomy.families
    for unit, items in run.items.groupby("unit"):
        found[str(unit)] = {system: system_findings(items, system, families) for system in SYSTEMS}
        found[str(unit)]["changes"] = changes(items, families)
    found["coverage_val_b"] = coverage_on_val_b(run)
    review = pandas.concat(
        [
            doubtful_labels(run.items[run.items["unit"] == run.unit], len(run.taxonomy)),
            _conflicts(run),
        ]
    )
    found["health"] = _health(run, review)
    found["training"] = {"epochs": run.epochs, "seconds": run.seconds}
    tables = {
        "catalogue.parquet": _catalogue(run),
        "review.parquet": review,
        "hierarchy.parquet": hierarchy(run),
    }
    for name, table in tables.items():
        with atomic_path(run.evaluation / name) as temporary:
            table.to_parquet(temporary, index=False)
    found["files"] = {name: sha256_file(run.evaluation / name) for name in tables}
    write_sealed(run.evaluation / "report.json", found)
    return found


def system_findings(items: pandas.DataFrame, system: str, families: np.ndarray) -> dict:
    """Everything about one system's answers to `items`; shares are weighted to the natural class
    mix.

    `families` int [K, 2] numbers each class's ancestors on levels 1 and 2.
    """
    truth, answer = items["class_index"].to_numpy(), items[f"{system}_class"].to_numpy()
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    confidence = items[f"{system}_confidence"].to_numpy(dtype=np.float64)
    right = truth == answer
    same = {
        f"level{level + 1}": families[truth, level] == families[answer, level] for level in (0, 1)
    } | {"level3": right}
    return {
        "levels": {
            level: clustered_share(values, weight, group).to_json()
            for level, values in same.items()
        },
        "coverage": [asdict(cost) for cost in coverage.curve(confidence, right, weight, group)],
        "reliability": reliability(confidence, right, weight),
        "distance": distances(answer[~right].astype(np.int64) - truth[~right]),
        "errors": {
            "n": int((~right).sum()),
            "same_level1": int((same["level1"] & ~right).sum()),
            "same_level2": int((same["level2"] & ~right).sum()),
        },
    }


def changes(items: pandas.DataFrame, families: np.ndarray) -> dict[str, dict]:
    """For each pair of systems, as metrics.json names them, the items that the second mended and
    those that it spoilt, and the change of the accuracy on each level."""
    truth, right = items["class_index"].to_numpy(), {}
    for system in SYSTEMS:
        answer = items[f"{system}_class"].to_numpy()
        right[system] = {
            f"level{k + 1}": families[truth, k] == families[answer, k] for k in (0, 1)
        } | {"level3": truth == answer}
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    found: dict[str, dict] = {}
    for new, old in (("shifted", "stage1"), ("two_stage", "shifted"), ("two_stage", "stage1")):
        after, before = right[new], right[old]
        found[f"{new}_over_{old}"] = {
            "fixed": int((after["level3"] & ~before["level3"]).sum()),
            "broken": int((before["level3"] & ~after["level3"]).sum()),
            "levels": {
                k: paired_change(after[k], before[k], weight, group).to_json() for k in after
            },
        }
    return found


def coverage_on_val_b(run: EvaluatedRun) -> list[dict] | None:
    """What each threshold costs on held-out products, as `score --min-confidence` prints it; None
    without current answers for these."""
    stage2 = run.folder / "stage2"
    if not heldout.is_current(stage2):
        return None
    held = heldout.read(stage2)
    return [asdict(cost) for cost in coverage.costs_of(held.under(held.fitted))]


def distances(steps: np.ndarray) -> list[dict]:
    """Errors by the signed distance from the true to the predicted class index, in bins whose width
    doubles."""
    if not steps.size:
        return []
    exponent = np.floor(np.log2(np.abs(steps))).astype(np.int64)
    top = int(exponent.max())
    place = np.where(steps < 0, top - exponent, top + 1 + exponent)
    counts = np.bincount(place, minlength=2 * top + 2)
    edges = [(-(2 ** (e + 1)) + 1, -(2**e)) for e in range(top, -1, -1)] + [
        (2**e, 2 ** (e + 1) - 1) for e in range(top + 1)
    ]
    return [
        {"low": low, "high": high, "n": int(n)}
        for (low, high), n in zip(edges, counts, strict=True)
    ]


def doubtful_labels(items: pandas.DataFrame, classes: int) -> pandas.DataFrame:
    """Labels that the model contradicts with confidence, the surest first.

    Confident learning (Northcutt, Jiang and Chuang, 2021): a class's threshold is its mean
    self-confidence, the mean probability of the class over the items that carry its label. An item
    is doubtful when its answer is another class whose threshold the answer's probability reaches;
    the ranking is by normalised margin, the label's probability less the answer's.
    """
    truth, answer = items["class_index"].to_numpy(), items["two_stage_class"].to_numpy()
    own = items["two_stage_true_confidence"].to_numpy(dtype=np.float64)
    confidence = items["two_stage_confidence"].to_numpy(dtype=np.float64)
    support = np.bincount(truth, minlength=classes)
    threshold = np.bincount(truth, weights=own, minlength=classes) / np.maximum(support, 1)
    doubtful = np.flatnonzero(
        (truth != answer) & (support[answer] > 0) & (confidence >= threshold[answer])
    )
    doubtful = doubtful[np.argsort(own[doubtful] - confidence[doubtful], kind="stable")]
    return pandas.DataFrame(
        {
            "kind": "doubt",
            "group": np.arange(len(doubtful)),
            "item_id": items["item_id"].to_numpy()[doubtful],
            "product_id": items["product_id"].to_numpy()[doubtful],
            "class_index": truth[doubtful].astype(np.int32),
            "suggested_class": answer[doubtful].astype(np.int32),
            "self_confidence": own[doubtful],
            "suggested_confidence": confidence[doubtful],
            "threshold": threshold[answer[doubtful]],
            "margin": own[doubtful] - confidence[doubtful],
        }
    )


def _conflicts(run: EvaluatedRun) -> pandas.DataFrame:
    """Products that show the same picture under different categories, a row an image, groups ranked
    by the least believed label.

    Only evaluated products have probabilities; groups without one come last.
    """
    if run.store is None:
        return pandas.DataFrame()
    rows = pandas.DataFrame(run.store.conflicts()._asdict())
    rows = rows.rename(columns={"group": "picture", "image_id": "item_id"})
    items = (
        run.items[run.items["unit"] == run.unit]
        .drop_duplicates("product_id")
        .set_index("product_id")
    )
    judged = items.reindex(rows["product_id"]).reset_index(drop=True)
    rows["suggested_class"] = judged["two_stage_class"].fillna(-1).astype(np.int32)
    rows["self_confidence"] = judged["two_stage_true_confidence"].astype(np.float64)
    rows["suggested_confidence"] = judged["two_stage_confidence"].astype(np.float64)
    rows["margin"] = rows["self_confidence"] - rows["suggested_confidence"]
    doubt = rows.groupby("picture")["self_confidence"].transform("min").fillna(2.0)
    rows = rows.assign(doubt=doubt).sort_values(["doubt", "picture", "item_id"], kind="stable")
    rows["group"] = pandas.factorize(rows["picture"])[0]
    return rows.assign(kind="conflict", class_index=rows["class_index"].astype(np.int32)).drop(
        columns=["picture", "doubt"]
    )


def _catalogue(run: EvaluatedRun) -> pandas.DataFrame:
    """A row a category: the images it was trained on; with a store also its images and products in
    train and reserve, kept or dropped."""
    counts = (
        {f"{unit}s": run.store.natural_counts(unit) for unit in ("image", "product")}
        if run.store
        else {}
    )
    return pandas.DataFrame(
        {"class_index": np.arange(len(run.taxonomy)), "train_images": run.train_images, **counts}
    )


def _health(run: EvaluatedRun, review: pandas.DataFrame) -> dict:
    kinds = review["kind"].value_counts()
    found = {
        "doubtful_labels": int(kinds.get("doubt", 0)),
        "conflicting_images": int(kinds.get("conflict", 0)),
        "conflicting_groups": int(review.loc[review["kind"] == "conflict", "group"].nunique()),
        "small_categories": int((run.train_images < FEW_IMAGES).sum()),
        "evaluation_rejects": run.metrics.get("rejects", {}),
    }
    return found | (_store_health(run.store) if run.store else {})


def _store_health(store: Store) -> dict:
    reject_names = ("product_id", "source", "offset", "position", "reason", "detail")
    return store.counts()._asdict() | {
        "rejects": store.reject_counts(),
        "reject_rows": [
            {name: getattr(reject, name) for name in reject_names}
            for reject in store.rejects(LISTED)
        ],
        "blank_rows": [image._asdict() for image in store.blanks(LISTED)],
    }
