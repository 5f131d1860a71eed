"""The test split, once: accuracy of stage 1, of the shifted stage 1 and of both stages, per image and per product.

Writes evaluation/ (docs/formats.md). Intervals: paired bootstrap over groups of products that share a picture.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest, false_discovery_control

from catalog.artifacts import atomic_path, sha256_file, write_sealed
from catalog.errors import ShelfsortError
from catalog.progress import progress
from catalog.store import Store
from catalog.taxonomy import Taxonomy
from features.store import FeatureStore
from pipeline.config import EvaluateConfig
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, SHARED, STAGE1
from stage2_xgb.items import Pooled, pool
from stage2_xgb.prior import calibration_error, importance, mix
from stage2_xgb.published import FOLDER
from stage2_xgb.refine import refine

SYSTEMS = ("stage1", "shifted", "two_stage", "published")
"""The last one only where the published second stage was trained as well."""
UNITS = ("image", "product")
METRICS = ("top1", "top5", "macro_f1")
CHANGES = {
    "shifted_over_stage1": (1, 0), "two_stage_over_shifted": (2, 1), "two_stage_over_stage1": (2, 0),
    "published_over_stage1": (3, 0),
}  # fmt: skip


def evaluate(
    stores: Sequence[FeatureStore], store: Store, bundle: Bundle, config: EvaluateConfig, folder: Path, made_from: dict
) -> dict[str, Any]:  # fmt: skip
    """Scores the test split through the path that scoring uses, writes evaluation/ and returns what metrics.json holds.

    Raises ShelfsortError where no test image can be read.
    """
    started, taxonomy, features, views = time.perf_counter(), store.taxonomy, stores[0], Views(stores)
    rival = published(bundle)
    groups = product_groups(features, store)
    items = {unit: [] for unit in UNITS}
    rows = features.of_split("test")
    with progress(rows.stop - rows.start, "evaluate", "img") as bar:
        for images in views.blocks("test", fit_only=False):
            for unit in UNITS:
                items[unit].append(_judge(bundle, rival, images, unit))
            bar.update(len(images.product_id))
    if not any(len(frame) for frame in items["image"]):
        raise ShelfsortError(f"{features.path}: no readable image on the test split; the catalogue has too few products")
    rows = features.of_split("train")
    train = np.bincount(features.table.class_index[rows][features.table.fit[rows]], minlength=len(taxonomy))
    settings = store.settings
    metrics: dict[str, Any] = {
        "made_from": made_from,
        "computed_with": features.computed_with,
        "settings": settings | {"split": "test"},
        "stage2": _stage2(bundle),
    }
    frames = {}
    for unit in UNITS:
        frame = pandas.concat(items[unit], ignore_index=True)
        frame["group"] = groups[frame["product_id"].to_numpy()].to_numpy()
        natural = mix(store.natural_counts(unit))
        capped = settings["caps"]["test"] is not None
        frame["weight"] = importance(frame["class_index"].to_numpy(), natural) if capped else np.ones(len(frame))
        metrics[unit] = measure(frame, len(taxonomy), config)
        frames[unit] = frame
    metrics["rejects"] = dict(store.connection.execute("SELECT reason, count(*) FROM rejects GROUP BY reason"))
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    save_evaluation(folder, frames, taxonomy, train, metrics)
    return metrics


def product_groups(features: FeatureStore, store: Store) -> pandas.Series:
    """Group number of each test product, indexed by product id; products that share an identical picture have one group."""
    products = np.unique(features.table.product_id[features.of_split("test")])
    pairs = np.searchsorted(products, store.sharing("test"))
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(products),) * 2)
    return pandas.Series(connected_components(links, directed=False)[1], index=products)


def published(bundle: Bundle) -> Bundle | None:
    """The published second stage, where it was trained on the same features; one that an earlier training left is none. Raises
    ArtifactError where it is damaged."""
    if not (bundle.folder / FOLDER / "manifest.json").exists():
        return None
    rival = Bundle.open(bundle.folder / FOLDER)
    if rival.made_from != bundle.made_from:
        return None
    rival.verify()
    return rival


def _stage2(bundle: Bundle) -> dict[str, Any]:
    """What the second stage is: confusion sets, those with a reclassifier, and how many of these each answer is used in."""
    answers = {name: sum(bundle.answers[c] == name for c in bundle.modelled) for name in (STAGE1, SHARED, OWN)}
    return {"sets": len(bundle.members), "models": len(bundle.modelled), "default": bundle.default, "answers": answers}


def _judge(bundle: Bundle, rival: Bundle | None, images: Pooled, unit: str) -> pandas.DataFrame:
    pooled = pool(images, bundle.sharpness) if unit == "product" else images
    result = refine(bundle, pooled, unit)
    answers = [pooled.log_probs[0], result.shifted, result.two_stage]
    if rival:
        view = images.first_view()
        answers.append(refine(rival, pool(view, rival.sharpness) if unit == "product" else view, unit).two_stage)
    truth = pooled.class_index.astype(np.int64)
    columns: dict[str, Any] = {
        "unit": unit,
        "item_id": pooled.item_id,
        "product_id": pooled.product_id,
        "class_index": truth,
        "n_images": pooled.n_images,
    }
    for system, log_probs in zip(SYSTEMS, answers, strict=False):
        own = log_probs[np.arange(len(truth)), truth][:, None]
        ahead = (log_probs > own) | ((log_probs == own) & (np.arange(log_probs.shape[1]) < truth[:, None]))
        columns[f"{system}_class"] = log_probs.argmax(axis=1)
        columns[f"{system}_confidence"] = np.exp(log_probs.max(axis=1))
        columns[f"{system}_true_confidence"] = np.exp(own[:, 0])
        columns[f"{system}_true_rank"] = ahead.sum(axis=1)
    return pandas.DataFrame(columns | {"refined": result.refined})


def systems_in(frame: pandas.DataFrame) -> list[str]:
    """The systems that a table of items has answers of."""
    return [system for system in SYSTEMS if f"{system}_class" in frame]


@dataclass(frozen=True)
class _Figures:
    """All figures of one unit for any weighting of its items: an array [mixes, systems, metrics] a call."""

    frame: pandas.DataFrame
    classes: int
    min_support: int

    def __post_init__(self) -> None:
        truth = self.frame["class_index"].to_numpy()
        support = np.bincount(truth, minlength=self.classes)
        enough = support >= self.min_support
        cache = {
            "truth": truth, "natural": self.frame["weight"].to_numpy(), "enough": enough,
            "balanced": np.where(enough, 1 / np.maximum(support, 1), 0)[truth],
            "predicted": [self.frame[f"{s}_class"].to_numpy() for s in systems_in(self.frame)],
            "rank": [self.frame[f"{s}_true_rank"].to_numpy() for s in systems_in(self.frame)],
        }  # fmt: skip
        for name, value in cache.items():
            object.__setattr__(self, f"_{name}", value)

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        out = np.zeros((2, len(self._rank), len(METRICS)))
        for m, base in enumerate((self._natural, self._balanced)):
            weight = base * draws
            support = np.bincount(self._truth, weight, self.classes)
            for s, (predicted, rank) in enumerate(zip(self._predicted, self._rank, strict=True)):
                hit = np.bincount(self._truth, weight * (rank == 0), self.classes)
                taken = np.bincount(predicted, weight, self.classes)
                counted = (support > 0) & self._enough  # a category that most resamples miss would bend the interval
                f1 = (2 * hit[counted] / (support + taken)[counted]).mean() if counted.any() else 0.0
                if m == 0:
                    top = [np.dot(weight, rank < k) / weight.sum() for k in (1, 5)]
                else:
                    five = np.bincount(self._truth, weight * (rank < 5), self.classes)
                    top = [(x[counted] / support[counted]).mean() if counted.any() else 0.0 for x in (hit, five)]
                out[m, s] = (*top, f1)
        return out


def measure(frame: pandas.DataFrame, classes: int, config: EvaluateConfig) -> dict[str, Any]:
    """Figures of one unit with their 95% intervals, and the paired changes between systems."""
    figures = _Figures(frame, classes, config.min_support)
    point = figures(np.ones(len(frame)))
    group = frame["group"].to_numpy()
    number = group.max() + 1
    rng = np.random.default_rng(config.seed)
    samples = np.stack(
        [
            figures(np.bincount(rng.integers(number, size=number), minlength=number)[group].astype(float))
            for _ in range(config.resamples)
        ]
    )
    counts, weight = _counts(frame, classes, config.min_support), frame["weight"].to_numpy()
    out: dict[str, Any] = {}
    systems = systems_in(frame)
    for m, name in enumerate(("natural", "balanced")):
        n = counts[name]["n"]
        out[name] = {"counts": counts[name], "changes": {}}
        for s, system in enumerate(systems):
            out[name][system] = {metric: _interval(point[m, s, k], samples[:, m, s, k], n) for k, metric in enumerate(METRICS)}
        for change, (a, b) in CHANGES.items():
            if a >= len(systems):
                continue
            out[name]["changes"][change] = {
                metric: _interval(point[m, a, k] - point[m, b, k], samples[:, m, a, k] - samples[:, m, b, k], n)
                for k, metric in enumerate(METRICS)
            }
    right = {s: (frame[f"{s}_true_rank"] == 0).to_numpy() for s in systems}
    truth = frame["class_index"].to_numpy()
    out["categories_changed"] = changed_categories(truth, group, right["shifted"], right["two_stage"], classes)
    out["fixed"] = int((~right["shifted"] & right["two_stage"]).sum())
    out["broken"] = int((right["shifted"] & ~right["two_stage"]).sum())
    out["refined"] = int(frame["refined"].sum())
    out["ece"] = {s: calibration_error(frame[f"{s}_confidence"].to_numpy(), right[s], weight) for s in systems}
    return out


def _counts(frame: pandas.DataFrame, classes: int, min_support: int) -> dict[str, dict[str, Any]]:
    """Items and categories that count in each mix."""
    support, weight = np.bincount(frame["class_index"], minlength=classes), frame["weight"].to_numpy()
    enough = support >= min_support
    return {
        "natural": {
            "n": len(frame), "effective_n": float(weight.sum() ** 2 / (weight**2).sum()), "categories": int((support > 0).sum())
        },
        "balanced": {"n": int(support[enough].sum()), "categories": int(enough.sum()), "min_support": min_support},
    }  # fmt: skip


def changed_categories(
    truth: np.ndarray, group: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int, rate: float = 0.05
) -> dict[str, list[int]]:
    """Class indices whose items are significantly worse or better off with stage 2: paired sign test a category, false
    discovery rate held by Benjamini and Hochberg (1995). `before` and `after` bool [N]: whether the shifted stage 1 and both
    stages are right. The items of a `group` int [N] are not independent: together they have one vote in each class."""
    _, first, voter = np.unique(truth * (group.max(initial=0) + 1) + group, return_index=True, return_inverse=True)
    net = np.bincount(voter, after.astype(np.int8) - before)
    fixed, broken = (np.bincount(truth[first][won], minlength=classes) for won in (net > 0, net < 0))
    moved = np.flatnonzero(fixed + broken)
    if not len(moved):
        return {"worse": [], "better": []}
    chance = [binomtest(int(fixed[c]), int(fixed[c] + broken[c])).pvalue for c in moved]
    sure = moved[false_discovery_control(chance) <= rate]
    return {"worse": sure[fixed[sure] < broken[sure]].tolist(), "better": sure[fixed[sure] > broken[sure]].tolist()}


def _interval(value: float, samples: np.ndarray, n: int) -> dict[str, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high), "n": n}


def save_evaluation(
    folder: Path, frames: dict[str, pandas.DataFrame], taxonomy: Taxonomy, train: np.ndarray, metrics: dict
) -> None:  # fmt: skip
    """Writes the tables of the items of each unit, and last metrics.json, which knows their checksums."""
    everything = pandas.concat(frames.values(), ignore_index=True)
    per_category = pandas.concat([_per_category(frame, unit, taxonomy, train) for unit, frame in frames.items()])
    confusion = pandas.concat([_confusion(frame, unit) for unit, frame in frames.items()])
    tables = {"items.parquet": everything, "per_category.parquet": per_category, "confusion.parquet": confusion}
    for name, table in tables.items():
        with atomic_path(folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    write_sealed(folder / "metrics.json", metrics | {"files": {name: sha256_file(folder / name) for name in tables}})


def _per_category(frame: pandas.DataFrame, unit: str, taxonomy: Taxonomy, train: np.ndarray) -> pandas.DataFrame:
    classes = len(taxonomy)
    support = np.bincount(frame["class_index"], minlength=classes)
    columns: dict[str, Any] = {
        "unit": unit, "class_index": np.arange(classes), "category_id": taxonomy.category_ids,
        **{level: [getattr(c, level) for c in taxonomy.categories] for level in ("level1", "level2", "level3")},
        "support": support, "train_images": train,
    }  # fmt: skip
    for system in systems_in(frame):
        hit = np.bincount(frame["class_index"], frame[f"{system}_true_rank"] == 0, classes)
        taken = np.bincount(frame[f"{system}_class"], minlength=classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[f"{system}_precision"], columns[f"{system}_recall"] = hit / taken, hit / support
            columns[f"{system}_f1"] = 2 * hit / (taken + support)
        columns[f"{system}_predicted"] = taken
    table = pandas.DataFrame(columns)
    return table[(support > 0) | (table["stage1_predicted"] > 0) | (table["two_stage_predicted"] > 0)]


def _confusion(frame: pandas.DataFrame, unit: str) -> pandas.DataFrame:
    parts = []
    for system in systems_in(frame):
        pairs = frame.groupby(["class_index", f"{system}_class"]).size().reset_index()
        pairs.columns = ["true_class", "predicted_class", "count"]
        parts.append(pairs.assign(unit=unit, system=system)[["unit", "system", "true_class", "predicted_class", "count"]])
    return pandas.concat(parts)
