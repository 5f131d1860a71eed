"""One reclassifier: which rows it learns from, at which weight, and where it starts."""

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from catalog.splits import SPLITS
from stage2_xgb.experts import Columns
from stage2_xgb.items import Items, compact
from stage2_xgb.train_reclassifier import RowPicker, TrainingRows, fit_booster
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, pooled

if TYPE_CHECKING:
    from features.store import FeatureStore
    from stage2_xgb.config import Stage2Config

MEMBERS = np.array([2, 3], dtype=np.int32)


def items_of(fitted: Fitted) -> Items:
    """Images of train, reserve and val_a."""
    bundle = fitted.open()
    store: FeatureStore = fitted.store
    parts = (pooled(store, split, "image") for split in ("train", "reserve", "val_a"))
    return Items.concatenate(
        [compact(p, bundle.shifts["image"](p.log_probs), bundle.projections) for p in parts]
    )


def pick(fitted: Fitted, **changes: object) -> tuple[Items, TrainingRows]:
    """The rows of one set under a changed configuration."""
    config: Stage2Config = CONFIG.model_copy(update=changes)
    items = items_of(fitted)
    picker = RowPicker(items, np.full(CLASSES, 1 / CLASSES), config)
    return items, picker.rows(MEMBERS)


@pytest.mark.parametrize(
    ("rows", "splits"),
    [
        ("heldout", ["reserve", "val_a"]),
        ("train", ["train"]),
    ],
)
def test_rows_are_of_the_set_and_of_the_splits_asked_for(
    fitted: Fitted, rows: str, splits: list[str]
) -> None:
    items, found = pick(fitted, rows=rows)
    wanted = items.on(*splits) & np.isin(items.class_index, MEMBERS)
    assert len(found.inputs) == len(found.label) == wanted.sum()
    np.testing.assert_array_equal(
        np.bincount(found.label), np.bincount(items.class_index[wanted])[MEMBERS]
    )


def test_a_class_has_so_many_rows_at_most(fitted: Fitted) -> None:
    _, found = pick(fitted, max_rows_per_class=10)
    assert np.bincount(found.label).tolist() == [10, 10]


def test_features_alone_start_from_nothing(fitted: Fitted) -> None:
    items, found = pick(fitted, base_margin=False)
    assert not found.margin.any() and found.inputs.shape[1] == items.z.shape[1] * items.z.shape[2]
    _, whole = pick(fitted)
    assert whole.margin.any() and whole.inputs.shape[1] > found.inputs.shape[1]


def test_one_class_alone_teaches_nothing() -> None:
    rows = TrainingRows(
        np.zeros((4, 2), np.float32),
        np.zeros(4, np.int32),
        np.zeros((4, 2), np.float32),
    )
    assert fit_booster(rows, CONFIG) is None


def test_a_booster_is_the_same_each_time(fitted: Fitted) -> None:
    _, rows = pick(fitted)
    assert fit_booster(rows, CONFIG).save_raw("ubj") == fit_booster(rows, CONFIG).save_raw("ubj")


def plain_items(product_id: np.ndarray, class_index: np.ndarray, split: np.ndarray) -> Items:
    """Items of which product, class and split matter; one projected feature, the number of the
    item."""
    n = len(product_id)
    number = np.arange(n, dtype=np.float32).reshape(n, 1, 1)
    two = np.tile(np.arange(2, dtype=np.int32), (n, 1))
    return Items(
        product_id,
        class_index,
        split,
        np.ones(n, np.int32),
        two,
        np.zeros((n, 2), np.float32),
        number,
        number[:, 0, :0],
    )


def picked(items: Items, **changes: object) -> np.ndarray:
    """Numbers of the items that a set of both classes learns from."""
    config = CONFIG.model_copy(update={"base_margin": False, **changes})
    return RowPicker(items, np.full(2, 0.5), config).rows(np.arange(2)).inputs[:, 0].astype(int)


def test_a_booster_keeps_to_one_thread(fitted: Fitted) -> None:
    _, rows = pick(fitted)
    settings = json.loads(fit_booster(rows, CONFIG).save_config())["learner"]["generic_param"]
    assert settings["nthread"] == "1" and settings["seed"] == str(CONFIG.seed)


def test_a_large_category_is_sampled_from_all_it_has() -> None:
    """2,000 images of reserve, 1,000 of val_a, and 600 pooled products, one after another: 1,000
    rows of them."""
    split = np.repeat(
        [SPLITS.index(name) for name in ("reserve", "val_a", "reserve")], [2000, 1000, 600]
    )
    products = np.r_[np.arange(3000), np.arange(600)]
    items = plain_items(products, np.zeros(3600, np.int32), split.astype(np.uint8))
    rows = picked(items, max_rows_per_class=1000)
    assert len(set(rows.tolist())) == 1000
    kinds = np.bincount(np.searchsorted([2000, 3000], rows, side="right"), minlength=3)
    assert kinds == pytest.approx([1000 * n / 3600 for n in (2000, 1000, 600)], rel=0.15)
    assert (
        np.abs(np.sort(products[rows]) / 3000 - np.linspace(0, 0.999, 1000) ** 1.2).max() < 0.1
    )  # young and old
    assert set(rows.tolist()) != set(picked(items, max_rows_per_class=1000, seed=1).tolist())
    np.testing.assert_array_equal(rows, picked(items, max_rows_per_class=1000))


def test_only_allowed_rows_are_taken() -> None:
    items = plain_items(
        np.arange(60), np.repeat([0, 1], 30).astype(np.int32), np.ones(60, np.uint8)
    )
    picker = RowPicker(items, np.full(2, 0.5), CONFIG.model_copy(update={"base_margin": False}))
    rows = picker.rows(np.array([1, 0]), np.arange(60) % 3 == 0)
    assert sorted(rows.inputs[:, 0]) == list(range(0, 60, 3))
    np.testing.assert_array_equal(rows.label, rows.inputs[:, 0] < 30)


def test_the_margin_is_in_the_mix_of_the_rows(fitted: Fitted) -> None:
    """Stage 1's opinion was shifted to a target in which the first is five times as common as the
    second; the rows are not."""
    items = items_of(fitted)
    target = np.full(CLASSES, 0.1)
    target[MEMBERS] = 0.5, 0.1
    picker = RowPicker(items, target, CONFIG)
    rows = picker.rows(MEMBERS)
    chosen = np.concatenate([picker.order[picker.sorted_class == m] for m in MEMBERS])
    weight = np.bincount(rows.label) + 0.5
    expected = items[chosen].log_probs(MEMBERS) + np.log(weight / target[MEMBERS])
    expected -= np.logaddexp(expected[:, 0], expected[:, 1])[:, None]
    np.testing.assert_allclose(rows.margin, expected, atol=1e-4)


def test_a_column_whose_order_says_nothing_is_split_by_its_codes() -> None:
    """Even codes are one class, odd ones the other: one stump tells them apart as categories, as
    numbers it can't."""
    code = np.arange(200, dtype=np.float32) % 6
    label = (code % 2).astype(np.int32)
    rows = TrainingRows(code[:, None], label, np.zeros((200, 2), np.float32))
    stump = CONFIG.booster.model_copy(
        update={"max_depth": 1, "n_estimators": 1, "subsample": 1.0, "colsample_bytree": 1.0}
    )
    config = CONFIG.model_copy(update={"booster": stump})
    right = {}
    for categorical in (True, False):
        booster = fit_booster(rows, config, Columns((6,), (categorical,)))
        assert booster is not None
        found = booster.inplace_predict(rows.inputs, base_margin=rows.margin)
        right[categorical] = (found.argmax(axis=1) == label).mean()
    assert right[True] == 1 and right[False] < 0.7
