"""Refine: probabilities stay probabilities, and without trees everything is as stage 1 has it."""

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest

from stage2_xgb.bundle import Bundle
from stage2_xgb.gate import OWN, SHARED, STAGE1
from stage2_xgb.items import Pooled
from stage2_xgb.refine import Refined, each_answer, refine
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import pooled
from tests.stage2_xgb.treeless import fell

ANSWERS = [None, SHARED, OWN]
"""None: those that the gate chose."""


@pytest.fixture(scope="module")
def felled(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle without its trees."""
    folder = tmp_path_factory.mktemp("felled") / "stage2"
    shutil.copytree(fitted.folder, folder)
    assert fell(folder) > 100
    return Bundle.open(folder)


def opinion(bundle: Bundle, items: Pooled, unit: str, answer: str | None) -> Refined:
    """As refine; `answer`: with that one everywhere."""
    result = refine(bundle, items, unit)
    return replace(result, two_stage=each_answer(bundle, items, unit)[answer]) if answer else result


@pytest.mark.parametrize("unit", ["image", "product"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_without_trees_it_is_stage_1(
    fitted: Fitted, felled: Bundle, unit: str, answer: str | None
) -> None:
    items = pooled(fitted.store, "test", unit)
    result = opinion(felled, items, unit, answer)
    assert result.refined.all() and not felled.broken  # the boosters did answer
    np.testing.assert_array_equal(result.two_stage.argmax(axis=1), result.shifted.argmax(axis=1))
    np.testing.assert_allclose(result.two_stage, result.shifted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unit", ["image", "product"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_mass_stays_where_it_was(fitted: Fitted, unit: str, answer: str | None) -> None:
    bundle, items = fitted.open(), pooled(fitted.store, "test", unit)
    result = opinion(bundle, items, unit, answer)
    np.testing.assert_allclose(np.exp(result.two_stage).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(result.shifted, bundle.shifts[unit][0](items.log_probs[0]))
    changed = result.two_stage != result.shifted
    assert changed.any()
    assert answer or not changed[~result.refined].any()
    if answer == OWN:  # it changes the shared opinion within its set
        predicted, before = result.shifted.argmax(axis=1), each_answer(bundle, items, unit)[SHARED]
        changed = result.two_stage != before
        assert changed.any()
        for row in np.flatnonzero(changed.any(axis=1)):
            members = bundle.members[predicted[row]]
            assert set(np.flatnonzero(changed[row])) <= set(members)
            inside = [np.exp(x[row, members]).sum() for x in (before, result.two_stage)]
            assert inside[1] == pytest.approx(inside[0], rel=1e-4)
    if answer == SHARED:
        order = np.argsort(-result.shifted, axis=1, kind="stable")[:, bundle.candidates :]
        assert not np.take_along_axis(changed, order, axis=1).any()


def test_items_are_answered_one_by_one_as_together(fitted: Fitted) -> None:
    items = pooled(fitted.store, "test", "product")
    together = refine(fitted.open(), items, "product").two_stage
    for row in (0, 33, 80):
        alone = {
            f.name: getattr(items, f.name)[row : row + 1]
            for f in fields(items)
            if f.name not in ("log_probs", "features")
        }
        parts = {
            name: tuple(x[row : row + 1] for x in getattr(items, name))
            for name in ("log_probs", "features")
        }
        one = refine(fitted.open(), replace(items, **alone, **parts), "product").two_stage
        np.testing.assert_allclose(one[0], together[row], atol=1e-5)


def test_the_gate_chooses_by_predicted_category(fitted: Fitted) -> None:
    bundle, items = fitted.open(), pooled(fitted.store, "test", "image")
    predicted = refine(bundle, items, "image").shifted.argmax(axis=1)
    bundle.answers = {c: {0: "own", 1: "shared"}.get(c, "stage1") for c in bundle.members}
    result, everywhere = refine(bundle, items, "image"), each_answer(bundle, items, "image")
    np.testing.assert_array_equal(result.refined, predicted <= 1)
    np.testing.assert_array_equal(result.two_stage[predicted == 0], everywhere[OWN][predicted == 0])
    np.testing.assert_array_equal(
        result.two_stage[predicted == 1], everywhere[SHARED][predicted == 1]
    )
    np.testing.assert_array_equal(result.two_stage[predicted > 1], result.shifted[predicted > 1])


def test_where_the_gate_leaves_all_to_stage_1_nothing_is_refined(fitted: Fitted) -> None:
    bundle, items = fitted.open(), pooled(fitted.store, "test", "image")
    bundle.answers, bundle.default = {}, STAGE1
    result = refine(bundle, items, "image")
    assert not result.refined.any()
    np.testing.assert_array_equal(result.two_stage, result.shifted)


@pytest.mark.parametrize("default", [STAGE1, SHARED])
def test_a_category_that_lost_its_reclassifier_has_the_default_answer(
    fitted: Fitted, default: str
) -> None:
    bundle, items = fitted.open(), pooled(fitted.store, "test", "image")
    before = each_answer(bundle, items, "image")
    bundle.answers, bundle.default = dict.fromkeys(bundle.members, OWN), default
    del bundle.members[0]
    bundle = replace(bundle, _loaded={})
    result, after = refine(bundle, items, "image"), each_answer(bundle, items, "image")
    lost = result.shifted.argmax(axis=1) == 0
    assert 0 < lost.sum() < len(lost)
    np.testing.assert_array_equal(result.refined, ~lost | (default == SHARED))
    np.testing.assert_array_equal(result.two_stage[lost], before[default][lost])
    np.testing.assert_array_equal(after[OWN][lost], before[SHARED][lost])
    for kept in (result.two_stage, after[OWN]):
        np.testing.assert_array_equal(kept[~lost], before[OWN][~lost])
