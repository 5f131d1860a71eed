"""The summary's figures, worked out by hand."""

import numpy as np
import pytest

from stage2_xgb.gate import OWN, SHARED, STAGE1, HeldOut
from stage2_xgb.summary import GATED, RAW, Stage2Summary, standing, standings


def held_out(class_index: list[int], product_id: list[int], before: list[int], shared: list[int], own: list[int]) -> HeldOut:
    """Items that stage 1 puts into class 0 at even places, into class 1 at odd ones."""
    right = {RAW: before, STAGE1: before, SHARED: shared, OWN: own}
    predicted = np.arange(len(class_index)) % 2
    return HeldOut(predicted, np.array(class_index), np.array(product_id), {k: np.array(v, bool) for k, v in right.items()})


def test_gain_interval_and_the_share_of_own_reclassifiers() -> None:
    held = held_out([0, 0, 0, 0, 1, 1], list(range(6)), [0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0])
    found = standings(held, {1: OWN}, SHARED)["natural"]  # class 1's own answers at 1, 3, 5
    assert (found["items"], found["fixed"], found["broken"]) == (6, 2, 1)
    assert found[STAGE1] == pytest.approx(3 / 6) and found[GATED] == pytest.approx(4 / 6)
    change, mean = np.array([1, 1, 0, 0, -1, 0]), 1 / 6
    half = 1.96 * np.sqrt(((change - mean) ** 2).sum()) / 6
    assert (found["gain"], found["low"], found["high"]) == pytest.approx((mean, mean - half, mean + half))
    assert found["own_share"] == pytest.approx((4 / 6 - 3 / 6) / mean)


def test_images_of_a_product_count_as_one_in_the_interval() -> None:
    before, after = [0, 0, 1, 1] * 5, [1, 1, 1, 1] * 5
    products = np.repeat(np.arange(10), 2).tolist()
    single = standing(gated(before, after, list(range(20))), np.ones(20), STAGE1)
    paired = standing(gated(before, after, products), np.ones(20), STAGE1)
    width = [found["high"] - found["low"] for found in (single, paired)]
    assert single["gain"] == paired["gain"] == 0.5 and width[1] == pytest.approx(width[0] * 2**0.5)


def gated(before: list[int], after: list[int], products: list[int]) -> HeldOut:
    held = held_out([0] * len(before), products, before, after, after)
    return HeldOut(held.predicted, held.class_index, held.product_id, held.right | {GATED: held.right[OWN]})


def test_in_the_balanced_mix_every_category_counts_the_same() -> None:
    classes = [0] * 15 + [1] * 5 + [2] * 4  # too few of class 2 to count
    before, after = [1] * 15 + [0] * 9, [1] * 15 + [1, 0, 0, 0, 0] + [1] * 4
    found = standings(held_out(classes, list(range(24)), before, after, after), {}, SHARED)
    assert found["balanced"]["items"] == 20 and found["natural"]["items"] == 24
    assert found["balanced"][STAGE1] == pytest.approx(1 / 2) and found["balanced"][GATED] == pytest.approx((1 + 1 / 5) / 2)
    assert found["balanced"]["fixed"] == 1 and found["natural"]["fixed"] == 5


def test_the_page_has_both_units_and_mixes() -> None:
    held = held_out([0, 0, 0, 0, 1, 1], list(range(6)), [0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0])
    units = {unit: standings(held, {1: OWN}, SHARED) for unit in ("image", "product")}
    answers, pooling = {STAGE1: 0, SHARED: 0, OWN: 1}, {"products": 0}
    text = Stage2Summary(1, 1, SHARED, answers, 0.5, units, {}, pooling, {"read": 1.0}).text()
    assert "  6 images, natural " in text and "  0 products, balanced " in text
    assert "+16.67 [-38.32, +71.65]" in text
