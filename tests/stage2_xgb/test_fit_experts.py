"""The pool of experts, fitted on planted features: what it learns, from whom, and that nothing else
moves a bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features.store import FeatureStore
from stage1_cnn.head import log_softmax
from stage2_xgb import dataset, expert_rows, fit_experts
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import ExpertPool, pool_arrays, read_pool
from stage2_xgb.expert_rows import image_fold
from stage2_xgb.fit_experts import DISCRIMINANTS, LOGISTIC, FittedPool
from stage2_xgb.items import ItemBlock, mean_by_product, product_starts
from stage2_xgb.prior import mix
from tests.stage2_xgb.planted import CLASSES, Rows, make_rows, write

TARGET = np.full(CLASSES, 1 / CLASSES)


def fitted(store: FeatureStore, *, jobs: int = 1, views: int = 1) -> FittedPool:
    """The pool of a feature file, seen as one view or as several that are the same."""
    targets = {"image": TARGET, "product": TARGET}
    return fit_experts.fit_experts(Views([store] * views), targets, TARGET, seed=0, jobs=jobs)


def images(store: FeatureStore, split: str, views: int = 1) -> ItemBlock:
    """All images of a split."""
    (block,) = Views([store] * views).blocks(split, fit_only=True)
    return block


def top1(log_probs: np.ndarray, class_index: np.ndarray) -> float:
    """Share of the items [N] that the highest log-probability [N, K] names."""
    return float((log_probs.argmax(axis=1) == class_index).mean())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Features that hold the answer. Only to be read."""
    return write(tmp_path_factory.mktemp("experts") / "features.h5", make_rows())


@pytest.fixture(scope="module")
def whole(store: FeatureStore) -> FittedPool:
    """The pool of these. Only to be read."""
    return fitted(store)


@pytest.mark.parametrize("unit", ["image", "product"])
def test_finds_what_the_head_does_not_read(
    store: FeatureStore, whole: FittedPool, unit: str
) -> None:
    test = images(store, "test")
    labels = (
        test.class_index if unit == "image" else test.class_index[product_starts(test.product_id)]
    )
    stage1 = test.log_probs if unit == "image" else mean_by_product(test.log_probs, test.product_id)
    assert whole.names == (DISCRIMINANTS, LOGISTIC)
    assert top1(whole.pool.log_probs(test, unit), labels) > top1(stage1, labels) + 0.2


def test_products_of_several_images_are_answered_more_surely(
    store: FeatureStore, whole: FittedPool
) -> None:
    """Their images' noise is independent, so each adds what it says."""
    test = images(store, "test")
    count = np.diff(product_starts(test.product_id), append=len(test))
    odds = whole.pool.log_probs(test, "product").max(axis=1)
    assert np.exp(odds[count == 3]).mean() > np.exp(odds[count == 1]).mean() + 0.03
    assert whole.pool.weights["product"].growth[:-2].sum() > 0.3
    assert not whole.pool.weights["image"].growth.any()


def test_is_not_worse_than_any_expert_alone_on_what_it_was_fitted_on(
    store: FeatureStore, whole: FittedPool
) -> None:
    held, losses = images(store, "reserve"), []
    rows = np.arange(len(held))
    log_probs = whole.log_probs(held, "image")
    fold = image_fold(held, whole.seed)
    for number in range(len(whole.pool)):
        opinion = np.empty_like(log_probs)
        for place in np.unique(fold):
            opinion[fold == place] = whole.by_fold[place].opinions(held.rows(fold == place))[number]
        losses.append(-log_softmax(opinion)[rows, held.class_index].mean())
    assert -log_probs[rows, held.class_index].mean() < min(losses) + 0.01


def test_out_of_fold_opinions_know_nothing_of_random_labels(tmp_path: Path) -> None:
    """Each product has features of its own and a label by chance: who saw it answers rightly,
    nobody else can."""
    rows = make_rows(seed=3)
    rng = np.random.default_rng(4)
    _, product = np.unique(rows.table.product_id, return_inverse=True)
    own = rng.normal(size=(product.max() + 1, 12))
    features = own[product] + 0.01 * rng.normal(size=(len(product), 12))
    store = write(tmp_path / "features.h5", Rows(rows.table, features.astype(np.float16)))
    found = fitted(store)
    held = images(store, "reserve")
    fold = image_fold(held, found.seed)
    chance = 1 / CLASSES
    for number in range(1, len(found.pool)):
        opinions = np.empty((len(held), CLASSES))
        for place in np.unique(fold):
            opinions[fold == place] = found.by_fold[place].opinions(held.rows(fold == place))[
                number
            ]
        assert abs(top1(opinions, held.class_index) - chance) < 0.1
    assert abs(top1(found.log_probs(held, "image"), held.class_index) - chance) < 0.1
    assert top1(found.pool.opinions(held)[2], held.class_index) > chance + 0.1  # fitted on them


def test_held_out_images_get_the_pool_of_their_fold(store: FeatureStore, whole: FittedPool) -> None:
    held, test = images(store, "val_a"), images(store, "test")
    fold = image_fold(held, whole.seed)
    for number in np.unique(fold):
        mine = fold == number
        pool = whole.by_fold[number]
        expected = pool.log_probs(held.rows(mine), "image", strangers=False)
        np.testing.assert_array_equal(whole.log_probs(held, "image")[mine], expected)
    np.testing.assert_array_equal(
        whole.log_probs(test, "product"), whole.pool.log_probs(test, "product")
    )
    by_product = fold[product_starts(held.product_id)]
    assert (
        np.repeat(by_product, np.diff(product_starts(held.product_id), append=len(held))) == fold
    ).all()


@pytest.mark.parametrize("change", ["threads", "blocks"])
def test_threads_and_blocks_change_no_bit(
    store: FeatureStore, whole: FittedPool, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "blocks":
        monkeypatch.setattr(dataset, "BLOCK", 37)
    other = fitted(store, jobs=3 if change == "threads" else 1)
    assert_same(other.pool, whole.pool)
    for mine, expected in zip(other.by_fold, whole.by_fold, strict=True):
        assert_same(mine, expected)


def assert_same(pool: ExpertPool, expected: ExpertPool) -> None:
    """Bit for bit."""
    arrays, wanted = pool_arrays(pool), pool_arrays(expected)
    assert arrays.keys() == wanted.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def test_arrays_hold_all_of_a_pool(store: FeatureStore, whole: FittedPool, tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", **pool_arrays(whole.pool))
    with np.load(tmp_path / "pool.npz", allow_pickle=False) as file:
        again = read_pool(dict(file))
    assert_same(again, whole.pool)
    test = images(store, "test")
    for unit in ("image", "product"):
        np.testing.assert_array_equal(again.log_probs(test, unit), whole.pool.log_probs(test, unit))


def test_a_lost_array_is_noticed(whole: FittedPool) -> None:
    arrays = pool_arrays(whole.pool)
    for name in ("linear_0_bias", "bank_starts", "growth_product", "linear_0_views"):
        with pytest.raises(KeyError):
            read_pool({key: value for key, value in arrays.items() if key != name})


def kept(rows: Rows, mask: Callable[[ImageTable], np.ndarray]) -> Rows:
    """The rows that a mask leaves."""
    mine = mask(rows.table)
    return Rows(rows.table[mine], rows.features[mine])


def test_without_held_out_products_experts_count_the_same(tmp_path: Path) -> None:
    rows = kept(make_rows(), lambda table: np.isin(table.split, [0, 3, 4]))
    found = fitted(store := write(tmp_path / "features.h5", rows))
    assert found.weighed == {"image": 0, "product": 0}
    assert found.pool.weights["product"].plain[:-2].tolist() == pytest.approx([1 / 4] * 4)
    test = images(store, "test")
    assert top1(found.pool.log_probs(test, "image"), test.class_index) > top1(
        test.log_probs, test.class_index
    )


def test_without_any_row_stage_1_answers(tmp_path: Path) -> None:
    rows = kept(make_rows(), lambda table: table.split >= 3)
    found = fitted(store := write(tmp_path / "features.h5", rows))
    test = images(store, "test")
    assert (found.names, len(found.pool)) == ((), 1)
    np.testing.assert_array_equal(
        found.pool.log_probs(test, "image").argmax(axis=1), test.log_probs.argmax(axis=1)
    )


@pytest.mark.parametrize("products", [0, 1, 2])
def test_classes_of_few_products_are_no_fault(tmp_path: Path, products: int) -> None:
    """Class 0 has none, one or two products on train, and its own everywhere else."""

    def few(table: ImageTable) -> np.ndarray:
        rare = (table.class_index == 0) & (table.split < 3)
        first = np.unique(table.product_id[rare & (table.split == 0)])[:products]
        return ~rare | np.isin(table.product_id, first)

    found = fitted(store := write(tmp_path / "features.h5", kept(make_rows(), few)))
    test = images(store, "test")
    log_probs = found.pool.log_probs(test, "image")
    assert np.isfinite(log_probs).all()
    assert np.exp(log_probs).sum(axis=1) == pytest.approx(1, abs=1e-4)
    others = test.class_index > 1
    assert top1(log_probs[others], test.class_index[others]) > top1(
        test.log_probs[others], test.class_index[others]
    )


def test_several_views_are_seen_side_by_side(store: FeatureStore) -> None:
    found = fitted(store, views=2)
    test = images(store, "test", views=2)
    assert found.pool.linear[0].inputs.views == (0, 1)
    assert found.pool.linear[0].factors[0].shape[0] == 2 * store.width
    assert top1(found.pool.log_probs(test, "image"), test.class_index) > 0.8


def test_many_rows_are_answered_without_logistic_regression(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_rows, "too_large", lambda *_: True)
    found = fitted(store)
    test = images(store, "test")
    assert found.names == (DISCRIMINANTS,)
    assert (
        top1(found.pool.log_probs(test, "image"), test.class_index)
        > top1(test.log_probs, test.class_index) + 0.2
    )


EXTRA = (2, 4, 4, 20, 20, 60)
"""Products of each class in each split: what the cap of train cut is most of it."""


def test_what_the_cap_of_train_cut_is_folded_and_weighs_nothing(tmp_path: Path) -> None:
    rows = make_rows(per_split=EXTRA)
    store = write(tmp_path / "features.h5", rows)
    without = write(tmp_path / "without.h5", kept(rows, lambda table: ~table.on("extra")))
    mine, others = fitted(store), fitted(without)
    assert mine.weighed == others.weighed  # weights are fitted on held-out products as before
    extra = np.unique(images(store, "extra").product_id)
    for pool in (mine.pool, *mine.by_fold):
        assert np.isin(extra, pool.neighbours.bank.product_id).all()
    known = expert_rows.read_rows(Views([store]), 0, 1).sums[-1].count.sum()
    assert known == rows.table.on("train").sum()
    fold = image_fold(images(store, "extra"), mine.seed)
    assert set(fold.tolist()) == set(range(expert_rows.FOLDS))


def test_a_logistic_regression_that_extra_makes_too_large_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(per_split=EXTRA)
    without = kept(rows, lambda table: ~table.on("extra"))
    monkeypatch.setattr(expert_rows, "too_large", lambda n, *_: n > len(without.table))
    store = write(tmp_path / "features.h5", rows)
    mine = fitted(store)
    others = fitted(write(tmp_path / "without.h5", without))
    assert mine.names == (DISCRIMINANTS, LOGISTIC)
    np.testing.assert_array_equal(mine.pool.linear[1].factors[0], others.pool.linear[1].factors[0])
    assert (mine.pool.linear[0].bias != others.pool.linear[0].bias).all()
    rows_of_all = expert_rows.read_rows(Views([store]), 0, 1, SPLITS)
    assert rows_of_all.total.count.sum() == len(rows.table)
    assert len(rows_of_all.logistic[0]) == len(without.table)


def test_a_target_mix_moves_the_answers(store: FeatureStore, whole: FittedPool) -> None:
    counts = np.where(np.arange(CLASSES) % 2, 1, 20)
    skewed = fit_experts.fit_experts(Views([store]), {"image": mix(counts)}, TARGET, seed=0, jobs=1)
    test = images(store, "test")
    share = [
        (f.pool.log_probs(test, "image").argmax(axis=1) % 2 == 0).mean() for f in (whole, skewed)
    ]
    assert share[1] > share[0] + 0.05


def test_only_some_classes_are_kept_for_the_weights(
    store: FeatureStore, whole: FittedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest say next to nothing about them."""
    monkeypatch.setattr(fit_experts, "KEPT", 4)
    few = fitted(store).pool.weights["image"].plain
    np.testing.assert_allclose(few[:4], whole.pool.weights["image"].plain[:4], atol=0.2)


def test_equal_scores_go_to_the_lowest_class(store: FeatureStore, whole: FittedPool) -> None:
    weights = {
        u: replace(w, plain=0 * w.plain, growth=0 * w.growth) for u, w in whole.pool.weights.items()
    }
    flat = replace(whole.pool, weights=weights).log_probs(images(store, "test"), "product")
    assert not flat.argmax(axis=1).any()


def test_the_bank_is_thinned_where_classes_are_largest() -> None:
    share = expert_rows.thinned(np.array([0, 10, 100, 1000]), 210)
    assert share.tolist() == [1, 1, 1, 0.1]
    assert expert_rows.thinned(np.array([3, 5]), 8).tolist() == [1, 1]
    assert expert_rows.thinned(np.zeros(2, dtype=int), 8).tolist() == [0, 0]


def test_of_many_rows_experts_know_whole_products(
    store: FeatureStore, whole: FittedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_rows, "MOST_ROWS", 200)
    small, full = fitted(store).pool.neighbours.bank, whole.pool.neighbours.bank
    assert 100 < len(small.vectors) < 300 < len(full.vectors)
    products = np.unique(small.product_id)
    assert len(small.product_id) == np.isin(full.product_id, products).sum()
    rows = expert_rows.read_rows(Views([store]), 0, 1)
    assert rows.total.count.sum() == len(rows.logistic[0]) == len(small.vectors)


def test_a_bank_of_few_columns_is_about_as_good(
    store: FeatureStore, whole: FittedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_rows, "BANK_COLUMNS", (6, 6))
    found = fitted(store).pool
    assert found.neighbours.projection.components.shape == (store.width, 6)
    assert whole.pool.neighbours.projection.components.shape == (store.width, store.width)
    test = images(store, "test")
    expected = top1(whole.pool.log_probs(test, "image"), test.class_index)
    assert top1(found.log_probs(test, "image"), test.class_index) > expected - 0.05
