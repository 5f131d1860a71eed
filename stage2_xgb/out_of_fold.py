"""What reclassifiers answer for reserve, val_a and extra, by others that know none of an item's
product: its fold's are trained, and their confusion sets mined, on the other folds.

Together with val_b this is what the gate decides on. And products get whole answers, from which
promises follow. On disk: judged.parquet, products.npz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from joblib import Parallel, delayed
from scipy.special import logsumexp

from catalog.arithmetic import pin_blas
from catalog.arrays import read_npz, write_npz
from catalog.artifacts import atomic_path
from catalog.parallel import in_threads
from catalog.progress import progress
from stage2_xgb.confusion import ConfusionSet, find_confusion_sets
from stage2_xgb.crossfit import folds
from stage2_xgb.dataset import Block, Views
from stage2_xgb.expert_rows import HELD, UNSEEN, sample
from stage2_xgb.fit_experts import FittedPool
from stage2_xgb.gate import OWN, POOL, HeldOut
from stage2_xgb.items import Items, Projection, compact, has_columns, mean_by_product
from stage2_xgb.items import pool as pool_images
from stage2_xgb.reclassifier import Reclassifier
from stage2_xgb.train_reclassifier import RowPicker, fit_booster

FOLDS = 5
FILE = "judged.parquet"
PRODUCTS_FILE = "products.npz"
PRODUCTS = 50_000
"""Products of reserve and val_a that are answered, about, at most."""
_PLAIN = ("predicted", "class_index", "product_id")


@dataclass(frozen=True)
class Products:
    """N products of reserve and val_a: product_id int64 and class_index int32 [N]; the T likeliest
    classes int32 [N, T] and their log-probabilities float32 [N, T] before reclassifiers
    (`top_class`, `log_prob`), and by these (`own_class`, `own_log_prob`); projected features of all
    views side by side, z float32 [N, D]; and the `distance` to the nearest category, and to the
    nearest but their own (`apart`), float32 [N]. All by experts and reclassifiers that know nothing
    of the product."""

    product_id: np.ndarray
    class_index: np.ndarray
    top_class: np.ndarray
    log_prob: np.ndarray
    own_class: np.ndarray
    own_log_prob: np.ndarray
    z: np.ndarray
    distance: np.ndarray
    apart: np.ndarray

    def __len__(self) -> int:
        return len(self.product_id)

    def held_out(self) -> HeldOut:
        """What the opinion before and the reclassifiers have right."""
        predicted = self.top_class[:, 0]
        right = {POOL: predicted == self.class_index, OWN: self.own_class[:, 0] == self.class_index}
        return HeldOut(predicted, self.class_index, self.product_id, right)

    def save(self, path: Path) -> None:
        """Writes all arrays."""
        write_npz(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, path: Path) -> "Products":
        """Inverse of save. Raises ArtifactError if the file is missing or damaged."""
        arrays = read_npz(path, "stage2")
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def read_products(
    views: Views, fitted: FittedPool, projections: Sequence[Projection], jobs: int = 1
) -> tuple[Items, np.ndarray]:
    """Products of reserve and val_a as the pool has them out of fold, and their distances float32
    [N, 2] (`ExpertPool.distances`, the mean over a product's images). `jobs` threads ask for it."""

    def read(block: Block) -> tuple[Items, np.ndarray]:
        images = block.items(views.head)
        items = compact(pool_images(images), fitted.log_probs(images, "product"), projections)
        return items, mean_by_product(fitted.distances(images), images.product_id)

    blocks = sample(views, HELD, PRODUCTS, "products, out of fold", 0)
    items, distances = zip(*in_threads(read, blocks, jobs), strict=True)
    return Items.concatenate(items), np.concatenate(distances)


def score_out_of_fold(
    picker: RowPicker, images: Items, classes: int, jobs: int, products: Items | None = None
) -> tuple[HeldOut, tuple[np.ndarray, np.ndarray]]:
    """The picker's items that stage 1 never saw, and what the opinion before and reclassifiers have
    right of them, out of fold; sets are mined on `images`. `jobs` processes train.

    Also the reclassifiers' answers to `products`: the likeliest classes and their
    log-probabilities, as before where there is no reclassifier.
    """
    products = images[:0] if products is None else products
    items, seed = picker.items, picker.config.seed
    fold = folds(items.product_id, FOLDS, "gate folds", seed)
    image_fold = folds(images.product_id, FOLDS, "gate folds", seed)
    heldout = items.on(*UNSEEN)
    before = items.predicted == items.class_index
    own, answers = before.copy(), (products.top_class.copy(), products.log_prob.copy())
    tasks = list(_tasks(images, image_fold, classes, picker))
    results = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")(
        delayed(_answer_by_one)(picker, fold, heldout, products, *task) for task in tasks
    )
    with progress(len(tasks), "gate", "model") as bar:
        for rows, right, asked, answered in results:
            own[rows] = right
            for column, values in zip(answers, answered, strict=True):
                column[asked] = values
            bar.update()
    unseen = items[heldout]
    plain = unseen.predicted, unseen.class_index, unseen.product_id
    return HeldOut(*plain, {POOL: before[heldout], OWN: own[heldout]}), answers


def _tasks(
    images: Items, fold: np.ndarray, classes: int, picker: RowPicker
) -> Iterator[tuple[int, ConfusionSet]]:
    """Each fold with each confusion set of the others."""
    for number in range(FOLDS):
        others = images[fold != number]
        if others.on(*UNSEEN).any():
            for confusion_set in find_confusion_sets(others, classes, picker.config.confusion):
                yield number, confusion_set


def _answer_by_one(
    picker: RowPicker,
    fold: np.ndarray,
    heldout: np.ndarray,
    products: Items,
    number: int,
    confusion_set: ConfusionSet,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The rows that a reclassifier of one fold is asked about, and whether its answers are right;
    the rows of `products` that it is asked about, and its answers; runs in a worker process."""
    pin_blas()
    in_set = heldout & (fold == number) & (picker.items.predicted == confusion_set.class_index)
    asked_of = products.predicted == confusion_set.class_index
    if picker.columns:
        in_set &= has_columns(picker.items.codes)
        asked_of &= has_columns(products.codes)
    product_fold = folds(products.product_id, FOLDS, "gate folds", picker.config.seed)
    rows = np.flatnonzero(in_set)
    asked = np.flatnonzero((product_fold == number) & asked_of)
    booster = None
    if len(rows) or len(asked):
        known = picker.rows(confusion_set.members, fold != number)
        booster = fit_booster(known, picker.config, picker.columns)
    if booster is None:
        rows, asked = rows[:0], asked[:0]
        return rows, rows.astype(bool), asked, (products.top_class[asked], products.log_prob[asked])
    model = Reclassifier(confusion_set.members, booster, picker.config.base_margin)
    items = picker.items[rows]
    right = _answers(model, items)[0][:, 0] == items.class_index
    return rows, right, asked, _answers(model, products[asked])


def _answers(model: Reclassifier, items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Likeliest classes int32 [N, T] and their log-probabilities once the model has spread the mass
    of its set, of items that keep their likeliest classes alone."""
    if not len(items):
        return items.top_class, items.log_prob
    before = items.log_probs(model.members)
    within = model.log_probs(items, before) + logsumexp(before, axis=1, keepdims=True)
    outside = np.where(np.isin(items.top_class, model.members), -np.inf, items.log_prob)
    classes = np.column_stack([np.tile(model.members, (len(items), 1)), items.top_class])
    scores = np.column_stack([within, outside])
    order = np.argsort(-scores, axis=1, kind="stable")[:, : items.top_class.shape[1]]
    top_class, log_prob = (np.take_along_axis(x, order, axis=1) for x in (classes, scores))
    return top_class.astype(np.int32), log_prob.astype(np.float32)


def save_judged(path: Path, held: HeldOut) -> None:
    """Writes the items of `score_out_of_fold`."""
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
