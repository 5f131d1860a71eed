"""Who answers on val_b, decided by other products; and which errors could be fixed."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from features.store import FeatureStore
from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, POOL, STAGE1, Decision, HeldOut, decide
from stage2_xgb.heldout import RAW, ValB, cross_fit, gated, mendable_share, own_answers
from stage2_xgb.out_of_fold import FILE, read_judged
from stage2_xgb.refine import answer_with_all, refine
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, CONFIG, images_of

TARGET = np.ones(CLASSES) / CLASSES


@pytest.fixture(scope="module")
def val_b(fitted: Fitted) -> ValB:
    """The planted problem's val_b."""
    others = read_judged(fitted.folder / FILE)
    return ValB.of(fitted.open(), Views([fitted.store]), others, TARGET, jobs=1)


def decision(answer: str) -> Decision:
    return Decision(answer, 9, 3, 1, 0.1)


def test_one_judgement_by_hand() -> None:
    own = own_answers(np.array([0, 1, 2, 1]), {0: decision(POOL), 1: decision(OWN)})
    assert own.tolist() == [0, 1, 0, 1]
    values = {POOL: 10 + np.arange(4), OWN: 20 + np.arange(4)}
    assert gated(own, values).tolist() == [10, 21, 12, 23]
    assert gated(np.array([0.25]), {POOL: np.zeros(1), OWN: np.ones(1)}).tolist() == [0.25]


def noise(products: int, classes: int, seed: int) -> HeldOut:
    """Reclassifiers that fix as many as they break: nothing to gain."""
    rng = np.random.default_rng(seed)
    before = rng.random(products) < 0.5
    after = before ^ (rng.random(products) < 0.3)
    return HeldOut(
        rng.integers(0, classes, products),
        rng.integers(0, classes, products),
        rng.permutation(products),
        {RAW: before, STAGE1: before, POOL: before, OWN: after},
    )


def test_a_gate_over_noise_gains_nothing_once_others_decide() -> None:
    """Decided and counted on the same items, choosing the luckiest of 60 categories looks like a
    gain."""
    claimed, cross_fitted, classes, mix = [], [], np.arange(60), np.ones(60) / 60
    for seed in range(30):
        held = noise(600, 60, seed)
        shipped = own_answers(held.predicted, decide(held, POOL, classes, mix, seed))
        own = cross_fit(held, np.ones(600, bool), classes, mix, seed)
        assert ((own >= 0) & (own <= 1)).all()
        claimed.append((gated(shipped, held.right) - held.right[POOL]).mean())
        cross_fitted.append((gated(own, held.right) - held.right[POOL]).mean())
    error = np.std(cross_fitted) / len(cross_fitted) ** 0.5
    assert max(claimed) > 0.02
    assert np.mean(cross_fitted) < 2.5 * error


def test_only_counted_items_decide() -> None:
    """Items that don't count are judged, and say nothing."""
    held = noise(400, 4, 0)
    gains = {**held.right, OWN: np.ones(400, bool)}
    held = HeldOut(held.predicted, held.class_index, held.product_id, gains)
    every, none = (
        cross_fit(held, np.full(400, counted), np.arange(4), np.ones(4) / 4, 0)
        for counted in (True, False)
    )
    assert every.all() and not none.any()


def test_val_b_is_what_each_answer_says_of_it(val_b: ValB, fitted: Fitted) -> None:
    bundle = fitted.open()
    for unit in ("image", "product"):
        items, opinions = answer_with_all(bundle, images_of(fitted.store, "val_b"), unit)
        rows = val_b.of_unit(unit)
        np.testing.assert_array_equal(val_b.held.product_id[rows], items.product_id)
        np.testing.assert_array_equal(val_b.held.class_index[rows], items.class_index)
        np.testing.assert_array_equal(val_b.held.predicted[rows], opinions[POOL].argmax(axis=1))
        for name, opinion in {RAW: items.log_probs, **opinions}.items():
            right = opinion.argmax(axis=1) == items.class_index
            np.testing.assert_array_equal(val_b.held.right[name][rows], right)
        for name in (POOL, OWN):
            confidence = np.exp(opinions[name].max(axis=1))
            np.testing.assert_allclose(val_b.confidence[name][rows], confidence)
        counted = np.full(len(items), True) if unit == "image" else items.n_images > 1
        np.testing.assert_array_equal(val_b.counted[rows], counted)
        assert unit == "image" or 0 < counted.sum() < len(counted)


def test_copies_of_other_pictures_are_not_judged(fitted: Fitted, tmp_path: Path) -> None:
    shutil.copy(fitted.store.path, tmp_path / "features.h5")
    rows = fitted.store.of_split("val_b")
    with h5py.File(tmp_path / "features.h5", "r+") as file:
        file["fit"][rows.start : rows.start + 9] = False
    store, others = FeatureStore(tmp_path / "features.h5"), read_judged(fitted.folder / FILE)
    val_b = ValB.of(fitted.open(), Views([store]), others, TARGET, jobs=1)
    assert val_b.of_unit("image").sum() == rows.stop - rows.start - 9


def test_what_ships_is_decided_on_all_that_counts(val_b: ValB, fitted: Fitted) -> None:
    bundle = fitted.open()
    decisions = val_b.decide(bundle, CONFIG)
    assert {c: d.answer for c, d in decisions.items()} == bundle.answers
    held = HeldOut.concatenate([val_b.held[val_b.counted], val_b.others])
    assert len(val_b.others) > val_b.counted.sum()
    assert decisions == decide(held, POOL, np.array(list(bundle.members)), TARGET, CONFIG.seed)


def test_without_a_gate_nothing_is_decided_and_what_ships_is_judged(
    val_b: ValB, fitted: Fitted
) -> None:
    bundle = fitted.open()
    open_gate = CONFIG.model_copy(update={"gate": False})
    decisions = val_b.decide(bundle, open_gate)
    assert {d.answer for d in decisions.values()} == {OWN}
    assert decisions[0].products > 0 and decisions[0].fixed + decisions[0].broken > 0
    own = val_b.own(bundle, open_gate)
    assert own.all()
    bundle = replace(bundle, answers=dict.fromkeys(bundle.members, OWN))
    result = refine(bundle, images_of(fitted.store, "val_b"), "product")
    shipped = result.two_stage.argmax(axis=1) == result.pooled.class_index
    np.testing.assert_array_equal(gated(own, val_b.held.right)[val_b.of_unit("product")], shipped)


def test_the_gate_is_cross_fitted_by_the_seed(val_b: ValB, fitted: Fitted) -> None:
    held = HeldOut.concatenate([val_b.held, val_b.others])
    counted = np.r_[val_b.counted, np.ones(len(val_b.others), bool)]
    expected = cross_fit(held, counted, np.arange(8), TARGET, CONFIG.seed)[: len(val_b.held)]
    np.testing.assert_array_equal(val_b.own(fitted.open(), CONFIG), expected)


def test_further_items_get_their_share_and_decide_nothing(val_b: ValB, fitted: Fitted) -> None:
    """They are judged by the decisions of other products, as if they had been held out too."""
    bundle, further = fitted.open(), val_b.held[::3]
    own, others = val_b.own_of(bundle, CONFIG, further)
    np.testing.assert_array_equal(own, val_b.own(bundle, CONFIG))
    np.testing.assert_array_equal(others, own[::3])
    assert others.any()


def test_mendable_errors_are_a_share_of_all_errors() -> None:
    """Six errors: three behind category 0, two of them in its set; one behind 1, not in its set;
    two behind 2 without a set."""
    predicted = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    truth = np.array([0, 1, 2, 3, 1, 0, 0, 1])
    nothing = np.zeros(8, bool)
    held = HeldOut(predicted, truth, np.arange(8), {POOL: nothing})
    members = {0: np.array([0, 1, 2]), 1: np.array([1, 3])}
    assert mendable_share(held, members) == pytest.approx(2 / 6)
    assert mendable_share(held[predicted == truth], members) is None
    assert mendable_share(held, {}) == 0
