"""The inputs of (item, candidate) pairs, against plain loops."""

import numpy as np
import pytest

from features.neighbours import unit
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items, compact
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, pooled


@pytest.fixture(scope="module")
def problem(fitted: Fitted) -> tuple[Items, Evidence, np.ndarray]:
    """Training images (members of the bank), the evidence, and all classes as their candidates."""
    bundle = fitted.open()
    items = compact(
        pooled(fitted.store, "train", "image"), bundle.shifts["image"], bundle.projections
    )[np.arange(40)]
    return items, bundle.evidence, np.tile(np.arange(CLASSES), (len(items), 1))


def column(pairs: np.ndarray, evidence: Evidence, name: str) -> np.ndarray:
    """One input [N, C]."""
    return pairs[:, :, evidence.names.index(name)]


def test_the_bank_holds_train_and_reserve_only(fitted: Fitted) -> None:
    bank, table = fitted.open().evidence.banks[0], fitted.store.table
    assert sorted(bank.product_id) == sorted(
        table.product_id[table.fit & np.isin(table.split, [0, 1])]
    )


def test_nearest_by_a_plain_loop(problem: tuple[Items, Evidence, np.ndarray]) -> None:
    items, evidence, candidates = problem
    pairs = evidence(items, candidates, items.log_probs(np.arange(CLASSES)))
    assert pairs.shape == (len(items), CLASSES, len(evidence.names)) and pairs.dtype == np.float32
    bank = evidence.banks[0]
    z = unit(items.z[:, 0])
    for row in range(0, 40, 7):
        for c in range(CLASSES):
            span = slice(bank.starts[c], bank.starts[c + 1])
            mine = bank.product_id[span] != items.product_id[row]
            cosines = np.sort(bank.vectors[span][mine].astype(np.float32) @ z[row])[::-1]
            found = {
                name: column(pairs, evidence, f"{name}_0")[row, c]
                for name in ("nearest", "nearest_three", "class_mean")
            }
            assert found["nearest"] == pytest.approx(cosines[0], abs=1e-4)
            assert found["nearest_three"] == pytest.approx(cosines[:3].mean(), abs=1e-4)
            assert found["class_mean"] == pytest.approx(cosines.mean(), abs=1e-4)


def test_an_image_is_not_its_own_neighbour(problem: tuple[Items, Evidence, np.ndarray]) -> None:
    """All the images asked about are in the bank; none may find itself."""
    items, evidence, candidates = problem
    pairs = evidence(items, candidates, items.log_probs(np.arange(CLASSES)))
    assert np.nanmax(column(pairs, evidence, "nearest_0")) < 0.9999
    strangers = Items(**{**vars(items), "product_id": items.product_id + 10**9})
    found = evidence(strangers, candidates, items.log_probs(np.arange(CLASSES)))
    np.testing.assert_allclose(
        np.nanmax(column(found, evidence, "nearest_0"), axis=1), 1, atol=1e-3
    )


def test_opinion_and_rank(problem: tuple[Items, Evidence, np.ndarray]) -> None:
    items, evidence, candidates = problem
    log_prob = items.log_probs(np.arange(CLASSES))
    pairs = evidence(items, candidates, log_prob)
    np.testing.assert_array_equal(column(pairs, evidence, "log_prob_0"), log_prob[:, 0])
    np.testing.assert_allclose(column(pairs, evidence, "behind_first_0").max(axis=1), 0)
    np.testing.assert_array_equal(
        column(pairs, evidence, "rank").argmin(axis=1), log_prob[:, 0].argmax(axis=1)
    )
    np.testing.assert_allclose(column(pairs, evidence, "vote_0").sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        column(pairs, evidence, "log_train")[0], evidence.log_train, rtol=1e-6
    )
