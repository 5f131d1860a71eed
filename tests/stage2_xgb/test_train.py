"""One reclassifier: which rows it learns from, at which weight, and where it starts."""

import numpy as np
import pytest

from features.store import FeatureStore
from stage2_xgb.config import Stage2Config
from stage2_xgb.items import Items, compact
from stage2_xgb.train import RowPicker, TrainingRows, fit_booster
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, pooled

MEMBERS = np.array([2, 3], dtype=np.int32)


def items_of(fitted: Fitted) -> Items:
    """Images of train, reserve and val_a."""
    bundle = fitted.open()
    store: FeatureStore = fitted.store
    parts = (pooled(store, split, "image") for split in ("train", "reserve", "val_a"))
    return Items.concatenate([compact(p, bundle.shifts["image"], bundle.projections) for p in parts])


def pick(fitted: Fitted, **changes: object) -> tuple[Items, TrainingRows]:
    """The rows of one set under a changed configuration."""
    config: Stage2Config = CONFIG.model_copy(update=changes)
    items = items_of(fitted)
    picker = RowPicker(items, fitted.open().evidence, np.full(CLASSES, 1 / CLASSES), config)
    return items, picker.rows(MEMBERS)


@pytest.mark.parametrize(
    ("rows", "splits"), [("heldout", ["reserve", "val_a"]), ("train", ["train"]), ("both", ["train", "reserve", "val_a"])]
)
def test_rows_are_of_the_set_and_of_the_splits_asked_for(fitted: Fitted, rows: str, splits: list[str]) -> None:
    items, found = pick(fitted, rows=rows)
    wanted = items.on(*splits) & np.isin(items.class_index, MEMBERS)
    assert len(found.inputs) == len(found.label) == wanted.sum()
    np.testing.assert_array_equal(np.bincount(found.label), np.bincount(items.class_index[wanted])[MEMBERS])


def test_what_stage_1_saw_counts_less(fitted: Fitted) -> None:
    items, found = pick(fitted, rows="both", seen_weight=0.25)
    mine = np.isin(items.class_index, MEMBERS)
    assert found.weight.sum() == pytest.approx((mine & ~items.on("train")).sum() + 0.25 * (mine & items.on("train")).sum())
    _, none = pick(fitted, rows="both", seen_weight=0.0)
    assert len(none.label) == (mine & ~items.on("train")).sum()


def test_seen_rows_fill_up_what_unseen_ones_leave(fitted: Fitted) -> None:
    items = items_of(fitted)
    unseen = np.bincount(items.class_index[~items.on("train")], minlength=CLASSES)[MEMBERS]
    until = int(unseen.max()) + 3
    _, found = pick(fitted, seen_until=until)
    assert np.bincount(found.label).tolist() == [until, until]
    assert np.bincount(found.label[found.weight == 1]).tolist() == unseen.tolist()
    assert np.bincount(pick(fitted, seen_until=0)[1].label).tolist() == unseen.tolist()


def test_the_limit_keeps_unseen_rows(fitted: Fitted) -> None:
    _, found = pick(fitted, max_rows_per_class=10)
    assert np.bincount(found.label).tolist() == [10, 10] and (found.weight == 1).all()


def test_features_alone_start_from_nothing(fitted: Fitted) -> None:
    items, found = pick(fitted, base_margin=False)
    assert not found.margin.any() and found.inputs.shape[1] == items.z.shape[1] * items.z.shape[2]
    _, whole = pick(fitted)
    assert whole.margin.any() and whole.inputs.shape[1] > found.inputs.shape[1]


def test_one_class_alone_teaches_nothing() -> None:
    rows = TrainingRows(np.zeros((4, 2), np.float32), np.zeros(4, np.int32), np.zeros((4, 2), np.float32), np.ones(4, np.float32))
    assert fit_booster(rows, CONFIG) is None


def test_a_booster_is_the_same_each_time(fitted: Fitted) -> None:
    _, rows = pick(fitted)
    assert fit_booster(rows, CONFIG).save_raw("ubj") == fit_booster(rows, CONFIG).save_raw("ubj")
