"""The summary's figures, worked out by hand."""

import numpy as np
import pytest

from catalog.intervals import clustered_change
from stage2_xgb.gate import OWN, POOL, STAGE1, HeldOut
from stage2_xgb.heldout import RAW
from stage2_xgb.summary import GATED, Stage2Summary, standing, standings


def held_out(
    class_index: list[int],
    product_id: list[int],
    before: list[int],
    pool: list[int],
    own: list[int],
) -> HeldOut:
    """Items that the pool puts into class 0 at even places, into class 1 at odd ones."""
    right = {RAW: before, STAGE1: before, POOL: pool, OWN: own}
    predicted = np.arange(len(class_index)) % 2
    arrays = {name: np.array(values, bool) for name, values in right.items()}
    return HeldOut(predicted, np.array(class_index), np.array(product_id), arrays)


def answering(held: HeldOut, own: list[int]) -> np.ndarray:
    """One judgement: reclassifiers answer for the classes `own`."""
    return np.isin(held.predicted, own).astype(float)


SIX = held_out(
    [0, 0, 0, 0, 1, 1], list(range(6)), [0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]
)


def test_gain_interval_and_the_share_of_own_reclassifiers() -> None:
    found = standings(SIX, answering(SIX, [1]))["natural"]  # class 1's own answers at 1, 3, 5
    assert (found["items"], found["fixed"], found["broken"]) == (6, 2, 1)
    assert found[STAGE1] == pytest.approx(3 / 6) and found[GATED] == pytest.approx(4 / 6)
    change = np.array([1, 1, 0, 0, -1, 0])
    expected = clustered_change(change, np.ones(6), np.arange(6))
    assert (found["gain"], found["low"], found["high"]) == pytest.approx(expected[:3])
    assert found["gain"] == pytest.approx(1 / 6)
    assert found["own_share"] == pytest.approx((4 / 6 - 3 / 6) / (1 / 6))


def test_gated_is_the_mean_over_judgements() -> None:
    """Half of the judgements let class 1's own answer, half leave all to the pool."""
    found = standings(SIX, (answering(SIX, [1]) + answering(SIX, [])) / 2)["natural"]
    assert (found["fixed"], found["broken"]) == (1.5, 1.0)
    assert found[GATED] == pytest.approx((4 / 6 + 3 / 6) / 2)
    assert found["gain"] == pytest.approx((1 / 6 + 0) / 2)
    assert found["own_share"] == pytest.approx(1.0)  # without it 3 of 6, as stage 1 has it
    assert found[POOL] == pytest.approx(3 / 6) and found[OWN] == pytest.approx(4 / 6)


def test_images_of_a_product_count_as_one_in_the_interval() -> None:
    before, after = [0, 0, 1, 1] * 50, [1, 1, 1, 1] * 50
    found = []
    for products in (list(range(200)), np.repeat(np.arange(100), 2).tolist()):
        held = held_out([0] * 200, products, before, after, after)
        found.append(standing(held, answering(held, []), np.ones(200)))
    width = [row["high"] - row["low"] for row in found]
    assert found[0]["gain"] == pytest.approx(0.5) == found[1]["gain"]
    assert width[1] == pytest.approx(width[0] * 2**0.5, rel=0.05)


def test_in_the_balanced_mix_every_category_counts_the_same() -> None:
    classes = [0] * 15 + [1] * 5 + [2] * 4  # too few of class 2 to count
    before, after = [1] * 15 + [0] * 9, [1] * 15 + [1, 0, 0, 0, 0] + [1] * 4
    held = held_out(classes, list(range(24)), before, after, after)
    found = standings(held, answering(held, []))
    assert found["balanced"]["items"] == 20 and found["natural"]["items"] == 24
    assert found["balanced"][STAGE1] == pytest.approx(1 / 2)
    assert found["balanced"][GATED] == pytest.approx((1 + 1 / 5) / 2)
    assert found["balanced"]["fixed"] == 1 and found["natural"]["fixed"] == 5


def test_what_nothing_speaks_for_is_none() -> None:
    nothing = SIX[np.zeros(6, bool)]
    for row in standings(nothing, answering(nothing, [1])).values():
        assert row["items"] == row["fixed"] == row["broken"] == 0
        assert {
            row[name]
            for name in (RAW, STAGE1, POOL, OWN, GATED, "gain", "low", "high", "own_share")
        } == {None}
    assert (
        standings(SIX, answering(SIX, []))["natural"]["own_share"] is None
    )  # of no gain there is no share
    assert (
        standings(SIX, answering(SIX, []))["balanced"]["gain"] is None
    )  # no category of five items


def summary(held: HeldOut, **changes: object) -> Stage2Summary:
    units = {unit: standings(held, answering(held, [1])) for unit in ("image", "product")}
    values = {
        "sets": 1,
        "models": 1,
        "default": POOL,
        "answers": {STAGE1: 0, POOL: 0, OWN: 1},
        "mendable_share": 0.5,
        "units": units,
        "shift": {},
        "weights": {"image": {"stage1": 0.31, "log_target": -0.2}},
        "seconds": {"read": 1.0},
    }
    return Stage2Summary(**(values | changes))


def test_the_page_has_both_units_and_mixes() -> None:
    text = summary(SIX).text()
    assert "  6 images, natural " in text and "  0 products, balanced " in text
    low, high = (
        100 * end
        for end in clustered_change(np.array([1, 1, 0, 0, -1, 0]), np.ones(6), np.arange(6))[1:3]
    )
    assert f"+16.67 [{low:+.2f}, {high:+.2f}]" in text
    assert "counted on the other half, 40 times; what answers was decided on all of them" in text
    assert "errors of the pool on val_b that the sets could mend: 50%" in text
    assert "the pool weighs, per image: stage1 0.31, log_target -0.20" in text
    assert "- [-, -]" in text  # the balanced mix, in which nothing counts
    assert "mend: -" in summary(SIX, mendable_share=None).text()


def test_an_empty_val_b_is_said() -> None:
    text = summary(SIX[np.zeros(6, bool)], mendable_share=None).text()
    assert "val_b has no image: stage 2 can't be judged" in text and "top-1" not in text
