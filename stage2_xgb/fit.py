"""All of stage 2's training, in order: class mix, projection, confusion sets, reranker,
reclassifiers, gate. Test is never read.

A reclassifier that an interrupted run finished is kept, if it is whole; the manifest, written last,
declares the bundle finished.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from catalog.arithmetic import one_blas_thread, pin_blas
from catalog.artifacts import read_json, sha256_file, write_json, write_text, writing
from catalog.errors import ShelfsortError
from catalog.progress import progress
from catalog.splits import SPLITS
from catalog.taxonomy import Taxonomy
from features.neighbours import Bank
from features.store import FeatureStore
from stage2_xgb.alternatives import save_logistic
from stage2_xgb.bundle import (
    RERANKER,
    UNTRAINED,
    Bundle,
    model_name,
    save_booster,
    save_manifest,
    save_shared,
)
from stage2_xgb.config import Stage2Config
from stage2_xgb.confusion import ConfusionSet, mine, save_sets
from stage2_xgb.dataset import Views, fit_projection, read_items
from stage2_xgb.evidence import Evidence
from stage2_xgb.gate import STAGE1
from stage2_xgb.heldout import UNITS, ValB
from stage2_xgb.items import Items, Pooled, Projection, pool
from stage2_xgb.prior import Shift, fit_shift, mix, target_mix
from stage2_xgb.reranker import Reranker
from stage2_xgb.summary import Stage2Summary, summarise
from stage2_xgb.train_reclassifier import RowPicker, enough, fit_booster, fit_logistic
from stage2_xgb.train_reranker import cross_fit

log = logging.getLogger(__name__)

SHARPNESS = {"mean": (0.0,), "weighted": (0.0, 0.5, 1.0, 2.0, 4.0)}
"""Of `pooling`: what val_a chooses from."""
JOURNAL = "boosters/finished.txt"
"""sha256 and file of each reclassifier that an unfinished run has finished."""
SHIFT_IMAGES = 10_000
"""Images that two numbers, temperature and strength, are fitted on at most."""


@dataclass(frozen=True)
class ClassMixes:
    """Counts per class [K]: in the catalogue, by unit, and as stage 1 was shown them (images of an
    epoch)."""

    natural: Mapping[str, np.ndarray]
    train: np.ndarray

    def target(self, config: Stage2Config, unit: str, taxonomy: Taxonomy) -> np.ndarray:
        """The mix [K] that items of a unit are expected to have."""
        return target_mix(config.target_prior, self.natural[unit], self.train, taxonomy)


@one_blas_thread()
def fit_stage2(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    taxonomy: Taxonomy,
    config: Stage2Config,
    folder: Path,
    made_from: dict[str, Any],
    jobs: int,
) -> Stage2Summary:
    """Trains the second stage on the views `stores` (stage 1's first) into `folder`.

    `jobs` processes train, one thread each: neither their number nor BLAS's threads change a bit.
    """
    _begin(folder, made_from)
    clock = _Clock()
    material = gather(stores, mixes, taxonomy, config)
    sets = material.sets
    save_sets(folder / "sets.parquet", sets, taxonomy)
    clock.lap("read")
    picker, reranker = material.picker(config, jobs)
    checksums = {RERANKER: save_booster(folder / RERANKER, reranker.booster)} if reranker else {}
    clock.lap("rerank")
    checksums |= _train_reclassifiers(sets, picker, config, folder, jobs)
    clock.lap("reclassify")
    members = {s.class_index: s.members for s in sets}
    bundle = Bundle(
        folder,
        material.shifts,
        material.sharpness,
        material.projections,
        material.evidence,
        members,
        {},
        STAGE1,
        config.rerank.candidates,
        config.model,
        config.base_margin,
        checksums,
        made_from,
    )
    save_shared(folder, bundle)
    checksums |= {name: sha256_file(folder / name) for name in ("shared.npz", "sets.parquet")}
    val_b = ValB.of(bundle, material.views)
    bundle.default, decisions = val_b.decide(bundle, config)
    bundle.answers = {c: d.answer for c, d in decisions.items()}
    clock.lap("gate")
    summary = summarise(bundle, val_b, val_b.answering(bundle, config), material.views, clock.laps)
    write_json(folder / "summary.json", asdict(summary))
    write_text(folder / "summary.txt", summary.text() + "\n")
    save_manifest(folder, bundle, decisions, taxonomy)
    (folder / JOURNAL).unlink(missing_ok=True)
    return summary


@dataclass(frozen=True)
class Material:
    """What every model of stage 2 is made from: the views, each unit's target mix [K] and each
    view's shift, the pooling's sharpness, each view's projection, the items of train, reserve and
    val_a by unit, the evidence and the confusion sets."""

    views: Views
    targets: dict[str, np.ndarray]
    shifts: dict[str, tuple[Shift | None, ...]]
    sharpness: float
    projections: tuple[Projection, ...]
    items: dict[str, Items]
    evidence: Evidence
    sets: list[ConfusionSet]

    def picker(self, config: Stage2Config, threads: int) -> tuple[RowPicker, Reranker | None]:
        """Finds training rows among the images and the products of several images; and the reranker
        whose opinion they have."""
        items = Items.concatenate([self.items["image"], self.items["product"]])
        target = self.targets["image"]
        reranker = None
        if config.rerank.use:
            if config.rows != "train":
                items = items[enough(items, config.seen_until, config.seed)]
            reranker, items = cross_fit(
                items, self.evidence, target, config.rerank, config.seed, threads, config.device
            )
        return RowPicker(items, self.evidence, target, config), reranker


@one_blas_thread()
def gather(
    stores: Sequence[FeatureStore], mixes: ClassMixes, taxonomy: Taxonomy, config: Stage2Config
) -> Material:
    """Reads the feature files once: class mix, projection, items, evidence, confusion sets.

    Raises ShelfsortError if they have no image of train and reserve, or none of reserve and val_a.
    """
    views = Views(stores, config.seed)
    _require_images(views)
    targets = {unit: mixes.target(config, unit, taxonomy) for unit in UNITS}
    shifts, sharpness = fit_shifts(views, targets, mix(mixes.train), config)
    projections = tuple(fit_projection(store, config.components, config.seed) for store in stores)
    whole = config.rows == "train" or config.confusion.rule == "published"
    missing = np.maximum(
        config.seen_until - views.fitted("reserve", "val_a"), 0
    )  # the first product fits under any cap
    splits = {"train": None if whole else missing, "reserve": None, "val_a": None}
    items = read_items(views, splits, shifts, projections, sharpness)
    evidence = gather_evidence(views, projections, mixes)
    sets = mine(items["image"], len(taxonomy), config.confusion)
    return Material(views, targets, shifts, sharpness, projections, items, evidence, sets)


def _require_images(views: Views) -> None:
    """Raises ShelfsortError where there is nothing to learn from."""
    for splits, purpose in (
        (("train", "reserve"), "compare photos with"),
        (("reserve", "val_a"), "learn confusions from"),
    ):
        if not views.fitted(*splits).any():
            counts = {name: int(views.fitted(name).sum()) for name in SPLITS[:3]}
            found = ", ".join(f"{count} of {name}" for name, count in counts.items())
            remedy = "ingest a dump with more products, then run the step features again"
            expected = f"expected images of {' or '.join(splits)}, to {purpose}"
            raise ShelfsortError(
                f"{views.first.path}: {expected}, found {found} that may be fitted; {remedy}"
            )


def _begin(folder: Path, made_from: dict[str, Any]) -> None:
    """Keeps what an interrupted run with the same inputs left; removes anything else."""
    started = folder / "started.json"
    made_from = json.loads(json.dumps(made_from))
    same = started.exists() and read_json(started, "stage2") == made_from
    (folder / "manifest.json").unlink(missing_ok=True)
    if not same:
        for path in folder.glob("boosters/*"):
            path.unlink()
        write_json(started, made_from)


def fit_shifts(
    views: Views, targets: dict[str, np.ndarray], train: np.ndarray, config: Stage2Config
) -> tuple[dict[str, tuple[Shift | None, ...]], float]:
    """Each unit's and view's class-mix shift, fitted on val_a, and the pooling's best `sharpness`
    there: on SHIFT_IMAGES of it at most, as these are held over all classes."""
    share = SHIFT_IMAGES / max(views.count({"val_a": None}), 1)
    images = [
        part.of_products(share, "class-mix shift", config.seed)
        for part in views.blocks("val_a", fit_only=True)
    ]

    def fit(parts: Sequence[Pooled], unit: str) -> tuple[tuple[Shift | None, ...], np.ndarray]:
        """Each view's shift, and each item's log-loss under the first."""
        labels = np.concatenate([part.class_index for part in parts])
        log_probs = [
            head and np.concatenate([part.log_probs[v] for part in parts])
            for v, head in enumerate(views.heads)
        ]
        shifts = tuple(
            None if x is None else fit_shift(x, labels, train, targets[unit]) for x in log_probs
        )
        return shifts, -shifts[0](log_probs[0])[np.arange(len(labels)), labels]

    single = all(len(part) == len(np.unique(part.product_id)) for part in images)
    sharpness = SHARPNESS[config.pooling]
    tried = {
        x: fit([pool(part, x) for part in images], "product")
        for x in (sharpness[:1] if single else sharpness)
    }
    best = sharpest({x: losses for x, (_, losses) in tried.items()})
    shifts = {"image": fit(images, "image")[0], "product": tried[best][0]}
    _warn_of_shifts(shifts, sum(map(len, images)))
    return shifts, best


def _warn_of_shifts(shifts: Mapping[str, Sequence[Shift | None]], images: int) -> None:
    """Logs what was not fitted, and what the fit's range cut off."""
    if not images:
        log.warning(
            "val_a has no image, on which temperature and strength of the class-mix shift are fitted: both stay 1"
        )
    for unit, views in shifts.items():
        for view, shift in enumerate(views):
            for name in shift.at_border if shift else ():
                value = getattr(shift, name)
                place = f"class-mix shift of {unit}s, view {view}"
                log.warning(
                    "%s: %s %.2f is at the end of its range, fitted on %d images of val_a",
                    place,
                    name,
                    value,
                    images,
                )


def sharpest(losses: Mapping[float, np.ndarray]) -> float:
    """The sharpness of least log-loss, if that is more than two standard errors below the plain
    mean's; else 0."""
    best = min(losses, key=lambda x: losses[x].sum())
    gain = losses[0.0] - losses[best]
    return best if gain.sum() > 2 * np.square(gain).sum() ** 0.5 else 0.0


def gather_evidence(views: Views, projections: Sequence[Projection], mixes: ClassMixes) -> Evidence:
    """The bank of fitted photos of train and reserve, and the class counts."""
    projected = [views.project(split, projections) for split in ("train", "reserve")]
    product_id, class_index, z = (np.concatenate(parts) for parts in zip(*projected, strict=True))
    banks = tuple(
        Bank.of(z[:, v], product_id, class_index, len(mixes.train)) for v in range(len(projections))
    )
    logs = (
        np.log(counts + 1).astype(np.float32) for counts in (mixes.train, mixes.natural["image"])
    )
    return Evidence(banks, *logs)


def _train_reclassifiers(
    sets: list[ConfusionSet], picker: RowPicker, config: Stage2Config, folder: Path, jobs: int
) -> dict[str, str]:
    """Trains the reclassifiers that are not there yet; file -> sha256 of every one."""
    if config.model in UNTRAINED:
        return {}
    folder = folder.absolute()  # a worker of a cluster may work elsewhere
    names = [model_name(s.class_index, config.model) for s in sets]
    checksums = _finished(folder, names)
    tasks = (
        delayed(_train_one)(picker, s.members, folder / name)
        for s, name in zip(sets, names, strict=True)
        if name not in checksums
    )
    results = Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch="2*n_jobs")(tasks)
    with progress(len(sets), "reclassifiers", "model", initial=len(checksums)) as bar:
        for path, checksum in results:
            bar.update()
            if checksum:
                name = path.relative_to(folder).as_posix()
                checksums[name] = checksum
                with (
                    writing(folder / JOURNAL),
                    open(folder / JOURNAL, "a", encoding="utf-8") as journal,
                ):
                    journal.write(f"{checksum}  {name}\n")
    return checksums


def _finished(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """File -> sha256 of the reclassifiers that an interrupted run finished and nothing has damaged
    since."""
    journal = folder / JOURNAL
    lines = (
        journal.read_text(encoding="utf-8", errors="replace").splitlines()
        if journal.exists()
        else []
    )
    known = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    return {
        n: known[n]
        for n in names
        if n in known and (folder / n).exists() and sha256_file(folder / n) == known[n]
    }


def _train_one(picker: RowPicker, members: np.ndarray, path: Path) -> tuple[Path, str | None]:
    """Trains and saves one reclassifier; runs in a worker process. The checksum is None where its
    classes have no rows."""
    pin_blas()
    rows = picker.rows(members)
    if picker.config.model == "logistic":
        arrays = fit_logistic(rows)
        return path, arrays and save_logistic(path, arrays)
    booster = fit_booster(rows, picker.config)
    return path, booster and save_booster(path, booster)


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
