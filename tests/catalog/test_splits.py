"""Splits and caps: what holds for any catalogue, in any order, and after any number of later
dumps."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.splits import (
    DEALT,
    PRECEDENCE,
    SPLITS,
    deal,
    deal_groups,
    deal_official,
    product_hash,
    sample_hash,
    sample_key,
    sample_mask,
    select,
    shares,
)

TRAIN, RESERVE, VAL_A, VAL_B, TEST = range(5)
SIZES = st.lists(st.integers(0, 120), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**63 - 1)


def catalogue(sizes: list[int], first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class indices and product ids of categories with so many products."""
    class_index = np.repeat(np.arange(len(sizes)), sizes)
    return class_index, first + np.arange(len(class_index)) * 7


def counts(class_index: np.ndarray, split: np.ndarray, classes: int) -> np.ndarray:
    table = np.zeros((classes, 5), dtype=np.int64)
    np.add.at(table, (class_index, split), 1)
    return table


def dealt(sizes: list[int], seed: int) -> np.ndarray:
    class_index, ids = catalogue(sizes)
    split = deal(class_index, ids, np.zeros((len(sizes), 5), np.int64), seed)
    return counts(class_index, split, len(sizes))


def test_golden_values() -> None:
    """Another hash would deal every existing catalogue again: a change here must be meant, and
    raises the store's schema."""
    ids = np.array([0, 1, 2, 1000, 2**49 - 1])
    assert product_hash(ids, 0).tolist() == [
        0x48218226FF3CD4BF,
        0x9E0160293A33AAF7,
        0x3DD5EB0403EDDD79,
        0xEB4A820AE84CC033,
        0x0AB51743FA1D9CAA,
    ]
    assert product_hash(ids, 1).tolist() == [
        0xDCE423FC82C0D5B8,
        0x5C52BD4054E958C9,
        0x081A5C1377856B73,
        0xA0D4F3B5645E37A1,
        0xE47FDA8142E7D3BB,
    ]
    class_index, ids = catalogue([12, 3])
    assert deal(class_index, ids, np.zeros((2, 5), np.int64), 0).tolist() == [
        0,
        4,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        2,
        0,
        4,
    ]
    assert select(class_index, ids, 1 + ids % 3, 6, 0).nonzero()[0].tolist() == [1, 2, 12, 13, 14]


@given(st.lists(st.integers(0, 2**49 - 1), unique=True, min_size=2, max_size=50), SEEDS)
def test_the_hash_has_no_collisions_and_depends_on_the_seed(ids: list[int], seed: int) -> None:
    hashed = product_hash(np.array(ids), seed)
    assert hashed.dtype == np.uint64
    assert len(set(hashed.tolist())) == len(ids)
    assert (hashed != product_hash(np.array(ids), seed ^ 1)).all()


def test_the_hash_is_uniform() -> None:
    bins = np.bincount(
        (product_hash(np.arange(64_000), 3) >> np.uint64(58)).astype(int), minlength=64
    )
    assert (
        (bins - 1000) ** 2 / 1000
    ).sum() < 110  # chi-squared, 63 degrees of freedom: 99.98% of hashes that are uniform


@given(SIZES, SEEDS)
def test_shares_add_up_and_hold_the_minima(sizes: list[int], seed: int) -> None:
    for size, row in zip(sizes, shares(np.array(sizes), seed).tolist(), strict=True):
        assert sum(row) == size
        assert min(row) >= 0
        held = [row[VAL_A] + row[VAL_B], row[TEST]]
        assert held == [0, 0] if size < 3 else min(held) >= 1
        assert (row[RESERVE] >= 1) == (size >= 10)
        assert size == 0 or row[TRAIN] >= 1
        if size >= 10:
            assert all(abs(n - size / 10) <= 0.5 for n in (*held, row[RESERVE]))
            assert abs(row[VAL_A] - row[VAL_B]) <= 1


def test_odd_validation_products_go_to_either_half() -> None:
    table = shares(np.full(1000, 3), 0)
    assert 400 < table[:, VAL_A].sum() < 600
    assert (table[:, VAL_A] + table[:, VAL_B] == 1).all()


@given(SIZES, SEEDS)
def test_a_new_catalogue_is_dealt_its_shares(sizes: list[int], seed: int) -> None:
    np.testing.assert_array_equal(dealt(sizes, seed), shares(np.array(sizes), seed))


@given(SIZES, SEEDS)
def test_order_does_not_matter(sizes: list[int], seed: int) -> None:
    class_index, ids = catalogue(sizes)
    order = np.random.default_rng(seed).permutation(len(ids))
    existing = np.zeros((len(sizes), 5), np.int64)
    np.testing.assert_array_equal(
        deal(class_index[order], ids[order], existing, seed),
        deal(class_index, ids, existing, seed)[order],
    )
    images = 1 + ids % 4
    np.testing.assert_array_equal(
        select(class_index[order], ids[order], images[order], 10, seed),
        select(class_index, ids, images, 10, seed)[order],
    )


@given(st.lists(SIZES.map(lambda sizes: (sizes * 6)[:4]), min_size=2, max_size=6), SEEDS)
def test_later_dumps_fill_what_is_short(dumps: list[list[int]], seed: int) -> None:
    table = np.zeros((4, 5), np.int64)
    for number, sizes in enumerate(dumps):
        class_index, ids = catalogue(sizes, first=number * 1_000_000)
        before = table
        table = before + counts(class_index, deal(class_index, ids, before, seed), 4)
        target = shares(table.sum(axis=1), seed)
        excess = np.maximum(
            before, target
        )  # what stands stays: a split is above its share only where it was before
        assert (table[:, 1:] <= excess[:, 1:]).all()
        assert (table.sum(axis=1) == before.sum(axis=1) + sizes).all()
        far, near = np.abs(before - target).sum(), np.abs(table - target).sum()
        assert near <= far


def test_another_seed_deals_and_selects_otherwise() -> None:
    class_index, ids = catalogue([100])
    one, other = (deal(class_index, ids, np.zeros((1, 5), np.int64), seed) for seed in (0, 1))
    assert (one != other).sum() > 20
    kept = [select(class_index, ids, np.ones(100, int), 30, seed) for seed in (0, 1)]
    assert (kept[0] != kept[1]).sum() > 20


def test_many_small_dumps_reach_the_shares_of_one_large_dump() -> None:
    table = np.zeros((1, 5), np.int64)
    for number in range(200):
        new = deal(np.zeros(1, int), np.array([number]), table, 9)
        table[0, new[0]] += 1
    np.testing.assert_array_equal(table, shares(np.array([200]), 9))


def test_dealing_nothing() -> None:
    empty = np.zeros(0, dtype=np.int64)
    assert deal(empty, empty, np.zeros((3, 5), np.int64), 0).tolist() == []
    assert select(empty, empty, empty, 5, 0).tolist() == []


PRODUCTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=60)


@given(PRODUCTS, st.integers(1, 25), SEEDS)
def test_a_cap_takes_the_first_by_hash_while_their_images_fit(
    products: list, cap: int, seed: int
) -> None:
    class_index, images = np.array(products).T
    ids = np.arange(len(products)) * 13
    kept = select(class_index, ids, images, cap, seed)
    hashed = product_hash(ids, seed)
    for k in range(4):
        rows = np.flatnonzero(class_index == k)
        rows = rows[np.argsort(hashed[rows])]
        taken = kept[rows]
        assert (np.diff(taken.astype(int)) <= 0).all()  # a prefix
        if len(rows):
            assert taken[0]
            assert images[rows][taken].sum() <= max(cap, images[rows[0]])
            if not taken.all():
                assert images[rows][: taken.sum() + 1].sum() > cap


@given(PRODUCTS, st.integers(0, 60), st.integers(1, 25), SEEDS)
def test_more_products_never_bring_one_back(
    products: list, first: int, cap: int, seed: int
) -> None:
    class_index, images = np.array(products).T
    ids = np.arange(len(products)) * 13
    few = select(class_index[:first], ids[:first], images[:first], cap, seed)
    many = select(class_index, ids, images, cap, seed)[:first]
    assert not (many & ~few).any()


def test_a_cap_is_not_biased_to_a_split() -> None:
    """Splits and caps use one hash: the products of a split must still be spread over its own
    order."""
    class_index, ids = catalogue([5000])
    split = deal(class_index, ids, np.zeros((1, 5), np.int64), 0)
    train = ids[split == TRAIN]
    kept = select(np.zeros(len(train), int), train, np.ones(len(train), int), 300, 0)
    assert kept.sum() == 300
    assert abs(train[kept].mean() - ids.mean()) < 4 * ids.std() / np.sqrt(300)


@pytest.mark.parametrize(
    "higher, lower",
    [
        ("test", "val_b"),
        ("val_b", "val_a"),
        ("val_a", "reserve"),
        ("reserve", "train"),
        ("train", "extra"),
    ],
)
def test_precedence(higher: str, lower: str) -> None:
    assert PRECEDENCE[higher] < PRECEDENCE[lower]
    assert set(PRECEDENCE) == set(SPLITS)


PURPOSES = (
    "class-mix shift",
    "experts",
    "experts, weights",
    "experts, bank",
    "rows of experts",
    "rows of a class",
    "grid folds",
    "gate, repeat 0",
    "stage 1 trials",
)
SAMPLE_SEEDS = range(4)


@pytest.fixture(scope="module", params=SAMPLE_SEEDS)
def long_tailed(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Product ids and splits of 400,000 products in 500 categories of very different size, by one
    catalogue seed."""
    rng = np.random.default_rng(0)
    sizes = np.maximum(1, rng.lognormal(6.5, 1.6, 500)).astype(int)
    class_index = np.repeat(np.arange(500), sizes * 400_000 // sizes.sum())
    ids = rng.permutation(2 * len(class_index))[: len(class_index)]
    return ids, deal(class_index, ids, np.zeros((500, 5), np.int64), request.param)


@pytest.mark.parametrize("seed", SAMPLE_SEEDS)
def test_a_sample_of_any_split_has_its_size_whatever_the_seeds(
    long_tailed: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    """By the splits' own hash a sample of val_a could be one product, or all of them."""
    ids, split = long_tailed
    assert 18_000 < (split == VAL_A).sum() < 22_000
    for purpose in PURPOSES:
        for number in range(len(DEALT)):
            mine = ids[split == number]
            share = sample_mask(mine, 0.3, purpose, seed).mean()
            assert share == pytest.approx(0.3, rel=0.05), (purpose, number)
            fold = sample_hash(mine, purpose, seed) % np.uint64(3)
            assert np.bincount(fold.astype(int), minlength=3) == pytest.approx(
                [len(mine) / 3] * 3, rel=0.05
            )


def test_each_product_may_have_a_share_of_its_own() -> None:
    ids = np.arange(40_000)
    share = np.repeat([0.0, 0.25, 0.5, 1.0], 10_000)
    mine = sample_mask(ids, share, "gate", 0)
    for value in np.unique(share):
        expected = sample_mask(ids, float(value), "gate", 0)
        np.testing.assert_array_equal(mine[share == value], expected[share == value])
    assert not mine[share == 0].any() and mine[share == 1].all()


def test_samples_of_different_purposes_and_seeds_are_independent() -> None:
    ids = np.arange(100_000)
    samples = [
        sample_mask(ids, 0.5, purpose, seed) for purpose in PURPOSES for seed in SAMPLE_SEEDS
    ]
    assert len({sample_key(purpose, seed) for purpose in PURPOSES for seed in SAMPLE_SEEDS}) == len(
        samples
    )
    both = np.corrcoef(np.array(samples))
    assert np.abs(both - np.eye(len(samples))).max() < 0.02  # six standard errors


def test_sample_keys_are_golden() -> None:
    """Another key would draw other samples under the same seed: stage 2's and stage 1's short runs
    would change."""
    assert (
        sample_key("gate", 0) == 0x3396878B435C435B and sample_key("gate", 1) == 0x46E82199726B8063
    )
    assert sample_key("gate 1", 0) != sample_key("gate", 10)
    ids = np.array([0, 1, 2**49 - 1])
    np.testing.assert_array_equal(
        sample_hash(ids, "gate", 1), product_hash(ids, sample_key("gate", 1))
    )


def test_a_sample_of_everything_or_nothing() -> None:
    ids = np.arange(1000)
    assert sample_mask(ids, 1.0, "all", 0).all() and sample_mask(ids, 7.5, "all", 0).all()
    assert not sample_mask(ids, 0.0, "none", 0).any()
    assert sample_mask(ids, 1 - 2**-53, "nearly all", 0).all()
    few, many = sample_mask(ids, 0.2, "some", 0), sample_mask(ids, 0.6, "some", 0)
    assert not (few & ~many).any()  # a larger share has the smaller one's products


def test_nothing_but_the_store_is_drawn_by_the_splits_key() -> None:
    """What else draws products uses a key of its own: `sample_hash` and its kin."""
    root = Path(__file__).parents[2]
    users = {
        path.relative_to(root).as_posix()
        for package in ("catalog", "stage1_cnn", "features", "stage2_xgb", "pipeline", "benchmarks")
        for path in (root / package).rglob("*.py")
        if "product_hash" in path.read_text(encoding="utf-8")
    }
    assert users == {"catalog/splits.py", "catalog/store/writer.py"}


def test_official_splits_stay_and_train_gives_what_they_lack() -> None:
    class_index, ids = catalogue([300, 300])
    official = np.tile(np.repeat(["test", "val", "train", ""], [50, 100, 120, 30]), 2)
    given = np.full(len(ids), RESERVE, dtype=np.uint8)
    dealt = deal_official(class_index, ids, official, given, 0)
    assert (dealt[official == "test"] == TEST).all() and (dealt[official == ""] == RESERVE).all()
    halves = np.bincount(dealt[official == "val"], minlength=5)
    assert halves.sum() == halves[VAL_A] + halves[VAL_B] and 70 < halves[VAL_A] < 130
    assert set(dealt[official == "train"]) == {TRAIN, RESERVE}  # the others are there
    alone = deal_official(class_index, ids, np.full(len(ids), "train"), given, 0)
    np.testing.assert_array_equal(alone, deal(class_index, ids, np.zeros((2, 5), np.int64), 0))
    kept = deal_official(class_index, ids, np.full(len(ids), "val_b"), given, 0)
    assert (kept == VAL_B).all()
    assert len(deal_official(class_index[:0], ids[:0], official[:0], given[:0], 0)) == 0


def test_a_group_has_one_split_and_groups_have_the_shares() -> None:
    groups = [f"shop {number // 2}" for number in range(20_000)] + [None]
    dealt = deal_groups(groups, np.full(len(groups), TEST, dtype=np.uint8), 0)
    assert (dealt[0:-1:2] == dealt[1:-1:2]).all() and dealt[-1] == TEST
    found = np.bincount(dealt[:-1], minlength=5) / 20_000
    np.testing.assert_allclose(found, [0.7, 0.1, 0.05, 0.05, 0.1], atol=0.015)
    assert (deal_groups(groups[::-1], dealt, 0)[::-1][:-1] == dealt[:-1]).all()
    assert (deal_groups(groups, dealt, 1) != dealt).any()
