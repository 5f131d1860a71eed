"""What the report says beyond the evaluation's own tables. It is stored beside them, and the page
is made from what is stored:

- evaluation/hierarchy.parquet: each node of the hierarchy, and what every system loses there
  (pipeline.report.hierarchy)
- evaluation/report.json: accuracy per level, coverage, reliability, distances of errors, health of
  the data, training
- evaluation/catalogue.parquet: images and products of each category in the whole catalogue
- evaluation/review.parquet: labels that are likely wrong (pipeline.report.label_issues)
- evaluation/evidence.parquet, problems.parquet, map.parquet: photos to compare with, photos that
  need a look, and where the products lie on a map of the photos
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from catalog.artifacts import atomic_path, fingerprint, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.intervals import clustered_share
from catalog.store.reader import Store
from features.store import FeatureStore
from pipeline.decisions import heldout
from pipeline.evaluation.measures import paired_change, reliability
from pipeline.report.evaluated_run import SYSTEMS, EvaluatedRun
from pipeline.report.evidence import COLUMNS, nearest_photos, typical_photos
from pipeline.report.gallery import by_interest
from pipeline.report.hierarchy import hierarchy
from pipeline.report.label_issues import feature_stores, label_opinions, review_table
from pipeline.report.mistakes import Costs, mean_costs, merges, read_costs
from pipeline.report.photo_checks import NO_PHOTOS, measure_photos, problems, sample_of
from pipeline.report.photo_map import NO_MAP, photo_map
from pipeline.report.slices import photo_columns, read_columns, slices
from pipeline.report.what_if import what_if
from pipeline.scoring import coverage

SCHEMA = 6
FEW_IMAGES = 20
"""Categories that were trained on fewer images than this are listed as too small."""
LISTED = 2000
"""Most rejects, and most blank images, that are listed one by one."""
CASES = 600
"""Doubts, and wrong products, that nearest photos are looked for at most."""


@dataclass(frozen=True)
class Extras:
    """Files of a user's own: further columns of the products (`product_id` and any others), and
    what mistakes cost (`true`, `predicted`, `cost`)."""

    columns: Path | None = None
    costs: Path | None = None


def findings_of(run: EvaluatedRun) -> dict:
    """The content of report.json; computed and stored again unless it is whole and about the
    evaluation that is there now."""
    try:
        stored = read_sealed(run.files.evaluation / "report.json", "report", SCHEMA)
    except ArtifactError:
        return write_findings(run)
    whole = all(
        (run.files.evaluation / name).exists()
        and sha256_file(run.files.evaluation / name) == checksum
        for name, checksum in stored["files"].items()
    )
    return (
        stored
        if whole and stored["evaluation"] == fingerprint(run.metrics)
        else write_findings(run)
    )


def write_findings(run: EvaluatedRun, extras: Extras | None = None) -> dict:
    """Computes and stores the files; returns the content of report.json."""
    extras = extras or Extras()
    findings: dict[str, Any] = {
        "schema": SCHEMA,
        "evaluation": fingerprint(run.metrics),
        "unit": run.unit,
        "few_images": FEW_IMAGES,
    }
    costs = read_costs(extras.costs, run.taxonomy) if extras.costs else None
    for unit, items in run.items.groupby("unit"):
        findings[str(unit)] = unit_findings(run, items, costs)
    findings |= held_out_findings(run)
    opinions, labels_judged = label_opinions(run)
    review, stores = review_table(run, opinions), feature_stores(run)
    photos = _photos(run)
    findings["health"] = _health(run, review) | {
        "labels_judged": labels_judged,
        "photos": len(photos),
    }
    findings["slices"] = slices(_main_items(run), _columns(run, photos, extras))
    findings["training"] = {"epochs": run.epochs, "seconds": run.seconds}
    problem_table = problems(photos, stores, _digests(run, photos))
    findings["health"]["problems"] = problem_table["kind"].value_counts().to_dict()
    tables = {
        "catalogue": _catalogue(run),
        "review": review,
        "hierarchy": hierarchy(run),
        "evidence": _evidence(run, review, opinions, stores),
        "problems": problem_table,
        "map": photo_map(stores) if stores else NO_MAP,
    }
    for name, table in tables.items():
        with atomic_path(run.files.table_path(name)) as temporary:
            table.to_parquet(temporary, index=False)
    paths = [run.files.table_path(name) for name in tables]
    findings["files"] = {path.name: sha256_file(path) for path in paths}
    write_sealed(run.files.evaluation / "report.json", findings)
    return findings


def unit_findings(run: EvaluatedRun, items: pandas.DataFrame, costs: Costs | None) -> dict:
    """What is found of the items of one unit."""
    families = run.taxonomy.families
    findings = {system: system_findings(items, system, families) for system in SYSTEMS}
    findings["changes"] = changes(items, families)
    return findings | {
        "by_training_images": by_training_images(items, run.train_images),
        "merges": merges(items),
        "costs": None if costs is None else mean_costs(costs, items),
    }


def held_out_findings(run: EvaluatedRun) -> dict:
    """What each threshold costs on held-out products, as `score --min-confidence` prints it, and
    what thresholds a precision takes; None without current answers for these."""
    if not heldout.is_current(run.files.stage2):
        return {"coverage_val_b": None, "what_if": None}
    held = heldout.read(run.files.stage2)
    costs = [asdict(cost) for cost in coverage.costs_of(held.under(held.fitted))]
    return {"coverage_val_b": costs, "what_if": what_if(held, run.taxonomy)}


def _main_items(run: EvaluatedRun) -> pandas.DataFrame:
    return run.items[run.items["unit"] == run.unit]


def _photos(run: EvaluatedRun) -> pandas.DataFrame:
    """Measures of a sample of the photos; no row without a store."""
    if run.store is None:
        return NO_PHOTOS
    return measure_photos(run.store, sample_of(run.store))


def _digests(run: EvaluatedRun, photos: pandas.DataFrame) -> list[str]:
    return run.store.picture_digests(photos["image_id"].to_numpy()) if run.store else []


def _columns(run: EvaluatedRun, photos: pandas.DataFrame, extras: Extras) -> pandas.DataFrame:
    """Whatever is known of the evaluated products, by product id."""
    images = run.items[run.items["unit"] == "image"]["product_id"].value_counts()
    products = np.unique(_main_items(run)["product_id"])
    frames = [images.rename("photos of the product").to_frame(), photo_columns(photos)]
    if run.store is not None:
        own = run.store.columns(products)
        frames.append(own.set_axis(products, axis=0) if len(own.columns) else own)
        if extras.columns:
            frames.append(read_columns(extras.columns, run.store))
    return pandas.concat([frame.reindex(products) for frame in frames], axis=1)


def _evidence(
    run: EvaluatedRun,
    review: pandas.DataFrame,
    opinions: pandas.DataFrame,
    stores: Sequence[FeatureStore],
) -> pandas.DataFrame:
    """Photos beside the first doubts and errors."""
    if not stores:
        return pandas.DataFrame(columns=COLUMNS)
    doubts = review[review["kind"] == "doubt"].head(CASES)
    items = _main_items(run).iloc[by_interest(_main_items(run))]
    wrong = items[items["two_stage_class"] != items["class_index"]].head(CASES)
    names = ["product_id", "class_index", "suggested_class"]
    cases = pandas.concat(
        [doubts[names], wrong.rename(columns={"two_stage_class": "suggested_class"})[names]]
    )
    nearest = nearest_photos(stores, cases)
    involved = np.unique(cases[["class_index", "suggested_class"]])
    typical = typical_photos(opinions)
    typical = typical[typical["class_index"].isin(involved)]
    return pandas.concat([nearest, typical], ignore_index=True)[list(COLUMNS)]


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


def by_training_images(items: pandas.DataFrame, train_images: np.ndarray) -> list[dict]:
    """Accuracy of both stages by how many images the true category was trained on (int64 [K]), in
    bins whose upper ends double; bins without items are left out."""
    truth = items["class_index"].to_numpy()
    right = items["two_stage_class"].to_numpy() == truth
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    bins = np.ceil(np.log2(np.maximum(train_images, 1))).astype(np.int64)
    rows = []
    for number in np.unique(bins[truth]).tolist():
        in_bin = bins[truth] == number
        share = clustered_share(right[in_bin], weight[in_bin], group[in_bin]).to_json()
        rows.append(
            {
                "low": 2 ** (number - 1) + 1 if number else 0,
                "high": 2**number,
                "categories": len(np.unique(truth[in_bin])),
                "accuracy": share,
            }
        )
    return rows


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
    by_pair: dict[str, dict] = {}
    for new, old in (("shifted", "stage1"), ("two_stage", "shifted"), ("two_stage", "stage1")):
        after, before = right[new], right[old]
        by_pair[f"{new}_over_{old}"] = {
            "fixed": int((after["level3"] & ~before["level3"]).sum()),
            "broken": int((before["level3"] & ~after["level3"]).sum()),
            "levels": {
                k: paired_change(after[k], before[k], weight, group).to_json() for k in after
            },
        }
    return by_pair


def distances(steps: np.ndarray) -> list[dict]:
    """Errors by the signed distance from the true to the predicted class index, in bins whose width
    doubles."""
    if not steps.size:
        return []
    exponent = np.floor(np.log2(np.abs(steps))).astype(np.int64)
    top = int(exponent.max())
    bin_number = np.where(steps < 0, top - exponent, top + 1 + exponent)
    counts = np.bincount(bin_number, minlength=2 * top + 2)
    edges = [(-(2 ** (e + 1)) + 1, -(2**e)) for e in range(top, -1, -1)] + [
        (2**e, 2 ** (e + 1) - 1) for e in range(top + 1)
    ]
    return [
        {"low": low, "high": high, "n": int(n)}
        for (low, high), n in zip(edges, counts, strict=True)
    ]


def _catalogue(run: EvaluatedRun) -> pandas.DataFrame:
    """A row a category: the images it was trained on; with a store also its images and products in
    train, extra and reserve, kept or dropped."""
    counts = (
        {f"{unit}s": run.store.natural_counts(unit) for unit in ("image", "product")}
        if run.store
        else {}
    )
    return pandas.DataFrame(
        {"class_index": np.arange(len(run.taxonomy)), "train_images": run.train_images, **counts}
    )


def _health(run: EvaluatedRun, review: pandas.DataFrame) -> dict:
    count_of = review["kind"].value_counts()
    figures = {
        "doubtful_labels": int(count_of.get("doubt", 0)),
        "conflicting_images": int(count_of.get("conflict", 0)),
        "conflicting_groups": int(review.loc[review["kind"] == "conflict", "group"].nunique()),
        "small_categories": int((run.train_images < FEW_IMAGES).sum()),
        "evaluation_rejects": run.metrics.get("rejects", {}),
    }
    return figures | (_store_health(run.store) if run.store else {})


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
