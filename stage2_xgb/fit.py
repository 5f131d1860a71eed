"""All of stage 2's training, in order: class mix, pool of experts, projection, confusion sets,
reclassifiers, gate. Test is never read.

A reclassifier that an interrupted run finished is kept, if it is whole; the manifest, written last,
declares the bundle finished.
"""

import json
import logging
import shutil
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
from features.store import FeatureStore
from stage2_xgb.addition import FOLDER as ADDED
from stage2_xgb.bundle import Bundle, model_name, save_booster, save_manifest, save_shared
from stage2_xgb.config import Stage2Config
from stage2_xgb.confusion import ConfusionSet, mine, save_sets
from stage2_xgb.dataset import Opinion, Views, fit_projection, read_items
from stage2_xgb.expert_rows import sample
from stage2_xgb.final import FOLDER as FINAL
from stage2_xgb.fit_experts import FittedPool, fit_experts
from stage2_xgb.gate import HeldOut
from stage2_xgb.heldout import UNITS, ValB
from stage2_xgb.items import Items, Projection, of_unit
from stage2_xgb.out_of_fold import (
    FILE,
    PRODUCTS_FILE,
    Products,
    judge,
    nothing_judged,
    read_products,
    save_judged,
)
from stage2_xgb.prior import Shift, fit_shift, mix, target_mix
from stage2_xgb.summary import Stage2Summary, summarise
from stage2_xgb.train_reclassifier import RowPicker, fit_booster

log = logging.getLogger(__name__)

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
    clock = Clock()
    material = gather(stores, mixes, taxonomy, config, jobs, clock)
    sets = material.sets
    save_sets(folder / "sets.parquet", sets, taxonomy)
    picker = material.picker(config)
    checksums = _train_reclassifiers(sets, picker, folder, jobs)
    clock.lap("reclassify")
    judged = _judge(material, picker, len(taxonomy), folder, jobs)
    fitted = material.fitted
    bundle = Bundle(
        folder,
        material.shifts,
        fitted.pool if fitted else None,
        material.projections,
        {s.class_index: s.members for s in sets},
        {},
        config.base_margin,
        checksums,
        made_from,
        columns=material.views.columns,
    )
    save_shared(folder, bundle)
    files = (folder / name for name in ("shared.npz", "sets.parquet", FILE, PRODUCTS_FILE))
    checksums |= {path.name: sha256_file(path) for path in files if path.exists()}
    val_b = ValB.of(bundle, material.views, judged, material.targets["product"], jobs)
    decisions = val_b.decide(bundle, config)
    bundle.answers = {c: d.answer for c, d in decisions.items()}
    clock.lap("gate")
    weights = fitted.named_weights() if fitted else {}
    summary = summarise(bundle, val_b, val_b.own(bundle, config), weights, clock.laps)
    write_json(folder / "summary.json", asdict(summary))
    write_text(folder / "summary.txt", summary.text() + "\n")
    save_manifest(folder, bundle, decisions, taxonomy)
    (folder / JOURNAL).unlink(missing_ok=True)
    return summary


def _judge(
    material: "Material", picker: RowPicker, classes: int, folder: Path, jobs: int
) -> HeldOut:
    """What is known out of fold of reserve and val_a, which is also written; nothing without a
    gate. Whole answers of their products too, if there is a pool of experts."""
    judged, images, fitted = nothing_judged(), material.items["image"], material.fitted
    (folder / PRODUCTS_FILE).unlink(missing_ok=True)
    if picker.config.gate and fitted is None:
        judged, _ = judge(picker, images, classes, jobs)
    elif picker.config.gate and fitted is not None:
        items, distance = read_products(material.views, fitted, material.projections)
        judged, own = judge(picker, images, classes, jobs, items)
        plain = (items.product_id, items.class_index, items.top_class, items.log_prob)
        Products(*plain, *own, _side_by_side(items.z), *distance.T).save(folder / PRODUCTS_FILE)
    save_judged(folder / FILE, judged)
    return judged


def _side_by_side(z: np.ndarray) -> np.ndarray:
    """Features [N, V, C] of all views as [N, V * C]."""
    return z.reshape(len(z), z.shape[1] * z.shape[2])


@dataclass(frozen=True)
class Material:
    """What reclassifiers are made from: the views, each unit's target mix [K] and shift of stage 1,
    the pool of experts (None without), each view's projection, the held-out items, or those of
    train too, by unit, and the confusion sets."""

    views: Views
    targets: dict[str, np.ndarray]
    shifts: dict[str, Shift]
    fitted: FittedPool | None
    projections: tuple[Projection, ...]
    items: dict[str, Items]
    sets: list[ConfusionSet]

    def picker(self, config: Stage2Config) -> RowPicker:
        """Finds training rows among the images and the products of several images."""
        items = Items.concatenate([self.items["image"], self.items["product"]])
        return RowPicker(items, self.targets["image"], config, self.views.columns)


@one_blas_thread()
def gather(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    taxonomy: Taxonomy,
    config: Stage2Config,
    jobs: int,
    clock: "Clock | None" = None,
) -> Material:
    """From the feature files: class mix, pool of experts, projection, items, confusion sets.

    Raises ShelfsortError if they have no image of train and reserve, or none of reserve and val_a.
    """
    clock = clock or Clock()
    views = Views(stores)
    _require_images(views)
    targets, train = (
        {unit: mixes.target(config, unit, taxonomy) for unit in UNITS},
        mix(mixes.train),
    )
    shifts = fit_shifts(views, targets, train, config.seed)
    clock.lap("shift")
    fitted = fit_experts(views, targets, train, config.seed, jobs) if config.pool else None
    clock.lap("pool")
    projections = tuple(
        fit_projection(store, config.components, config.seed) for store in views.stores
    )
    from_train = config.rows == "train" or config.confusion.rule == "published"
    splits = ("train", "reserve", "val_a") if from_train else ("reserve", "val_a")
    opinion = fitted.log_probs if fitted else _adjusted(shifts)
    items = read_items(views, splits, opinion, projections, jobs)
    sets = mine(items["image"], len(taxonomy), config.confusion)
    clock.lap("read")
    return Material(views, targets, shifts, fitted, projections, items, sets)


def _adjusted(shifts: Mapping[str, Shift]) -> Opinion:
    """Stage 1's opinion under the target mix."""
    return lambda images, unit: shifts[unit](of_unit(images, unit).log_probs)


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
    for name in (FINAL, ADDED):
        shutil.rmtree(folder / name, ignore_errors=True)
    if not same:
        for path in folder.glob("boosters/*"):
            path.unlink()
        write_json(started, made_from)


def fit_shifts(
    views: Views, targets: Mapping[str, np.ndarray], train: np.ndarray, seed: int
) -> dict[str, Shift]:
    """Each unit's class-mix shift of stage 1, fitted on val_a: on SHIFT_IMAGES of it at most, as
    these are held over all classes."""
    blocks = sample(views, ("val_a",), SHIFT_IMAGES, "class-mix shift", seed)
    images = [block.items(views.head) for block in blocks]
    shifts = {}
    for unit, target in targets.items():
        items = [of_unit(part, unit) for part in images]
        labels = np.concatenate([part.class_index for part in items])
        log_probs = np.concatenate([part.log_probs for part in items])
        shifts[unit] = fit_shift(log_probs, labels, train, target)
    _warn_of_shifts(shifts, sum(map(len, images)))
    return shifts


def _warn_of_shifts(shifts: Mapping[str, Shift], images: int) -> None:
    """Logs what was not fitted, and what the fit's range cut off."""
    if not images:
        log.warning(
            "val_a has no image, on which temperature and strength of the class-mix shift are "
            "fitted: both stay 1"
        )
    for unit, shift in shifts.items():
        for name in shift.at_border:
            log.warning(
                "class-mix shift of %ss: %s %.2f is at the end of its range, fitted on %d images "
                "of val_a",
                unit,
                name,
                getattr(shift, name),
                images,
            )


def _train_reclassifiers(
    sets: list[ConfusionSet], picker: RowPicker, folder: Path, jobs: int
) -> dict[str, str]:
    """Trains the reclassifiers that are not there yet; file -> sha256 of every one."""
    folder = folder.absolute()  # a worker of a cluster may work elsewhere
    names = [model_name(s.class_index) for s in sets]
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
    booster = fit_booster(rows, picker.config, picker.columns)
    return path, save_booster(path, booster) if booster is not None else None


class Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends the part `name`, which began where the last one ended."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
