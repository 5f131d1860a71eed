"""Who answers on val_b, decided by other products; and which errors could be mended."""

import numpy as np
import pytest

from stage2_xgb.dataset import Views
from stage2_xgb.gate import OWN, SHARED, STAGE1, Decision, HeldOut, choose_default, decide
from stage2_xgb.heldout import RAW, Answering, ValB, cross_fit, mendable_share
from stage2_xgb.refine import each_answer, refine
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CONFIG, pooled


@pytest.fixture(scope="module")
def val_b(fitted: Fitted) -> ValB:
    """The planted problem's val_b."""
    return ValB.of(fitted.open(), Views([fitted.store]))


def decision(answer: str) -> Decision:
    return Decision(answer, 9, 3, 1, 0.1)


def test_one_judgement_by_hand() -> None:
    predicted = np.array([0, 1, 2, 1])
    found = Answering.of(predicted, SHARED, {0: decision(SHARED), 1: decision(OWN)})
    assert {name: share.tolist() for name, share in found.shares.items()} == {
        STAGE1: [0, 0, 0, 0],
        SHARED: [1, 0, 1, 0],
        OWN: [0, 1, 0, 1],
    }
    assert found.shared_default.tolist() == [1, 1, 1, 1]
    values = {STAGE1: np.arange(4), SHARED: 10 + np.arange(4), OWN: 20 + np.arange(4)}
    assert found.gated(values).tolist() == [10, 21, 12, 23]
    assert found.without_own(values).tolist() == [10, 11, 12, 13]
    assert found[np.array([3, 0])].gated({k: v[[3, 0]] for k, v in values.items()}).tolist() == [
        23,
        10,
    ]
    found = Answering.of(predicted, STAGE1, {1: decision(OWN)})
    assert found.gated(values).tolist() == [0, 21, 2, 23] and found.without_own(
        values
    ).tolist() == [0, 1, 2, 3]
    mixed = Answering(
        {STAGE1: np.array([0.25]), SHARED: np.array([0.25]), OWN: np.array([0.5])}, np.array([0.75])
    )
    one = {STAGE1: np.array([0.0]), SHARED: np.array([1.0]), OWN: np.array([1.0])}
    assert mixed.gated(one).tolist() == mixed.without_own(one).tolist() == [0.75]


def noise(products: int, classes: int, seed: int) -> HeldOut:
    """Reclassifiers that fix as many as they break: nothing to gain."""
    rng = np.random.default_rng(seed)
    before = rng.random(products) < 0.5
    after = before ^ (rng.random(products) < 0.3)
    return HeldOut(
        rng.integers(0, classes, products),
        rng.integers(0, classes, products),
        rng.permutation(products),
        {RAW: before, STAGE1: before, SHARED: before, OWN: after},
    )


def test_a_gate_over_noise_gains_nothing_once_others_decide() -> None:
    """Decided and counted on the same items, choosing the luckiest of 60 categories looks like a
    gain."""
    claimed, judged, classes = [], [], np.arange(60)
    for seed in range(30):
        held = noise(600, 60, seed)
        decisions = decide(held, STAGE1, classes, 20.0)
        shipped = Answering.of(held.predicted, choose_default(held), decisions)
        answering = cross_fit(held, np.ones(600, bool), classes, 20.0, seed)
        np.testing.assert_allclose(sum(answering.shares.values()), 1)
        claimed.append((shipped.gated(held.right) - held.right[STAGE1]).mean())
        judged.append((answering.gated(held.right) - held.right[STAGE1]).mean())
    error = np.std(judged) / len(judged) ** 0.5
    assert np.mean(claimed) > 0.02
    assert np.mean(judged) < 2.5 * error


def test_only_counted_items_decide() -> None:
    """Items that don't count are judged, and say nothing."""
    held = noise(400, 4, 0)
    gains = {**held.right, OWN: np.ones(400, bool)}
    held = HeldOut(held.predicted, held.class_index, held.product_id, gains)
    every, none = (
        cross_fit(held, np.full(400, counted), np.arange(4), 20.0, 0) for counted in (True, False)
    )
    assert every.shares[OWN].all() and not none.shares[OWN].any()
    assert none.shares[STAGE1].all() and not none.shared_default.any()


def test_val_b_is_what_each_answer_says_of_it(val_b: ValB, fitted: Fitted) -> None:
    bundle = fitted.open()
    for unit in ("image", "product"):
        items = pooled(fitted.store, "val_b", unit, bundle.sharpness)
        rows = val_b.of_unit(unit)
        opinions = each_answer(bundle, items, unit)
        np.testing.assert_array_equal(val_b.held.product_id[rows], items.product_id)
        np.testing.assert_array_equal(val_b.held.class_index[rows], items.class_index)
        np.testing.assert_array_equal(val_b.held.predicted[rows], opinions[STAGE1].argmax(axis=1))
        raw = items.log_probs[0].argmax(axis=1) == items.class_index
        np.testing.assert_array_equal(val_b.held.right[RAW][rows], raw)
        for name, opinion in opinions.items():
            np.testing.assert_array_equal(
                val_b.held.right[name][rows], opinion.argmax(axis=1) == items.class_index
            )
            np.testing.assert_allclose(val_b.confidence[name][rows], np.exp(opinion.max(axis=1)))
        counted = np.full(len(items), True) if unit == "image" else items.n_images > 1
        np.testing.assert_array_equal(val_b.counted[rows], counted)
        assert unit == "image" or 0 < counted.sum() < len(counted)


def test_what_ships_is_decided_on_all_that_counts(val_b: ValB, fitted: Fitted) -> None:
    bundle = fitted.open()
    default, decisions = val_b.decide(bundle, CONFIG)
    assert default == bundle.default == SHARED
    assert {c: d.answer for c, d in decisions.items()} == bundle.answers
    assert decisions == decide(
        val_b.held[val_b.counted], SHARED, np.array(list(bundle.members)), CONFIG.gate_prior
    )


def test_without_a_gate_nothing_is_decided_and_what_ships_is_judged(
    val_b: ValB, fitted: Fitted
) -> None:
    bundle = fitted.open()
    for use, expected in ((True, SHARED), (False, STAGE1)):
        open_gate = CONFIG.model_copy(
            update={"gate": False, "rerank": CONFIG.rerank.model_copy(update={"use": use})}
        )
        default, decisions = val_b.decide(bundle, open_gate)
        assert default == expected and {d.answer for d in decisions.values()} == {OWN}
        assert decisions[0].products > 0 and decisions[0].fixed + decisions[0].broken > 0
        answering = val_b.answering(bundle, open_gate)
        assert (
            answering.shares[OWN].all() and (answering.shared_default == (expected == SHARED)).all()
        )
    items = pooled(fitted.store, "val_b", "product", bundle.sharpness)
    bundle.answers = dict.fromkeys(bundle.members, OWN)
    shipped = refine(bundle, items, "product").two_stage.argmax(axis=1) == items.class_index
    np.testing.assert_array_equal(
        answering.gated(val_b.held.right)[val_b.of_unit("product")], shipped
    )


def test_the_gate_is_cross_fitted_by_the_seed(val_b: ValB, fitted: Fitted) -> None:
    bundle = fitted.open()
    one = val_b.answering(bundle, CONFIG)
    shares = cross_fit(
        val_b.held, val_b.counted, np.arange(8), CONFIG.gate_prior, CONFIG.seed
    ).shares
    for name in (STAGE1, SHARED, OWN):
        np.testing.assert_array_equal(one.shares[name], shares[name])


def test_mendable_errors_are_a_share_of_all_errors() -> None:
    """Six errors: three behind category 0, two of them in its set; one behind 1, not in its set;
    two behind 2 without a set."""
    predicted = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    truth = np.array([0, 1, 2, 3, 1, 0, 0, 1])
    nothing = np.zeros(8, bool)
    held = HeldOut(predicted, truth, np.arange(8), {STAGE1: nothing})
    members = {0: np.array([0, 1, 2]), 1: np.array([1, 3])}
    assert mendable_share(held, members) == pytest.approx(2 / 6)
    assert mendable_share(held[predicted == truth], members) is None
    assert mendable_share(held, {}) == 0
