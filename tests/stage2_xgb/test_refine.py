"""Refine: probabilities stay probabilities, and without trees everything is as the pool has it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from stage2_xgb.bundle import Bundle
from stage2_xgb.gate import OWN, POOL
from stage2_xgb.items import ItemBlock, pool
from stage2_xgb.refine import answer_with_all, refine
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import images_of
from tests.stage2_xgb.treeless import fell


@pytest.fixture(scope="module")
def felled(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle without its trees."""
    folder = tmp_path_factory.mktemp("felled") / "stage2"
    shutil.copytree(fitted.folder, folder)
    assert fell(folder) > 100
    return Bundle.open(folder)


@pytest.fixture
def images(fitted: Fitted) -> ItemBlock:
    """All images of test."""
    return images_of(fitted.store, "test")


def opinion(bundle: Bundle, images: ItemBlock, unit: str, answer: str | None) -> np.ndarray:
    """Of both stages; `answer`: with that one everywhere."""
    if answer is None:
        bundle = replace(bundle, answers={c: (OWN, POOL)[c % 2] for c in bundle.members})
        return refine(bundle, images, unit).two_stage
    return answer_with_all(bundle, images, unit)[1][answer]


@pytest.mark.parametrize("unit", ["image", "product"])
@pytest.mark.parametrize("answer", [None, OWN])
def test_without_trees_it_is_the_pool(
    images: ItemBlock, felled: Bundle, unit: str, answer: str | None
) -> None:
    found, expected = opinion(felled, images, unit, answer), felled.pool.log_probs(images, unit)
    assert not felled.broken  # the boosters did answer
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ["image", "product"])
@pytest.mark.parametrize("answer", [None, POOL, OWN])
def test_mass_stays_where_it_was(
    fitted: Fitted, images: ItemBlock, unit: str, answer: str | None
) -> None:
    bundle = fitted.open()
    found, before = opinion(bundle, images, unit, answer), bundle.pool.log_probs(images, unit)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    changed = found != before
    assert changed.any() == (answer != POOL)
    for row in np.flatnonzero(changed.any(axis=1)):
        members = bundle.members[before[row].argmax()]
        assert set(np.flatnonzero(changed[row])) <= set(members)
        inside = [np.exp(x[row, members]).sum() for x in (before, found)]
        assert inside[1] == pytest.approx(inside[0], rel=1e-4)


@pytest.mark.parametrize("unit", ["image", "product"])
def test_the_adjusted_stage_1_stands_beside(fitted: Fitted, images: ItemBlock, unit: str) -> None:
    bundle = fitted.open()
    result = refine(bundle, images, unit)
    items = pool(images) if unit == "product" else images
    np.testing.assert_array_equal(result.pooled.item_id, items.item_id)
    np.testing.assert_array_equal(result.shifted, bundle.shifts[unit](items.log_probs))
    assert result.refined.all()


def test_without_a_pool_only_reclassified_items_are_refined(
    fitted: Fitted, images: ItemBlock
) -> None:
    """Then the adjusted stage 1 answers for the others."""
    bundle = fitted.open()
    own = min(bundle.members)
    bundle = replace(bundle, pool=None, answers={own: OWN})
    result = refine(bundle, images, "product")
    np.testing.assert_array_equal(result.refined, result.shifted.argmax(axis=1) == own)
    assert 0 < result.refined.sum() < len(result.refined)
    others = ~result.refined
    np.testing.assert_array_equal(result.two_stage[others], result.shifted[others])


def test_items_are_answered_one_by_one_as_together(fitted: Fitted, images: ItemBlock) -> None:
    result = refine(fitted.open(), images, "product")
    for row in (0, 33, 80):
        rows = images.product_id == result.pooled.product_id[row]
        one = refine(fitted.open(), images.rows(rows), "product").two_stage
        np.testing.assert_allclose(one[0], result.two_stage[row], atol=1e-5)


def test_nothing_is_answered_with_nothing(fitted: Fitted, images: ItemBlock) -> None:
    for unit in ("image", "product"):
        assert refine(fitted.open(), images.rows(slice(0, 0)), unit).two_stage.shape == (0, 8)


def test_everyone_is_a_stranger_whatever_the_product_id(fitted: Fitted) -> None:
    """Photos of the bank itself, under their own product's id and under another one."""
    bundle, images = fitted.open(), images_of(fitted.store, "train")
    other = replace(images, product_id=images.product_id + 10**9)
    for unit in ("image", "product"):
        found = [refine(bundle, x, unit).two_stage for x in (images, other)]
        np.testing.assert_array_equal(*found)
    ours = bundle.pool.log_probs(images, "image", strangers=False)
    assert (ours != bundle.pool.log_probs(images, "image")).any()


def test_the_gate_chooses_by_the_pools_answer(fitted: Fitted, images: ItemBlock) -> None:
    bundle = fitted.open()
    bundle = replace(bundle, answers={c: OWN if c == 0 else POOL for c in bundle.members})
    found, everywhere = refine(bundle, images, "image"), answer_with_all(bundle, images, "image")[1]
    own = everywhere[POOL].argmax(axis=1) == 0
    assert 0 < own.sum() < len(own)
    np.testing.assert_array_equal(found.two_stage[own], everywhere[OWN][own])
    np.testing.assert_array_equal(found.two_stage[~own], everywhere[POOL][~own])


def test_a_category_that_lost_its_reclassifier_has_the_pools_answer(
    fitted: Fitted, images: ItemBlock
) -> None:
    bundle = fitted.open()
    before = answer_with_all(bundle, images, "image")[1]
    bundle = replace(bundle, answers=dict.fromkeys(bundle.members, OWN))
    del bundle.members[0]
    bundle = replace(bundle, _loaded={})
    lost = before[POOL].argmax(axis=1) == 0
    assert 0 < lost.sum() < len(lost)
    found, own = refine(bundle, images, "image"), answer_with_all(bundle, images, "image")[1][OWN]
    for kept in (found.two_stage, own):
        np.testing.assert_array_equal(kept[lost], before[POOL][lost])
        np.testing.assert_array_equal(kept[~lost], before[OWN][~lost])
