"""All of stage 2's training, in order: class mix, pool of experts, projection, confusion sets,
reclassifiers, gate. Test is never read.

A reclassifier that an interrupted run finished is kept, if it is whole; the manifest, written last,
declares the bundle finished.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from catalog.arithmetic import one_blas_thread, pin_blas
from catalog.artifacts import read_json, sha256_file, write_json, write_text, writing
from catalog.progress import progress
from catalog.taxonomy import Taxonomy
from features.store import FeatureStore
from stage2_xgb.addition import FOLDER as ADDED
from stage2_xgb.bundle import Bundle, model_name, save_booster, save_manifest, save_shared
from stage2_xgb.config import Stage2Config
from stage2_xgb.confusion import ConfusionSet, save_sets
from stage2_xgb.final import FOLDER as FINAL
from stage2_xgb.gate import HeldOut
from stage2_xgb.heldout import ValB
from stage2_xgb.inputs import ClassMixes, Clock, Stage2Inputs, prepare_stage2
from stage2_xgb.out_of_fold import (
    FILE,
    PRODUCTS_FILE,
    Products,
    nothing_judged,
    read_products,
    save_judged,
    score_out_of_fold,
)
from stage2_xgb.summary import Stage2Summary, summarise
from stage2_xgb.train_reclassifier import RowPicker, fit_booster

JOURNAL = "boosters/finished.txt"
"""sha256 and file of each reclassifier that an unfinished run has finished."""


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
    inputs = prepare_stage2(stores, mixes, taxonomy, config, jobs, clock)
    save_sets(folder / "sets.parquet", inputs.sets, taxonomy)
    picker = inputs.picker(config)
    boosters = _train_reclassifiers(inputs.sets, picker, folder, jobs)
    clock.lap("reclassify")
    held_out = _score_unseen(inputs, picker, len(taxonomy), folder, jobs)
    undecided = _save_undecided(folder, inputs, boosters, config.base_margin, made_from)
    val_b = ValB.of(undecided, inputs.views, held_out, inputs.targets["product"], jobs)
    decisions = val_b.decide(undecided, config)
    bundle = replace(undecided, answers={c: d.answer for c, d in decisions.items()})
    clock.lap("gate")
    weights = inputs.fitted.named_weights() if inputs.fitted else {}
    summary = summarise(bundle, val_b, val_b.own(bundle, config), weights, clock.laps)
    write_json(folder / "summary.json", asdict(summary))
    write_text(folder / "summary.txt", summary.text() + "\n")
    save_manifest(folder, bundle, decisions, taxonomy)
    (folder / JOURNAL).unlink(missing_ok=True)
    return summary


def _save_undecided(
    folder: Path,
    inputs: Stage2Inputs,
    boosters: dict[str, str],
    base_margin: bool,
    made_from: dict[str, Any],
) -> Bundle:
    """Writes shared.npz; returns the bundle before the gate, in which no reclassifier answers."""
    save_shared(folder, inputs.shifts, inputs.pool, inputs.projections)
    files = (folder / name for name in ("shared.npz", "sets.parquet", FILE, PRODUCTS_FILE))
    return Bundle(
        folder,
        inputs.shifts,
        inputs.pool,
        inputs.projections,
        members={s.class_index: s.members for s in inputs.sets},
        answers={},
        base_margin=base_margin,
        checksums=boosters | {path.name: sha256_file(path) for path in files if path.exists()},
        made_from=made_from,
        columns=inputs.views.columns,
    )


def _score_unseen(
    inputs: Stage2Inputs, picker: RowPicker, classes: int, folder: Path, jobs: int
) -> HeldOut:
    """What is known out of fold of what stage 1 never saw, which is also written; nothing without a
    gate. Whole answers of products of reserve and val_a too, if there is a pool of experts."""
    held_out, images, fitted = nothing_judged(), inputs.items["image"], inputs.fitted
    (folder / PRODUCTS_FILE).unlink(missing_ok=True)
    if picker.config.gate and fitted is None:
        held_out, _ = score_out_of_fold(picker, images, classes, jobs)
    elif picker.config.gate and fitted is not None:
        items, distance = read_products(inputs.views, fitted, inputs.projections)
        held_out, own = score_out_of_fold(picker, images, classes, jobs, items)
        plain = (items.product_id, items.class_index, items.top_class, items.log_prob)
        Products(*plain, *own, _side_by_side(items.z), *distance.T).save(folder / PRODUCTS_FILE)
    save_judged(folder / FILE, held_out)
    return held_out


def _side_by_side(z: np.ndarray) -> np.ndarray:
    """Features [N, V, C] of all views as [N, V * C]."""
    return z.reshape(len(z), z.shape[1] * z.shape[2])


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
