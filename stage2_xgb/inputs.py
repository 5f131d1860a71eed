"""What the second stage is trained on: class mixes and shift, pool of experts, projections,
held-out items, confusion sets.

In: the features.h5 of all views. Writes nothing.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from catalog.arithmetic import one_blas_thread
from catalog.errors import ShelfsortError
from catalog.splits import EXTRA, SPLITS
from catalog.taxonomy import Taxonomy
from features.store import FeatureStore
from stage2_xgb.config import Stage2Config
from stage2_xgb.confusion import ConfusionSet, find_confusion_sets
from stage2_xgb.dataset import Block, Opinion, Views, fit_projection, read_items
from stage2_xgb.expert_pool import ExpertPool
from stage2_xgb.expert_rows import HELD, sample
from stage2_xgb.fit_experts import FittedPool, fit_experts
from stage2_xgb.heldout import UNITS
from stage2_xgb.items import Items, Projection, of_unit
from stage2_xgb.prior import Shift, fit_shift, mix, target_mix
from stage2_xgb.train_reclassifier import RowPicker

log = logging.getLogger(__name__)

SHIFT_IMAGES = 10_000
"""Images that two numbers, temperature and strength, are fitted on at most."""
EXTRA_IMAGES = 200_000
"""Images of extra that reclassifiers learn from and the gate counts, about, at most."""


@dataclass(frozen=True)
class ClassMixes:
    """Counts per class [K]: in the catalogue, by unit, and as stage 1 was shown them (images of an
    epoch)."""

    natural: Mapping[str, np.ndarray]
    train: np.ndarray

    def target(self, config: Stage2Config, unit: str, taxonomy: Taxonomy) -> np.ndarray:
        """The mix [K] that items of a unit are expected to have."""
        return target_mix(config.target_prior, self.natural[unit], self.train, taxonomy)


class Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends the part `name`, which began where the last one ended."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


@dataclass(frozen=True)
class Stage2Inputs:
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

    @property
    def pool(self) -> ExpertPool | None:
        """The pool of experts as it answers; None without."""
        return self.fitted.pool if self.fitted else None

    def picker(self, config: Stage2Config) -> RowPicker:
        """Finds training rows among the images and the products of several images."""
        items = Items.concatenate([self.items["image"], self.items["product"]])
        return RowPicker(items, self.targets["image"], config, self.views.columns)


@one_blas_thread()
def prepare_stage2(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    taxonomy: Taxonomy,
    config: Stage2Config,
    jobs: int,
    clock: "Clock | None" = None,
) -> Stage2Inputs:
    """From the feature files: class mix, pool of experts, projection, items, confusion sets.

    Raises ShelfsortError if they have no image of train and reserve, or none of reserve and val_a.
    """
    clock = clock or Clock()
    views = Views(stores)
    _require_images(views)
    targets = {unit: mixes.target(config, unit, taxonomy) for unit in UNITS}
    train = mix(mixes.train)
    shifts = fit_shifts(views, targets, train, config.seed)
    clock.lap("shift")
    fitted = fit_experts(views, targets, train, config.seed, jobs) if config.pool else None
    clock.lap("pool")
    projections = tuple(
        fit_projection(store, config.components, config.seed) for store in views.stores
    )
    from_train = config.rows == "train" or config.confusion.rule == "published"
    opinion = fitted.log_probs if fitted else _adjusted(shifts)
    splits = ("train", *HELD) if from_train else HELD
    total = int(views.fitted(*splits).sum() + min(views.fitted(EXTRA).sum(), EXTRA_IMAGES))
    blocks = _rows(views, splits, config.seed)
    items = read_items(views, blocks, total, opinion, projections, jobs)
    sets = find_confusion_sets(items["image"], len(taxonomy), config.confusion)
    clock.lap("read")
    return Stage2Inputs(views, targets, shifts, fitted, projections, items, sets)


def _rows(views: Views, splits: Sequence[str], seed: int) -> Iterator[Block]:
    """The images of some splits, and of what the cap of train cut, about EXTRA_IMAGES at most."""
    for split in splits:
        yield from views.features(split, fit_only=True)
    yield from sample(views, (EXTRA,), EXTRA_IMAGES, "rows of reclassifiers", seed)


def _adjusted(shifts: Mapping[str, Shift]) -> Opinion:
    """Stage 1's opinion under the target mix."""
    return lambda images, unit: shifts[unit](of_unit(images, unit).log_probs)


def _require_images(views: Views) -> None:
    """Raises ShelfsortError if there is nothing to learn from."""
    for splits, purpose in (
        (("train", "reserve"), "compare photos with"),
        (("reserve", "val_a"), "learn confusions from"),
    ):
        if not views.fitted(*splits).any():
            counts = {name: int(views.fitted(name).sum()) for name in SPLITS[:3]}
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            remedy = "ingest a dump with more products, then run the step features again"
            expected = f"expected images of {' or '.join(splits)}, to {purpose}"
            raise ShelfsortError(
                f"{views.first.path}: {expected}, found {listed} that may be fitted; {remedy}"
            )


def fit_shifts(
    views: Views, targets: Mapping[str, np.ndarray], train: np.ndarray, seed: int
) -> dict[str, Shift]:
    """Each unit's class-mix shift of stage 1, fitted on val_a: on SHIFT_IMAGES of it at most, as
    these are held over all classes."""
    blocks = sample(views, ("val_a",), SHIFT_IMAGES, "class-mix shift", seed)
    images = [block.items(views.head) for block in blocks]
    shifts = {}
    for unit, target in targets.items():
        items = [of_unit(chunk, unit) for chunk in images]
        labels = np.concatenate([chunk.class_index for chunk in items])
        log_probs = np.concatenate([chunk.log_probs for chunk in items])
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
