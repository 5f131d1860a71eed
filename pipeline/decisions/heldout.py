"""What both stages answer for held-out products, of which no product had a part in what is judged
on it: the one source of the coverage table, of promises, and of what a new dump is compared with.

Products of val_b are answered by the second stage as it is; those of reserve and val_a by one that
was fitted without them (stage2_xgb.out_of_fold).

In: a second stage and the features of the views. On disk: stage2/heldout.npz (docs/formats.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.arithmetic import one_blas_thread
from catalog.arrays import read_npz, write_npz
from catalog.artifacts import sha256_file
from catalog.errors import ArtifactError
from catalog.splits import sample_mask
from pipeline.decisions.answers import Answers
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, POOL
from stage2_xgb.heldout import ValB
from stage2_xgb.items import ItemBlock, mean_by_product
from stage2_xgb.out_of_fold import FILE, PRODUCTS_FILE, Products, read_judged
from stage2_xgb.refine import answer_with_all

SCHEMA = 2
STEP = "stage2"


_COLUMNS = ("product_id", "class_index", "z", "distance", "apart")


@dataclass(frozen=True)
class HeldOutAnswers:
    """N held-out products: their ids int64 [N], true categories int32 [N], answers, projected
    features float32 [N, D] (all views side by side), and how far they are from the nearest category
    (`distance`) and from the nearest but their own (`apart`), float32 [N], NaN if nothing says so.

    The answers are under the class mix `fitted` [K]; the products are a sample of the mix `source`
    [K].
    """

    product_id: np.ndarray
    class_index: np.ndarray
    answers: Answers
    z: np.ndarray
    distance: np.ndarray
    apart: np.ndarray
    fitted: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: np.ndarray) -> "HeldOutAnswers":
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return replace(self, **columns, answers=self.answers[rows])

    def under(self, target: np.ndarray) -> "HeldOutAnswers":
        """The products that stand for a class mix `target` [K], answered under that mix.

        A product is kept with a probability that grows with its category's share in the target
        over that in the source, 1 for the largest (exact rejection sampling): the kept ones are
        independent draws from the target mix, as far as its categories have held-out products.
        """
        weight = (target / self.source)[self.class_index]
        share = weight / weight.max(initial=0.0) if len(weight) else weight
        kept = np.isclose(share, 1) | sample_mask(self.product_id, share, "held-out mix", 0)
        answers = self.answers
        if not np.array_equal(target, self.fitted):
            answers = answers.under(self.fitted, target)
        return replace(self, answers=answers, fitted=target, source=target)[kept]


@one_blas_thread()
def held_out_answers(
    bundle: Bundle, views: Views, config: Stage2Config, fitted: np.ndarray, source: np.ndarray
) -> HeldOutAnswers:
    """Asks a second stage about the products that it was not fitted on, and takes what it answered
    out of fold for others.

    Whether a reclassifier answers for a product is what most decisions of other products say.
    """
    val_b = ValB.of(bundle, views, read_judged(bundle.folder / FILE), fitted, jobs=1)
    others, further = None, val_b.held[:0]
    if PRODUCTS_FILE in bundle.checksums:
        others = Products.read(bundle.folder / PRODUCTS_FILE)
        further = others.held_out()
    share, share_of_others = val_b.own_of(bundle, config, further)
    products = val_b.of_unit("product")
    ids, by_own = val_b.held.product_id[products].tolist(), share[products] >= 0.5
    own = dict(zip(ids, by_own, strict=True))
    blocks = [
        block
        for images in views.blocks("val_b", fit_only=True)
        if len(block := _answered(bundle, images, own, fitted, source))
    ]
    if others is not None and len(others):
        blocks.append(_out_of_fold(others, share_of_others >= 0.5, fitted, source))
    return _concatenated(blocks) if blocks else _nothing(fitted, source)


def _answered(
    bundle: Bundle,
    images: ItemBlock,
    own: Mapping[int, bool],
    fitted: np.ndarray,
    source: np.ndarray,
) -> HeldOutAnswers:
    pooled, opinions = answer_with_all(bundle, images, "product")
    by_own = np.array([own[product] for product in pooled.product_id.tolist()], dtype=bool)
    log_probs = np.where(by_own[:, None], opinions[OWN], opinions[POOL])
    distance, apart = (mean_by_product(x, images.product_id) for x in distances(bundle, images))
    return HeldOutAnswers(
        pooled.product_id,
        pooled.class_index,
        Answers.of(log_probs),
        projected(bundle, pooled),
        distance,
        apart,
        fitted,
        source,
    )


def _out_of_fold(
    products: Products, own: np.ndarray, fitted: np.ndarray, source: np.ndarray
) -> HeldOutAnswers:
    answers = Answers(
        np.where(own[:, None], products.own_class, products.top_class),
        np.where(own[:, None], products.own_log_prob, products.log_prob),
    )
    columns = {name: getattr(products, name) for name in _COLUMNS}
    return HeldOutAnswers(**columns, answers=answers, fitted=fitted, source=source)


def distances(bundle: Bundle, images: ItemBlock) -> tuple[np.ndarray, np.ndarray]:
    """How far images are from the nearest category, and from the nearest but their own, float32
    [N]; NaN if there is no pool of experts to say so (`ExpertPool.distances`)."""
    if bundle.pool is None:
        unknown = np.full(len(images), np.nan, dtype=np.float32)
        return unknown, unknown
    return bundle.pool.distances(images)


def projected(bundle: Bundle, pooled: ItemBlock) -> np.ndarray:
    """Projected features of items in all views, side by side, float32 [N, D]."""
    views = zip(bundle.projections, pooled.features, strict=True)
    return np.concatenate([projection(x) for projection, x in views], axis=1)


def _concatenated(blocks: list[HeldOutAnswers]) -> HeldOutAnswers:
    columns = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in _COLUMNS
    }
    answers = Answers.concatenate([block.answers for block in blocks])
    return replace(blocks[0], **columns, answers=answers)


def _nothing(fitted: np.ndarray, source: np.ndarray) -> HeldOutAnswers:
    none, classes = np.zeros((0, 1), dtype=np.float32), np.zeros((0, 1), dtype=np.int32)
    ids, flat = np.zeros(0, dtype=np.int64), none[:, 0]
    answers = Answers(classes, none)
    return HeldOutAnswers(ids, classes[:, 0], answers, none, flat, flat, fitted, source)


def path_of(stage2: Path) -> Path:
    """Where the held-out answers of a second stage lie."""
    return stage2 / "heldout.npz"


def save(stage2: Path, held: HeldOutAnswers) -> None:
    """Writes the held-out answers beside the second stage that gave them."""
    write_npz(
        path_of(stage2),
        schema=np.array(SCHEMA),
        stage2=np.array(_stage2(stage2)),
        top_class=held.answers.top_class,
        log_prob=held.answers.log_prob,
        **{name: getattr(held, name) for name in _COLUMNS},
        fitted=held.fitted,
        source=held.source,
    )


def is_current(stage2: Path) -> bool:
    """Whether the held-out answers are there, whole, and of this very second stage."""
    try:
        read(stage2)
    except ArtifactError:
        return False
    return True


def read(stage2: Path) -> HeldOutAnswers:
    """The held-out answers. Raises ArtifactError if they are missing, damaged or another second
    stage's; the step stage2 asks again without training."""
    path = path_of(stage2)
    try:
        arrays: dict[str, Any] = read_npz(path, STEP)
        if (schema := int(arrays.pop("schema"))) != SCHEMA:
            raise ArtifactError(path, f"of schema {schema}, expected {SCHEMA}", STEP)
        if str(arrays.pop("stage2")) != _stage2(stage2):
            raise ArtifactError(path, "measured with another stage 2 than is there now", STEP)
        answers = Answers(arrays.pop("top_class"), arrays.pop("log_prob"))
        return HeldOutAnswers(answers=answers, **arrays)
    except ArtifactError as error:
        raise ArtifactError(path, error.problem, STEP, resume=True) from error
    except (KeyError, TypeError) as error:
        raise ArtifactError(path, f"lacks an array: {error}", STEP, resume=True) from error


def _stage2(stage2: Path) -> str:
    return sha256_file(stage2 / "manifest.json")
