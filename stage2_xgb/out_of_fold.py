"""What reclassifiers answer for reserve and val_a, by others that know none of an item's product:
its fold's are trained, and their confusion sets mined, on the other folds.

Together with val_b this is what the gate decides on. On disk: judged.parquet.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from joblib import Parallel, delayed
from scipy.special import logsumexp

from catalog.arithmetic import pin_blas
from catalog.artifacts import atomic_path
from catalog.progress import progress
from stage2_xgb.confusion import ConfusionSet, find_confusion_sets
from stage2_xgb.crossfit import folds
from stage2_xgb.gate import OWN, POOL, HeldOut
from stage2_xgb.items import Items
from stage2_xgb.reclassifier import Reclassifier
from stage2_xgb.train_reclassifier import RowPicker, fit_booster

FOLDS = 5
FILE = "judged.parquet"
_PLAIN = ("predicted", "class_index", "product_id")


def judge(picker: RowPicker, images: Items, classes: int, jobs: int) -> HeldOut:
    """The picker's items of reserve and val_a, and what the opinion before and reclassifiers have
    right of them, out of fold; sets are mined on `images`. `jobs` processes train."""
    items, seed = picker.items, picker.config.seed
    fold = folds(items.product_id, FOLDS, "gate folds", seed)
    image_fold = folds(images.product_id, FOLDS, "gate folds", seed)
    heldout = items.on("reserve", "val_a")
    before = items.predicted == items.class_index
    own = before.copy()
    tasks = list(_tasks(images, image_fold, classes, picker))
    results = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")(
        delayed(_judge_one)(picker, fold, heldout, *task) for task in tasks
    )
    with progress(len(tasks), "gate", "model") as bar:
        for rows, right in results:
            own[rows] = right
            bar.update()
    judged = items[heldout]
    plain = judged.predicted, judged.class_index, judged.product_id
    return HeldOut(*plain, {POOL: before[heldout], OWN: own[heldout]})


def _tasks(
    images: Items, fold: np.ndarray, classes: int, picker: RowPicker
) -> Iterator[tuple[int, ConfusionSet]]:
    """Each fold with each confusion set of the others."""
    for number in range(FOLDS):
        others = images[fold != number]
        if others.on("reserve", "val_a").any():
            for found in find_confusion_sets(others, classes, picker.config.confusion):
                yield number, found


def _judge_one(
    picker: RowPicker, fold: np.ndarray, heldout: np.ndarray, number: int, found: ConfusionSet
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a reclassifier of one fold is asked about, and whether its answers are right;
    runs in a worker process."""
    pin_blas()
    mine = heldout & (fold == number) & (picker.items.predicted == found.class_index)
    rows, nothing = np.flatnonzero(mine), np.zeros(0, dtype=np.int64)
    booster = None
    if len(rows):
        booster = fit_booster(picker.rows(found.members, fold != number), picker.config)
    if booster is None:
        return nothing, nothing.astype(bool)
    model = Reclassifier(found.members, booster, picker.config.base_margin)
    items = picker.items[rows]
    return rows, _answers(model, items) == items.class_index


def _answers(model: Reclassifier, items: Items) -> np.ndarray:
    """Likeliest classes int [N] once the model has spread the mass of its set, of items that keep
    their likeliest classes alone."""
    before = items.log_probs(model.members)
    within = model.log_probs(items, before) + logsumexp(before, axis=1, keepdims=True)
    outside = np.where(np.isin(items.top_class, model.members), -np.inf, items.log_prob)
    others = np.take_along_axis(items.top_class, outside.argmax(axis=1)[:, None], axis=1)[:, 0]
    inside = within.max(axis=1) >= outside.max(axis=1)
    return np.where(inside, model.members[within.argmax(axis=1)], others)


def save_judged(path: Path, held: HeldOut) -> None:
    """Writes what `judge` found."""
    columns = {name: getattr(held, name) for name in _PLAIN} | dict(held.right)
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def read_judged(path: Path) -> HeldOut:
    """Inverse of save_judged."""
    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    predicted, class_index, product_id = (columns.pop(name) for name in _PLAIN)
    return HeldOut(predicted, class_index, product_id, columns)


def nothing_judged() -> HeldOut:
    """No item."""
    none = np.zeros(0, dtype=np.int64)
    return HeldOut(none, none, none, {name: none.astype(bool) for name in (POOL, OWN)})
