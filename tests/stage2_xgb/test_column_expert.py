"""Catalogue columns in stage 2, planted: what the expert on them brings, that products without any
are answered as if nobody read columns, and that reclassifiers see them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from features.columns import MISSING
from features.schema import NO_NETWORK
from features.store import FeatureStore
from features.writer import FeatureWriter
from stage1_cnn.head import Head
from stage2_xgb import column_expert, fit_experts
from stage2_xgb.bundle import Bundle
from stage2_xgb.column_expert import ColumnRows
from stage2_xgb.dataset import Views
from stage2_xgb.expert_pool import pool_arrays, read_pool
from stage2_xgb.experts import Columns, Inputs, OneHot
from stage2_xgb.final import fit_final
from stage2_xgb.fit import fit_stage2
from stage2_xgb.fit_experts import COLUMNS, JOINT, FittedPool
from stage2_xgb.items import ItemBlock, has_columns, product_starts
from stage2_xgb.refine import answer_with_all, refine
from tests.stage2_xgb.planted import CLASSES, CONFIG, MADE_FROM, Rows, make_rows, mixes, taxonomy
from tests.stage2_xgb.planted import write as write_features

SIZES = (6, 3)
"""Codes of a categorical column, and of one of numbers."""
ORIGIN = {"columns": "c" * 64, "store": "s", "sizes": [*SIZES], "categorical": [True, False]}
TREES = {"max_depth": 3, "n_estimators": 40, "learning_rate": 0.2, "colsample_bytree": 1.0}
DEEP = CONFIG.model_copy(update={"booster": CONFIG.booster.model_copy(update=TREES)})
TARGET = np.full(CLASSES, 1 / CLASSES)


def codes_of(rows: Rows, *, crossed: bool = False, seed: int = 0) -> np.ndarray:
    """Codes float16 [N, 2] of the rows' products, a fifth of which have none. The first tells the
    sibling, mostly; `crossed`, the other way round if the second is 0."""
    rng = np.random.default_rng(seed)
    _, product = np.unique(rows.table.product_id, return_inverse=True)
    first = np.empty(product.max() + 1, dtype=int)
    first[product] = rows.table.class_index % 2
    sibling = np.where(rng.random(len(first)) < 0.1, 1 - first, first)
    number = (rng.random(len(first)) < 0.75).astype(int)
    category = rng.integers(3, size=len(first)) * 2 + (sibling ^ 1 - number if crossed else sibling)
    codes = np.stack([category, number], axis=1)
    codes[rng.random(len(first)) < 0.2] = MISSING
    codes[rng.random(len(first)) < 0.1, 1] = MISSING
    return codes[product].astype(np.float16)


def write_codes(path: Path, rows: Rows, codes: np.ndarray) -> FeatureStore:
    """The feature file of a view of columns."""
    with FeatureWriter(path, rows.table, len(SIZES), CLASSES, ORIGIN, NO_NETWORK) as writer:
        writer.write(codes, {})
        writer.finish(Head(np.zeros((CLASSES, len(SIZES)), np.float32), np.zeros(CLASSES)))
    return FeatureStore(path)


@dataclass(frozen=True)
class Planted:
    """Photos that say little of siblings, and columns that do."""

    photos: FeatureStore
    columns: FeatureStore

    @property
    def views(self) -> Views:
        """Both, as stage 2 reads them."""
        return Views([self.photos, self.columns])

    def images(self, split: str) -> ItemBlock:
        """All images of a split, in one block."""
        (block,) = self.views.blocks(split, fit_only=True)
        return block


def plant(folder: Path, *, crossed: bool = False) -> Planted:
    """Writes both files."""
    rows = make_rows(answer=False, per_split=(40, 90, 60, 30, 80))
    photos = write_features(folder / "features.h5", rows)
    return Planted(photos, write_codes(folder / "c.h5", rows, codes_of(rows, crossed=crossed)))


def fit_pool(views: Views) -> FittedPool:
    targets = {"image": TARGET, "product": TARGET}
    return fit_experts.fit_experts(views, targets, TARGET, seed=0, jobs=1)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Only to be read."""
    return plant(tmp_path_factory.mktemp("columns"))


@pytest.fixture(scope="module")
def fitted(planted: Planted) -> FittedPool:
    """The pool of photos and columns. Only to be read."""
    return fit_pool(planted.views)


@pytest.fixture(scope="module")
def blind(planted: Planted) -> FittedPool:
    """The pool of photos alone. Only to be read."""
    return fit_pool(Views([planted.photos]))


def bare(images: ItemBlock) -> ItemBlock:
    """The same with all columns missing."""
    return replace(images, codes=np.full_like(images.codes, MISSING))


def labels(images: ItemBlock, unit: str) -> np.ndarray:
    """True classes of images, or of their products."""
    rows = slice(None) if unit == "image" else product_starts(images.product_id)
    return images.class_index[rows]


def test_views_read_codes_apart_from_vectors(planted: Planted) -> None:
    views, images = planted.views, planted.images("test")
    assert views.stores == (planted.photos,) and views.columns == Columns(SIZES, (True, False))
    assert len(images.features) == 1 and images.codes.shape == (len(images), 2)
    stored = planted.columns.features(planted.columns.of_split("test"))
    np.testing.assert_array_equal(images.codes, stored.astype(np.float32))
    assert 0.1 < (~has_columns(images.codes)).mean() < 0.3
    assert images.first_view().codes.shape == (len(images), 0)


def test_one_hot_has_a_place_for_what_is_missing() -> None:
    x = OneHot((2, 3))(np.array([[0, 2], [1, MISSING], [MISSING, MISSING]], dtype=np.float32))
    assert [np.flatnonzero(row).tolist() for row in x] == [[1, 6], [2, 3], [0, 3]]


@pytest.mark.parametrize("unit", ["image", "product"])
def test_columns_tell_what_photos_do_not(
    planted: Planted, fitted: FittedPool, blind: FittedPool, unit: str
) -> None:
    test = planted.images("test")
    assert fitted.names[-2:] == (COLUMNS, JOINT)
    right = [
        found.pool.log_probs(test, unit).argmax(axis=1) == labels(test, unit)
        for found in (fitted, blind)
    ]
    assert np.mean(right[0]) > np.mean(right[1]) + 0.15


@pytest.mark.parametrize("unit", ["image", "product"])
def test_products_without_columns_are_answered_as_by_photos_alone(
    planted: Planted, fitted: FittedPool, blind: FittedPool, unit: str
) -> None:
    test = planted.images("test")
    np.testing.assert_allclose(
        fitted.pool.log_probs(bare(test), unit), blind.pool.log_probs(test, unit), atol=2e-4
    )
    mixed = fitted.pool.log_probs(test, unit)
    some = has_columns(test.codes)[
        slice(None) if unit == "image" else product_starts(test.product_id)
    ]
    apart = np.abs(mixed - blind.pool.log_probs(test, unit)).max(axis=1)
    assert (apart[~some] < 2e-4).all() and np.median(apart[some]) > 0.5


def test_out_of_fold_opinions_know_nothing_of_a_column_that_names_the_product(
    tmp_path: Path, planted: Planted
) -> None:
    """Codes by chance, one per pair of products: who was fitted on the other knows its class."""
    rows = make_rows(answer=False)
    rng = np.random.default_rng(5)
    _, product = np.unique(rows.table.product_id, return_inverse=True)
    codes = np.stack([rng.integers(6, size=product.max() + 1), np.zeros(product.max() + 1)], axis=1)
    photos = write_features(tmp_path / "f.h5", rows)
    both = Planted(photos, write_codes(tmp_path / "c.h5", rows, codes[product].astype(np.float16)))
    found, held = fit_pool(both.views), both.images("reserve")
    alone = fit_pool(Views([photos]))
    gain = (found.log_probs(held, "image").argmax(axis=1) == held.class_index).mean() - (
        alone.log_probs(held, "image").argmax(axis=1) == held.class_index
    ).mean()
    assert abs(gain) < 0.06


def test_arrays_hold_the_expert_and_both_kinds_of_weights(
    planted: Planted, fitted: FittedPool
) -> None:
    arrays, test = pool_arrays(fitted.pool), planted.images("test")
    again = read_pool(arrays)
    for images in (test, bare(test)):
        np.testing.assert_array_equal(
            again.log_probs(images, "product"), fitted.pool.log_probs(images, "product")
        )
    with pytest.raises(KeyError):
        read_pool({name: x for name, x in arrays.items() if name != "bare_plain_image"})
    names = fitted.named_weights()
    assert set(names) == {
        *("image", "product"),
        *("image without columns", "product without columns"),
    }
    bare_weights, weights = names["image without columns"], names["image"]
    assert bare_weights[COLUMNS] == bare_weights[JOINT] == 0
    assert weights[COLUMNS] + weights[JOINT] > 0.1


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Bundle]:
    """Columns of which one turns the other round, which trees see and a logistic regression does
    not; and the second stage that was trained on them. Only to be read."""
    folder = tmp_path_factory.mktemp("crossed")
    planted = plant(folder, crossed=True)
    views = {**MADE_FROM["views"], "columns": ORIGIN}
    made_from = {**MADE_FROM, "views": views, "config": DEEP.model_dump(mode="json")}
    stores = [planted.photos, planted.columns]
    fit_stage2(
        stores, mixes(planted.photos), taxonomy(), DEEP, folder / "stage2", made_from, jobs=1
    )
    return planted, Bundle.open(folder / "stage2")


def test_reclassifiers_see_columns_as_categories(crossed: tuple[Planted, Bundle]) -> None:
    planted, bundle = crossed
    test = planted.images("test")
    pooled, opinions = answer_with_all(bundle, test, "image")
    some = has_columns(test.codes)
    right = {
        name: (x.argmax(axis=1) == pooled.class_index)[some].mean() for name, x in opinions.items()
    }
    assert right["own"] > right["pool"] + 0.05
    model = next(bundle.reclassifier(c) for c in bundle.members if bundle.reclassifier(c))
    assert model.booster.feature_types[:3] == ["c", "q", "q"]


def test_reclassifiers_leave_products_without_columns_alone(
    crossed: tuple[Planted, Bundle],
) -> None:
    planted, bundle = crossed
    test = planted.images("test")
    answered = refine(bundle, test, "product").answered_by
    some = has_columns(test.codes)[product_starts(test.product_id)]
    assert (answered[~some] == "pool").all() and (answered[some] == "own").any()
    _, opinions = answer_with_all(bundle, bare(test), "image")
    np.testing.assert_array_equal(opinions["own"], opinions["pool"])


def test_a_last_fit_fits_the_expert_again(crossed: tuple[Planted, Bundle]) -> None:
    planted, bundle = crossed
    final = fit_final([planted.photos, planted.columns], bundle, seed=0, jobs=1)
    assert final.columns == bundle.columns
    old, new = (
        next(e for e in found.pool.linear if isinstance(e.inputs, OneHot))
        for found in (bundle, final)
    )
    assert new.inverse_temperature == old.inverse_temperature
    assert not np.array_equal(new.factors[0], old.factors[0])


def test_one_expert_sees_the_codes_alone_and_one_features_beside_them(
    planted: Planted, fitted: FittedPool
) -> None:
    alone, joint = (expert.inputs for expert in fitted.pool.linear[-2:])
    images = planted.images("test").rows(slice(0, 5))
    assert alone == OneHot(SIZES) and joint == OneHot(SIZES, (0,))
    expected = [Inputs((0,)).of(images), OneHot(SIZES)(images.codes)]
    np.testing.assert_array_equal(joint.of(images), np.concatenate(expected, axis=1))


def test_codes_alone_where_features_would_take_too_long(
    planted: Planted, blind: FittedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = OneHot(SIZES).width
    monkeypatch.setattr(column_expert, "too_large", lambda rows, width, classes: width > codes)
    test, found = planted.images("test"), fit_pool(planted.views)
    assert found.names[-1] == COLUMNS and found.pool.linear[-1].inputs == OneHot(SIZES)
    right = [
        (pool.pool.log_probs(test, "image").argmax(axis=1) == test.class_index).mean()
        for pool in (found, blind)
    ]
    assert right[0] > right[1] + 0.15


def test_half_of_the_rows_beside_features_have_gaps() -> None:
    codes = np.zeros((4000, 2), dtype=np.float32)
    rows = ColumnRows(Columns((1, 1), (True, True)), 0, codes, np.arange(4000) % 3, np.zeros(4000))
    joint = rows.with_features(np.full((4000, 5), 7, dtype=np.float32), (0, 1), 3)
    assert joint is not None
    x, class_index, _ = joint._with_gaps()
    assert joint.inputs.views == (0, 1) and (x[:, :5] == 7).all() and (x[:, 5:].sum(1) == 2).all()
    lost = (x[:, [5, 7]] == 1).any(axis=1).mean()  # of two columns 2/3 of such rows lose one
    assert 0.28 < lost < 0.38 and len(class_index) == 4000
    alone, *_ = rows._with_gaps()
    assert len(alone) == 8000 and not alone[:4000, [0, 2]].any()


def test_naive_bayes_stands_in_where_a_regression_would_take_too_long(
    planted: Planted, blind: FittedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(column_expert, "too_large", lambda *size: True)
    test, found = planted.images("test"), fit_pool(planted.views)
    assert not found.pool.linear[-1].factors[0][OneHot(SIZES).starts].any()
    right = [
        (pool.pool.log_probs(test, "image").argmax(axis=1) == test.class_index).mean()
        for pool in (found, blind)
    ]
    assert right[0] > right[1] + 0.15


def test_naive_bayes_counts() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [MISSING, 2]], dtype=np.float32)
    expert = column_expert.fit_naive_bayes(codes, np.array([0, 0, 1, 1]), 3, OneHot(SIZES))
    odds = expert.scores(expert.inputs(np.array([[0, MISSING]], dtype=np.float32)))[0]
    share = (2 + 1 / 6) / 4
    assert odds[0] - odds[1] == pytest.approx(np.log((2 + share) / 3 / (share / 2)), rel=1e-5)
    assert odds[2] == -np.inf


def test_a_bundle_without_columns_ignores_them(planted: Planted, blind: FittedPool) -> None:
    test = planted.images("test")
    none = replace(test, codes=test.codes[:, :0])
    np.testing.assert_array_equal(
        blind.pool.log_probs(test, "image"), blind.pool.log_probs(none, "image")
    )
