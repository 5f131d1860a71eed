"""The test split, once: accuracy of stage 1, of the shifted stage 1 and of both stages, per image
and per product.

Writes evaluation/ (docs/formats.md). pipeline.evaluation.measures computes the figures.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas

from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from catalog.intervals import clustered_change, clustered_share
from catalog.progress import progress
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from features.store import FeatureStore
from pipeline.config import EvaluateConfig
from pipeline.decisions.answers import Answers
from pipeline.decisions.heldout import HeldOutAnswers, distances
from pipeline.decisions.novelty import Novelty, novelty
from pipeline.evaluation.measures import SYSTEMS, measure, systems_in
from pipeline.evaluation.near_twins import near_twins
from pipeline.evaluation.promises import realised
from stage2_xgb.addition import Additions, with_added
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, POOL, STAGE1
from stage2_xgb.items import ItemBlock, mean_by_product
from stage2_xgb.prior import importance, mix
from stage2_xgb.published import FOLDER
from stage2_xgb.refine import Refined, refine
from stage2_xgb.rivals import Rival

UNITS = ("image", "product")


def evaluate_test(
    stores: Sequence[FeatureStore],
    store: Store,
    bundle: Bundle,
    held: HeldOutAnswers,
    config: EvaluateConfig,
    folder: Path,
    made_from: dict,
    labels_before: Mapping[int, int],
    rivals: Mapping[str, Rival] | None = None,
) -> dict[str, Any]:
    """Scores the test split through the path that scoring uses, writes evaluation/ and returns what
    metrics.json holds. `labels_before`: product id -> the category id that a correction replaced;
    `rivals` stand beside.

    Raises ShelfsortError if no test image can be read.
    """
    started, taxonomy, features = time.perf_counter(), store.taxonomy, stores[0]
    additions = Additions.open(bundle)
    items = _ask(bundle, Views(stores), store, rivals or {}, additions)
    frames = items.frames
    metrics: dict[str, Any] = {
        "made_from": made_from,
        "computed_with": features.computed_with,
        "settings": store.settings | {"split": "test"},
        "stage2": _stage2(bundle),
    }
    for unit, frame in frames.items():
        metrics[unit] = measure(frame, len(taxonomy), config.min_support)
    if corrected := corrected_labels(frames["product"], taxonomy, labels_before):
        metrics["corrected_labels"] = corrected | {"previous": _previous(folder)}
    metrics["without_photo"] = _without_photo(features, store, len(frames["product"]))
    metrics |= _decisions(held, items, additions, taxonomy)
    metrics["near_twins"] = near_twins(stores, frames["image"])
    metrics["rejects"] = store.reject_counts()
    metrics["evaluated"] = datetime.now(UTC).isoformat(timespec="seconds")
    metrics["seconds"] = round(time.perf_counter() - started, 3)
    save_evaluation(folder, frames, taxonomy, _train_images(features, len(taxonomy)), metrics)
    return metrics


def _train_images(features: FeatureStore, classes: int) -> np.ndarray:
    """Training images per class, int64 [K]."""
    rows, table = features.of_split("train"), features.table
    return np.bincount(table.class_index[rows][table.fit[rows]], minlength=classes)


class SplitAnswers(NamedTuple):
    """Unit -> a row for each item of the test split, as items.parquet has them; and of its
    products: both stages' answers, which an added category takes, bool [N], and how far they are
    from the nearest category and the nearest but their own, float32 [N, 2]."""

    frames: dict[str, pandas.DataFrame]
    answers: Answers
    taken: np.ndarray
    distances: np.ndarray


def _decisions(
    held: HeldOutAnswers, items: SplitAnswers, additions: Additions, taxonomy: Taxonomy
) -> dict[str, Any]:
    """What decisions on the test split's products come to: promises; if there are any, categories
    that were added without a training; and the flag of products unlike every category."""
    products = items.frames["product"]
    truth, weight, group = (
        products[name].to_numpy() for name in ("class_index", "weight", "group")
    )
    figures: dict[str, Any] = {
        "promises": realised(held, items.answers, truth, weight, group, taxonomy)
    }
    if len(additions):
        figures["added"] = _added(products, items.taken, additions)
    if (flags := novelty(held)) is not None:
        figures["novel"] = _novel(flags, items, weight, group)
    return figures


def _ask(
    bundle: Bundle,
    views: Views,
    store: Store,
    rivals: Mapping[str, Rival],
    additions: Additions,
) -> SplitAnswers:
    """Asks all systems about the test split."""
    old, rows = published(bundle), views.first.of_split("test")
    items: dict[str, list[pandas.DataFrame]] = {unit: [] for unit in UNITS}
    answers: list[Answers] = []
    taken: list[np.ndarray] = []
    far: list[np.ndarray] = []
    with progress(rows.stop - rows.start, "evaluate", "img") as bar:
        for images in views.blocks("test", fit_only=False):
            for unit in UNITS:
                result = refine(bundle, images, unit)
                items[unit].append(_item_rows(result, old, rivals, images, unit))
            answers.append(Answers.of(result.two_stage))
            odds = additions.log_odds(bundle, images)
            taken.append(with_added(result.two_stage, odds).argmax(axis=1) >= views.classes)
            distance = np.stack(distances(bundle, images), axis=1)
            far.append(mean_by_product(distance, images.product_id))
            bar.update(len(images.product_id))
    if not any(len(frame) for frame in items["image"]):
        problem = "no readable image on the test split; the catalogue has too few products"
        raise ShelfsortError(f"{views.first.path}: {problem}")
    frames = _framed(items, store, views.first)
    arrays = (np.concatenate(parts) for parts in (taken, far))
    return SplitAnswers(frames, Answers.concatenate(answers), *arrays)


def _framed(
    items: Mapping[str, list[pandas.DataFrame]], store: Store, features: FeatureStore
) -> dict[str, pandas.DataFrame]:
    """Unit -> all items of the test split, with their groups and weights."""
    rows, table = features.of_split("test"), features.table
    linked, capped = store.linked("test"), store.settings["caps"]["test"] is not None
    groups = pandas.Series(
        store.groups_of(table.product_id[rows], "test"), index=table.product_id[rows]
    )
    groups = groups[~groups.index.duplicated()]
    frames = {}
    for unit in UNITS:
        frame = pandas.concat(items[unit], ignore_index=True)
        frame["group"] = groups[frame["product_id"]].to_numpy()
        frame["linked"] = np.isin(frame["product_id"], linked)
        natural = mix(store.natural_counts(unit))
        frame["weight"] = (
            importance(frame["class_index"].to_numpy(), natural) if capped else np.ones(len(frame))
        )
        frames[unit] = frame
    return frames


def _novel(
    flags: Novelty, items: SplitAnswers, weight: np.ndarray, group: np.ndarray
) -> dict[str, Any]:
    """The share of test products that are flagged as unlike every category, which all are false
    alarms; and the share that is, each without its own category."""
    alarms, power = (flags(items.distances[:, column]) for column in (0, 1))
    return {
        "held_out_products": flags.held_out,
        "alarms": clustered_share(alarms, weight, group).to_json(),
        "power": clustered_share(power, weight, group).to_json(),
    }


def _added(products: pandas.DataFrame, taken: np.ndarray, additions: Additions) -> dict[str, Any]:
    """What categories that were added without a training take of the test products, which are all
    of others: the share, and the change of top-1."""
    right = (products["two_stage_class"] == products["class_index"]).to_numpy()
    weight, group = products["weight"].to_numpy(), products["group"].to_numpy()
    change = np.where(taken & right, -1.0, 0.0)
    return {
        "categories": [added.category.name for added in additions.each],
        "taken": clustered_share(taken, weight, group).to_json(),
        "top1_change": clustered_change(change, weight, group).to_json(),
    }


def corrected_labels(
    items: pandas.DataFrame, taxonomy: Taxonomy, labels_before: Mapping[int, int]
) -> dict[str, Any]:
    """How much of the products' accuracy stands on corrected test labels: top-1 of both stages by
    the labels that are there now and by those before any correction. Empty without corrections.

    `items`: products of the test split, as items.parquet has them.
    """
    old = items["product_id"].map(labels_before)
    corrected = old.notna().to_numpy()
    if not corrected.any():
        return {}
    truth, answer = items["class_index"].to_numpy(), items["two_stage_class"].to_numpy()
    before = truth.copy()
    before[corrected] = taxonomy.class_index(old[corrected].to_numpy(dtype=np.int64))
    weight, group = items["weight"].to_numpy(dtype=np.float64), items["group"].to_numpy()
    return {
        "test_products": int(corrected.sum()),
        "top1": clustered_share(answer == truth, weight, group).to_json(),
        "top1_by_labels_before": clustered_share(answer == before, weight, group).to_json(),
    }


def _previous(folder: Path) -> dict[str, Any] | None:
    """Top-1 of both stages per product of the evaluation that this one replaces; None if there is
    none to read."""
    try:
        metrics = read_sealed(folder / "metrics.json", "evaluate")
        return metrics["product"]["natural"]["two_stage"]["top1"]
    except (ArtifactError, KeyError):
        return None


def _without_photo(features: FeatureStore, store: Store, evaluated: int) -> int:
    """Kept test products that were not evaluated: none of their photos can be read and shows
    something."""
    stored = len(np.unique(features.table.product_id[features.of_split("test")]))
    return stored - evaluated + store.unseen("test")


def published(bundle: Bundle) -> Bundle | None:
    """The published second stage, None if there is none of the same training as `bundle`. Raises
    ArtifactError if it is damaged."""
    if not (bundle.folder / FOLDER / "manifest.json").exists():
        return None
    rival = Bundle.open(bundle.folder / FOLDER)
    if rival.made_from != bundle.made_from:
        return None
    rival.verify()
    return rival


def _stage2(bundle: Bundle) -> dict[str, Any]:
    """What the second stage is: confusion sets, those with a reclassifier, and how many of these
    each answer is used in."""
    answers = {
        name: sum(bundle.answers[c] == name for c in bundle.modelled)
        for name in (STAGE1, POOL, OWN)
    }
    return {
        "sets": len(bundle.members),
        "models": len(bundle.modelled),
        "default": bundle.default,
        "answers": answers,
    }


def _item_rows(
    result: Refined,
    old: Bundle | None,
    rivals: Mapping[str, Rival],
    images: ItemBlock,
    unit: str,
) -> pandas.DataFrame:
    pooled = result.pooled
    answers = dict(zip(SYSTEMS, (pooled.log_probs, result.shifted, result.two_stage), strict=False))
    if old:
        answers["published"] = refine(old, images.first_view(), unit).two_stage
    answers |= {name: rival.log_probs(images, unit) for name, rival in rivals.items()}
    truth = pooled.class_index.astype(np.int64)
    columns: dict[str, Any] = {
        "unit": unit,
        "item_id": pooled.item_id,
        "product_id": pooled.product_id,
        "class_index": truth,
        "n_images": pooled.n_images,
    }
    for system, log_probs in answers.items():
        own = log_probs[np.arange(len(truth)), truth][:, None]
        ahead = (log_probs > own) | (
            (log_probs == own) & (np.arange(log_probs.shape[1]) < truth[:, None])
        )
        columns[f"{system}_class"] = log_probs.argmax(axis=1)
        columns[f"{system}_confidence"] = np.exp(log_probs.max(axis=1))
        columns[f"{system}_true_confidence"] = np.exp(own[:, 0])
        columns[f"{system}_true_rank"] = ahead.sum(axis=1)
    return pandas.DataFrame(columns | {"refined": result.refined})


def save_evaluation(
    folder: Path,
    frames: dict[str, pandas.DataFrame],
    taxonomy: Taxonomy,
    train: np.ndarray,
    metrics: dict,
) -> None:
    """Writes the tables of the items of each unit, and last metrics.json, which knows their
    checksums."""
    everything = pandas.concat(frames.values(), ignore_index=True)
    per_category = pandas.concat(
        [_per_category(frame, unit, taxonomy, train) for unit, frame in frames.items()]
    )
    confusion = pandas.concat([_confusion(frame, unit) for unit, frame in frames.items()])
    tables = {
        "items.parquet": everything,
        "per_category.parquet": per_category,
        "confusion.parquet": confusion,
    }
    for name, table in tables.items():
        with atomic_path(folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    write_sealed(
        folder / "metrics.json",
        metrics | {"files": {name: sha256_file(folder / name) for name in tables}},
    )


def _per_category(
    frame: pandas.DataFrame, unit: str, taxonomy: Taxonomy, train: np.ndarray
) -> pandas.DataFrame:
    classes = len(taxonomy)
    support = np.bincount(frame["class_index"], minlength=classes)
    columns: dict[str, Any] = {
        "unit": unit,
        "class_index": np.arange(classes),
        "category_id": taxonomy.category_ids,
        **{
            level: [getattr(c, level) for c in taxonomy.categories]
            for level in ("level1", "level2", "level3")
        },
        "support": support,
        "train_images": train,
    }
    for system in systems_in(frame):
        hit = np.bincount(
            frame["class_index"][frame[f"{system}_true_rank"] == 0], minlength=classes
        )
        taken = np.bincount(frame[f"{system}_class"], minlength=classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[f"{system}_precision"], columns[f"{system}_recall"] = hit / taken, hit / support
            columns[f"{system}_f1"] = 2 * hit / (taken + support)
        columns[f"{system}_right"], columns[f"{system}_predicted"] = hit, taken
    table = pandas.DataFrame(columns)
    return table[
        (support > 0) | (table["stage1_predicted"] > 0) | (table["two_stage_predicted"] > 0)
    ]


def _confusion(frame: pandas.DataFrame, unit: str) -> pandas.DataFrame:
    parts = []
    for system in systems_in(frame):
        pairs = frame.groupby(["class_index", f"{system}_class"]).size().reset_index()
        pairs.columns = ["true_class", "predicted_class", "count"]
        parts.append(
            pairs.assign(unit=unit, system=system)[
                ["unit", "system", "true_class", "predicted_class", "count"]
            ]
        )
    return pandas.concat(parts)
