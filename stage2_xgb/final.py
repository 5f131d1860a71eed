"""The last fit for production: the experts of an evaluated second stage fitted again on every
labelled image, val_b and test included.

Temperatures, weights, reclassifiers and who answers stay as they were evaluated; so the figures of
`evaluate` are of the fit before. On disk: a bundle of its own within the evaluated one's folder.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from catalog.arithmetic import one_blas_thread
from catalog.artifacts import read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from catalog.splits import SPLITS
from features.store import FeatureStore
from stage2_xgb.bundle import SCHEMA, Bundle, save_shared
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.expert_rows import Rows, read_rows
from stage2_xgb.experts import LinearExpert, OneHot
from stage2_xgb.lda import fit_lda
from stage2_xgb.logistic import fit_logistic

FOLDER = "final"
"""Where its bundle lies, within the evaluated one's."""


@one_blas_thread()
def fit_final(stores: Sequence[FeatureStore], bundle: Bundle, seed: int, jobs: int) -> Bundle:
    """Fits the experts of an evaluated `bundle` on all splits of its views `stores`, saves the
    result in its folder FOLDER and opens it. Raises ShelfsortError if it has no pool of experts."""
    if bundle.pool is None:
        raise ShelfsortError(
            f"{bundle.folder}: expected a pool of experts to fit again, found that stage2.pool is "
            "off; train with: --set stage2.pool=true --rebuild"
        )
    views, folder = Views(stores), bundle.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    for name in bundle.checksums:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    pool = _refitted(views, bundle.pool, seed, jobs)
    save_shared(folder, bundle.shifts, pool, bundle.projections)
    manifest = read_sealed(bundle.folder / "manifest.json", "stage2", SCHEMA)
    manifest["files"] |= {"shared.npz": sha256_file(folder / "shared.npz")}
    manifest["final"] = {
        "evaluated": sha256_file(bundle.folder / "manifest.json"),
        "images": {split: int(views.fitted(split).sum()) for split in SPLITS},
    }
    write_sealed(folder / "manifest.json", manifest)
    return Bundle.open(folder)


def _refitted(views: Views, pool: ExpertPool, seed: int, jobs: int) -> ExpertPool:
    """The same kinds of experts, fitted on the rows of all splits."""
    rows = read_rows(views, seed, jobs, SPLITS)
    linear = [
        replace(_again(expert, rows, views.classes), inverse_temperature=expert.inverse_temperature)
        for expert in pool.linear
    ]
    return replace(pool, linear=tuple(linear), neighbours=rows.neighbours)


def _again(expert: LinearExpert, rows: Rows, classes: int) -> LinearExpert:
    """An expert of the same kind, of other rows; the old one if these are too many for its kind."""
    if isinstance(expert.inputs, OneHot):
        coded = rows.joint if expert.inputs.views else rows.coded
        return coded.fit(classes) if coded else expert
    if expert.inputs.root:
        return fit_lda(rows.total, rows.inputs)
    if rows.logistic is None:
        return expert
    x, class_index, _ = rows.logistic
    return fit_logistic(x, class_index, classes, expert.inputs, start=expert)


def open_final(evaluated: Path) -> Bundle | None:
    """The last fit of the second stage in a folder; None if there is none. Raises ArtifactError if
    it was made from another."""
    folder = evaluated / FOLDER
    if not (folder / "manifest.json").exists():
        return None
    bundle = Bundle.open(folder)
    if bundle.final is None or bundle.final["evaluated"] != sha256_file(
        evaluated / "manifest.json"
    ):
        raise ArtifactError(folder, "made from another stage 2 than is there now", "stage2")
    return bundle


def refitted_on(bundle: Bundle) -> str | None:
    """What the experts were fitted on if this is a last fit, for a terminal; else None."""
    if bundle.final is None:
        return None
    images: dict[str, int] = bundle.final["images"]
    counts = ", ".join(f"{split} {count}" for split, count in images.items())
    return (
        f"experts fitted on all {sum(images.values())} labelled images ({counts}); the figures of "
        "evaluate are of the fit before, which knew neither val_b nor test"
    )
