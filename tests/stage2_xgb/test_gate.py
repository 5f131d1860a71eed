"""The gate, on counts made by hand."""

import numpy as np
import pytest

from stage2_xgb.gate import OWN, POOL, STAGE1, HeldOut, counts, decide, gains


def held(*groups: tuple[int, int, int, int]) -> HeldOut:
    """Products of one item in some categories: (class, products, fixed by its own model, broken by
    it)."""
    predicted, before, own = [], [], []
    for class_index, n, fixed, broken in groups:
        predicted += [class_index] * n
        before += [False] * fixed + [True] * (n - fixed)
        own += [True] * fixed + [False] * broken + [True] * (n - fixed - broken)
    products, none = np.arange(len(predicted)), np.zeros(len(predicted), int)
    right = {POOL: np.array(before), OWN: np.array(own)}
    return HeldOut(np.array(predicted), none, products, right)


@pytest.mark.parametrize(
    ("fixed", "broken", "expected"),
    [
        (0, 0, False),
        (3, 3, False),
        (2, 3, False),
        (3, 1, False),
        (10, 2, True),
        (60, 40, True),
        (4, 0, True),
    ],
)
def test_gains_beyond_chance(fixed: int, broken: int, expected: bool) -> None:
    assert bool(gains(fixed, broken)) is expected


def test_shrinkage_by_hand() -> None:
    """Overall 8 fixed, 2 broken of 100 concerned: +0.06 an item. Class 0: (6 - 2 + 20 * 0.06) / (40
    + 20)."""
    found = decide(
        held((0, 40, 6, 2), (1, 60, 2, 0), (7, 50, 9, 0)), STAGE1, np.array([0, 1]), prior=20.0
    )
    assert set(found) == {0, 1}  # 7 has no model, and does not count
    assert found[0].gain == pytest.approx((6 - 2 + 20 * 0.06) / 60)
    assert found[1].gain == pytest.approx((2 + 20 * 0.06) / 80)
    assert (found[0].answer, found[0].products, found[0].fixed, found[0].broken) == (OWN, 40, 6, 2)


def test_few_items_follow_the_whole() -> None:
    gain = decide(
        held((0, 200, 60, 5), (1, 1, 0, 1), (2, 0, 0, 0)), STAGE1, np.array([0, 1, 2]), prior=20.0
    )
    assert [gain[c].answer for c in range(3)] == [
        OWN,
        OWN,
        OWN,
    ]  # one bad item does not outweigh a clear gain elsewhere
    loss = decide(
        held((0, 200, 5, 60), (1, 1, 1, 0), (2, 0, 0, 0)), STAGE1, np.array([0, 1, 2]), prior=20.0
    )
    assert [loss[c].answer for c in range(3)] == [STAGE1, STAGE1, STAGE1]


def test_an_overall_gain_within_chance_counts_as_none() -> None:
    found = decide(held((0, 50, 2, 1), (1, 10, 0, 0)), STAGE1, np.array([0, 1]), prior=20.0)
    assert found[1].gain == 0 and found[1].answer == STAGE1


def test_a_loss_overall_counts_however_few_show_it() -> None:
    assert decide(held((0, 1, 0, 1)), STAGE1, np.array([0, 1]), prior=20.0)[1].gain == -1
    assert decide(held((0, 2, 0, 1)), STAGE1, np.array([0, 1]), prior=20.0)[1].gain == -0.5


def test_a_category_that_loses_stays_with_the_opinion_before() -> None:
    found = decide(held((0, 100, 40, 0), (1, 100, 5, 30)), POOL, np.array([0, 1]), prior=20.0)
    assert found[1].answer == POOL and found[1].gain < 0


def test_repeats_of_an_item_prove_nothing() -> None:
    """Two products fixed are chance, with one image each or with ten."""
    one = held((0, 40, 2, 0))
    ten = one[np.repeat(np.arange(40), 10)]
    classes = np.array([0])
    assert decide(ten, STAGE1, classes, 20.0) == decide(one, STAGE1, classes, 20.0)
    assert decide(ten, STAGE1, classes, 20.0)[0].products == 40


def test_a_product_counts_by_what_most_of_its_items_do() -> None:
    """7 as many mended as broken, 8 more mended, 9 more broken."""
    product = np.array([7, 7, 8, 8, 8, 9, 9, 9])
    before, after = (
        np.array(right, bool) for right in ([0, 1, 0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0, 0, 1])
    )
    assert counts(product, before, after) == (3, 1, 1)


def test_nothing_held_out() -> None:
    nothing = np.zeros(0, int)
    empty = HeldOut(nothing, nothing, nothing, {name: np.zeros(0, bool) for name in (POOL, OWN)})
    assert decide(empty, STAGE1, np.array([3]), 20.0)[3].answer == STAGE1


def by_loop(found: HeldOut, default: str, classes: np.ndarray, prior: float) -> dict[int, tuple]:
    """`decide`, one category after another."""

    def count(rows: np.ndarray) -> tuple[int, int, int]:
        return counts(found.product_id[rows], found.right[POOL][rows], found.right[OWN][rows])

    n, up, down = count(np.isin(found.predicted, classes))
    overall = (up - down) / n if n and (up < down or gains(up, down)) else 0.0
    out = {}
    for c in classes.tolist():
        n, up, down = count(found.predicted == c)
        gain, error = (up - down + prior * overall) / (n + prior), (up + down) ** 0.5 / (n + prior)
        out[c] = (OWN if gain > error else default, n, up, down, pytest.approx(gain))
    return out


@pytest.mark.parametrize("seed", range(5))
def test_decisions_are_those_of_a_plain_loop(seed: int) -> None:
    """Items of one product in several categories, categories without items, and classes in any
    order."""
    rng = np.random.default_rng(seed)
    n = 500
    right = {name: rng.random(n) < p for name, p in ((POOL, 0.5 + 0.1 * seed), (OWN, 0.6))}
    found = HeldOut(
        rng.integers(0, 12, n), rng.integers(0, 12, n), rng.integers(0, 200, n) * 10**12, right
    )
    classes = rng.permutation(20)[:14]
    for default in (STAGE1, POOL):
        decisions = decide(found, default, classes, 7.5)
        plain = {c: (d.answer, d.products, d.fixed, d.broken, d.gain) for c, d in decisions.items()}
        assert plain == by_loop(found, default, classes, 7.5) and list(plain) == classes.tolist()


def test_more_than_one_standard_error_is_asked_for() -> None:
    """4 fixed of 4 that changed: a net of 4 is above the error of 2. A net of 1 of 1 is not above
    1, nor 2 of 6 above 2.45."""
    for fixed, broken, expected in (
        (4, 0, OWN),
        (1, 0, POOL),
        (5, 2, OWN),
        (4, 2, POOL),
        (3, 1, POOL),
    ):
        found = decide(held((0, 60, fixed, broken)), POOL, np.array([0]), prior=1e-9)
        assert found[0].answer == expected, (fixed, broken)
