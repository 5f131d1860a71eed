"""Reclassifiers' answers for reserve and val_a, by others that know none of an item's product."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from features.store import FeatureStore
from stage2_xgb.gate import OWN, POOL, HeldOut
from stage2_xgb.inputs import Stage2Inputs, prepare_stage2
from stage2_xgb.out_of_fold import (
    Products,
    nothing_judged,
    read_judged,
    read_products,
    save_judged,
    score_out_of_fold,
)
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, make_rows, mixes, taxonomy, write


@pytest.fixture(scope="module")
def curved(tmp_path_factory: pytest.TempPathFactory) -> Stage2Inputs:
    """A problem in which only trees can gain."""
    path = tmp_path_factory.mktemp("curved") / "features.h5"
    return material(write(path, make_rows(answer=False, curved=True)))


def material(store: FeatureStore) -> Stage2Inputs:
    return prepare_stage2([store], mixes(store), taxonomy(), CONFIG, 1)


def held_out(found: Stage2Inputs, jobs: int = 1) -> HeldOut:
    return score_out_of_fold(found.picker(CONFIG), found.items["image"], CLASSES, jobs)[0]


def test_trees_gain_where_they_can(curved: Stage2Inputs) -> None:
    held = held_out(curved)
    images, products = curved.items["image"], curved.items["product"]
    assert len(held) == len(images) + len(products)  # all are of reserve and val_a
    np.testing.assert_array_equal(held.class_index[: len(images)], images.class_index)
    np.testing.assert_array_equal(held.predicted[: len(images)], images.predicted)
    before = images.predicted == images.class_index
    np.testing.assert_array_equal(held.right[POOL][: len(images)], before)
    assert held.right[OWN].mean() > held.right[POOL].mean() + 0.05


def test_products_get_whole_answers(curved: Stage2Inputs) -> None:
    """They are right as often as the gate counts, and what is no reclassifier's stays the pool's;
    probabilities sum to 1."""
    assert curved.fitted is not None
    items, distance = read_products(curved.views, curved.fitted, curved.projections)
    _, (top_class, log_prob) = score_out_of_fold(
        curved.picker(CONFIG), curved.items["image"], CLASSES, 1, items
    )
    assert distance.shape == (len(items), 2) and (distance[:, 1] >= distance[:, 0]).all()
    np.testing.assert_allclose(np.exp(log_prob).sum(axis=1), 1, atol=1e-4)
    assert (np.sort(top_class, axis=1) == np.arange(CLASSES)).all()
    right = top_class[:, 0] == items.class_index
    assert right.mean() > (items.predicted == items.class_index).mean() + 0.05
    nobody = ~np.isin(items.predicted, [s.class_index for s in curved.sets])
    same = (log_prob == items.log_prob).all(axis=1)
    assert same[nobody].all() or not nobody.any()


def test_whole_answers_round_trip(curved: Stage2Inputs, tmp_path: Path) -> None:
    assert curved.fitted is not None
    items, distance = read_products(curved.views, curved.fitted, curved.projections)
    plain = (items.product_id, items.class_index, items.top_class, items.log_prob)
    kept = Products(*plain, items.top_class, items.log_prob, items.z[:, 0], *distance.T)
    kept.save(tmp_path / "products.npz")
    found = Products.read(tmp_path / "products.npz")
    for field in fields(Products):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(kept, field.name))
    assert found.held_out().right[POOL].mean() == found.held_out().right[OWN].mean()


def test_nothing_is_gained_where_nothing_can_be(hopeless: Fitted) -> None:
    """In-sample, reclassifiers would mend a good part of their own rows."""
    held = held_out(material(hopeless.store))
    changed = int((held.right[OWN] != held.right[POOL]).sum())
    net = held.right[OWN].sum() - held.right[POOL].sum()
    assert changed and net < 3 * changed**0.5


def test_the_number_of_processes_changes_nothing(curved: Stage2Inputs) -> None:
    one, two = held_out(curved), held_out(curved, jobs=2)
    np.testing.assert_array_equal(one.right[OWN], two.right[OWN])


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = (rng.integers(0, 9, 50) for _ in range(3))
    held = HeldOut(*plain, {name: rng.random(50) < 0.5 for name in (POOL, OWN)})
    save_judged(tmp_path / "judged.parquet", held)
    found = read_judged(tmp_path / "judged.parquet")
    for name in ("predicted", "class_index", "product_id"):
        np.testing.assert_array_equal(getattr(found, name), getattr(held, name))
    assert set(found.right) == {POOL, OWN}
    for name in found.right:
        np.testing.assert_array_equal(found.right[name], held.right[name])
    save_judged(tmp_path / "nothing.parquet", nothing_judged())
    assert not len(read_judged(tmp_path / "nothing.parquet"))
