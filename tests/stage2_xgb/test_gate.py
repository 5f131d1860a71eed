"""The gate, on counts made by hand."""

import numpy as np
import pytest

from stage2_xgb.gate import (
    OWN,
    POOL,
    STAGE1,
    HeldOut,
    Votes,
    decide,
    gains_as_a_whole,
    posterior_means,
)

EVEN = np.ones(60) / 60
"""A target mix in which the classes of `held`, all of class 0, weigh the same."""


def held(*groups: tuple[int, int, int, int]) -> HeldOut:
    """Products of one item in some categories: (class, products, fixed by its own model, broken by
    it)."""
    predicted, before, own = [], [], []
    for class_index, n, fixed, broken in groups:
        predicted += [class_index] * n
        before += [False] * fixed + [True] * (n - fixed)
        own += [True] * fixed + [False] * broken + [True] * (n - fixed - broken)
    products, none = np.arange(len(predicted)), np.zeros(len(predicted), int)
    right = {POOL: np.array(before, bool), OWN: np.array(own, bool)}
    return HeldOut(np.array(predicted, int), none, products, right)


def means(classes: int, *groups: tuple[int, int, int, int]) -> list[float]:
    return posterior_means(Votes.of(held(*groups), EVEN), np.arange(classes)).tolist()


def answers(found: HeldOut, classes: int, default: str = POOL) -> list[str]:
    decisions = decide(found, default, np.arange(classes), EVEN, 0)
    return [decisions[c].answer for c in range(classes)]


def test_categories_alike_all_have_the_mean() -> None:
    """No more spread than chance gives: the prior has no variance."""
    assert means(3, (0, 40, 6, 2), (1, 40, 6, 2), (2, 20, 3, 1)) == pytest.approx([0.1] * 3)


def test_shrinkage_by_hand() -> None:
    """Two categories of 100 products, 60 fixed in one and 60 broken in the other: their own and the
    overall rate of change are .6, so each gain has a variance of .6 / 100. Between them
    DerSimonian and Laird have (2 * .36 / .006 - 1) / (1 / .006)."""
    noise = 0.6 / 100
    between = (2 * 0.36 / noise - 1) * noise
    shrunk = 0.6 * between / (between + noise)
    assert means(2, (0, 100, 60, 0), (1, 100, 0, 60)) == pytest.approx([shrunk, -shrunk])


def test_shrinkage_towards_a_mean_by_hand() -> None:
    """As above, with gains of .6 and 0: shrunk towards .3."""
    noise = 0.6 / 100
    between = (2 * 0.09 / noise - 1) * noise
    shrunk = 0.3 * between / (between + noise)
    found = means(2, (0, 100, 60, 0), (1, 100, 30, 30))
    assert found == pytest.approx([0.3 + shrunk, 0.3 - shrunk])


def test_one_product_each_by_hand() -> None:
    """Gains of 1 and -1, each with a variance of 1, have a variance of 1 between them."""
    assert means(2, (0, 1, 1, 0), (1, 1, 0, 1)) == pytest.approx([0.5, -0.5])


@pytest.mark.parametrize("scale", [1, 1e-3])
def test_unequal_weights_are_worth_fewer_products(scale: float) -> None:
    """Half of 100 products weigh twice as much: worth 150^2 / 250 = 90. The scale is no matter."""
    votes = Votes.of(held((0, 100, 60, 0), (1, 100, 0, 60)), EVEN)
    weight = np.where(np.arange(len(votes.net)) % 2, 2, 1) * scale
    votes = Votes(votes.predicted, votes.product_id, votes.net, weight)
    noise = 0.6 / 90
    between = (2 * 0.36 / noise - 1) * noise
    shrunk = 0.6 * between / (between + noise)
    assert posterior_means(votes, np.arange(2)) == pytest.approx([shrunk, -shrunk])


def test_nothing_gains_as_a_whole_where_nothing_changes() -> None:
    for products in (0, 5):
        votes = Votes.of(held((0, products, 0, 0)), EVEN)
        assert not gains_as_a_whole(votes, np.arange(1), 0)


def test_a_category_without_products_has_the_mean_of_the_others() -> None:
    found = means(3, (0, 40, 8, 2), (2, 40, 8, 2))
    assert found == pytest.approx([0.15] * 3)


def test_few_products_follow_the_whole() -> None:
    """One bad product does not outweigh a clear gain of others, nor one good one a loss."""
    gain = held((0, 100, 30, 4), (1, 100, 32, 3), (2, 100, 28, 5), (3, 1, 0, 1))
    assert answers(gain, 5) == [OWN] * 5
    loss = held((0, 100, 4, 30), (1, 100, 3, 32), (2, 100, 5, 28), (3, 1, 1, 0))
    assert answers(loss, 5) == [POOL] * 5


def test_a_category_that_loses_stays_with_the_opinion_before() -> None:
    assert answers(held((0, 100, 40, 0), (1, 100, 5, 30)), 2, STAGE1) == [OWN, STAGE1]


def test_without_a_gain_of_the_whole_all_are_off() -> None:
    """Over noise the luckiest look good, to those who chose them alone."""
    on = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        changed = rng.random(600) < 0.3
        before = rng.random(600) < 0.5
        right = {POOL: before, OWN: before ^ changed}
        found = HeldOut(rng.integers(0, 40, 600), np.zeros(600, int), rng.permutation(600), right)
        decisions = decide(found, POOL, np.arange(40), EVEN, seed)
        if not any(d.answer == OWN for d in decisions.values()):
            continue
        on.append(seed)
        votes = Votes.of(found, EVEN)
        assert gains_as_a_whole(votes, np.arange(40), seed)
    assert len(on) <= 11  # by chance one in six gains more than a standard error


def test_repeats_of_an_item_prove_nothing() -> None:
    """Two products fixed are the same, with one image each or with ten."""
    one, classes = held((0, 40, 2, 0), (1, 30, 1, 1)), np.array([0, 1])
    ten = one[np.repeat(np.arange(70), 10)]
    decisions = decide(ten, STAGE1, classes, EVEN, 0)
    assert decisions == decide(one, STAGE1, classes, EVEN, 0)
    assert (decisions[0].products, decisions[0].fixed, decisions[0].broken) == (40, 2, 0)


def test_a_product_counts_by_what_most_of_its_items_do() -> None:
    """7 as many fixed as broken, 8 more fixed, 9 more broken."""
    product = np.array([7, 7, 8, 8, 8, 9, 9, 9])
    before, after = (
        np.array(right, bool) for right in ([0, 1, 0, 0, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0, 0, 1])
    )
    nothing = np.zeros(8, int)
    votes = Votes.of(HeldOut(nothing, nothing, product, {POOL: before, OWN: after}), EVEN)
    assert votes.product_id.tolist() == [7, 8, 9] and votes.net.tolist() == [0, 1, -1]


def test_a_product_in_two_categories_votes_in_both() -> None:
    predicted, product = np.array([3, 1, 3]), np.array([5, 5, 5])
    right = {POOL: np.array([0, 1, 0], bool), OWN: np.array([1, 0, 1], bool)}
    votes = Votes.of(HeldOut(predicted, np.zeros(3, int), product, right), EVEN)
    assert votes.predicted.tolist() == [1, 3] and votes.net.tolist() == [-1, 1]


def test_products_are_weighted_to_the_target_mix() -> None:
    """Fixed are those of class 0, broken those of class 1, as many: what is common counts."""
    truth, fixed = np.repeat([0, 1], 200), np.repeat([True, False], 200)
    found = HeldOut(np.zeros(400, int), truth, np.arange(400), {POOL: ~fixed, OWN: fixed})
    for mix, expected in (([0.8, 0.2], 0.6), ([0.3, 0.7], -0.4)):
        decision = decide(found, POOL, np.array([0]), np.array(mix), 0)[0]
        assert decision.gain == pytest.approx(expected)
        assert decision.answer == (OWN if expected > 0 else POOL)
        assert (decision.products, decision.fixed, decision.broken) == (400, 200, 200)


@pytest.mark.parametrize("changed", [(0, 0), (5, 0)])
def test_nothing_held_out_or_changed(changed: tuple[int, int]) -> None:
    """Without products, and if no reclassifier changed anything, the opinion before answers."""
    products, _ = changed
    found = held((3, products, 0, 0))
    decision = decide(found, STAGE1, np.array([3]), EVEN, 0)[3]
    assert (decision.answer, decision.products, decision.gain) == (STAGE1, products, 0.0)


def test_categories_may_come_in_any_order_and_others_do_not_count() -> None:
    found = held((0, 50, 20, 1), (4, 60, 2, 20), (7, 80, 0, 60))
    forward, back = (decide(found, POOL, np.array(c), EVEN, 0) for c in ([0, 4], [4, 0]))
    assert forward == back and list(back) == [4, 0]
    alone = decide(held((0, 50, 20, 1), (4, 60, 2, 20)), POOL, np.array([0, 4]), EVEN, 0)
    for c, decision in alone.items():
        assert forward[c].answer == decision.answer
        assert forward[c].gain == pytest.approx(decision.gain)


def test_items_are_put_together_with_the_answers_that_all_know() -> None:
    first, second = held((0, 3, 1, 0)), held((1, 2, 0, 1))
    richer = HeldOut(
        second.predicted, second.class_index, second.product_id, {**second.right, STAGE1: first}
    )
    both = HeldOut.concatenate([first, richer])
    assert both.predicted.tolist() == [0, 0, 0, 1, 1] and set(both.right) == {POOL, OWN}
    assert both.right[OWN].tolist() == [*first.right[OWN], *second.right[OWN]]
