"""Items of stage 2: pooling, what is kept of the log-probabilities, blocks, projections."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS, deal
from features.store import FeatureStore
from stage1_cnn.head import Head, normalise
from stage2_xgb import dataset
from stage2_xgb.dataset import Views, fit_projection, read_items
from stage2_xgb.items import TOP, Items, Pooled, Projection, compact, pool
from stage2_xgb.prior import Shift
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, WIDTH, Rows, make_rows, write

WHOLE = Projection(np.zeros(WIDTH, np.float32), np.eye(WIDTH, dtype=np.float32))
NO_SHIFT = Shift(1.0, 1.0, np.zeros(CLASSES, np.float32))


def images_of(store: FeatureStore, split: str) -> Pooled:
    """All images of a split."""
    (images,) = Views([store]).blocks(split, fit_only=False)
    return images


def test_pool_equals_a_plain_loop(fitted: Fitted) -> None:
    images = images_of(fitted.store, "val_b")
    found = pool(images, 0.0)
    ids = list(dict.fromkeys(images.product_id.tolist()))
    assert found.product_id.tolist() == found.item_id.tolist() == ids
    for row, product in enumerate(ids):
        mine = images.product_id == product
        mean = images.log_probs[0][mine].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found.log_probs[0][row], mean - logsumexp(mean), atol=1e-5)
        np.testing.assert_allclose(
            found.features[0][row], images.features[0][mine].mean(axis=0), atol=1e-5
        )
        assert found.n_images[row] == mine.sum()
        assert {found.class_index[row]} == set(images.class_index[mine]) and found.split[
            row
        ] == SPLITS.index("val_b")
    single = found.n_images == 1
    first = np.isin(images.product_id, found.product_id[single])
    np.testing.assert_allclose(found.log_probs[0][single], images.log_probs[0][first], atol=1e-6)


def test_a_sharper_pooling_hears_the_surer_image() -> None:
    """A product of a sure and an unsure image, and one of a single image."""
    sure, unsure = np.log([0.9, 0.05, 0.05]), np.log([0.2, 0.45, 0.35])
    ids, zeros = np.array([7, 7, 8]), np.zeros(3, np.int32)
    features = np.array([[1.0], [0.0], [5.0]], np.float32)
    images = Pooled(
        ids,
        ids,
        zeros,
        zeros,
        zeros + 1,
        (np.array([sure, unsure, unsure], np.float32),),
        (features,),
    )
    for sharpness in (0.0, 2.0):
        found = pool(images, sharpness)
        weight = np.array([0.9, 0.45]) ** sharpness
        weight /= weight.sum()
        np.testing.assert_allclose(
            found.log_probs[0][0], normalise((weight @ [sure, unsure])[None])[0], atol=1e-5
        )
        np.testing.assert_allclose(found.features[0], [[weight[0]], [5.0]], atol=1e-6)
        np.testing.assert_allclose(found.log_probs[0][1], unsure, atol=1e-6)
    several = images.of_several()
    assert (
        several.product_id.tolist() == [7, 7]
        and len(several.log_probs[0]) == len(several.features[0]) == 2
    )
    assert len(images.of_several().of_products(1.0, "all", 0)) == 2


def wide_items(classes: int = 50, n: int = 30) -> tuple[Items, np.ndarray]:
    """Items with more classes than are kept, and their whole shifted log-probabilities."""
    rng = np.random.default_rng(0)
    log_probs = normalise(rng.normal(size=(n, classes)).astype(np.float32))
    ids = np.arange(n)
    zeros = np.zeros((n, WIDTH), np.float32)
    pooled = Pooled(
        ids,
        ids,
        ids.astype(np.int32),
        ids.astype(np.uint8),
        np.ones(n, np.int32),
        (log_probs, None),
        (zeros, zeros),
    )
    return compact(
        pooled, (Shift(1.0, 1.0, np.zeros(classes, np.float32)), None), (WHOLE, WHOLE)
    ), log_probs


def test_the_highest_are_kept_exactly_and_the_rest_is_floored() -> None:
    items, log_probs = wide_items()
    assert items.top_class.shape == (30, TOP)
    order = np.argsort(-log_probs, axis=1, kind="stable")
    np.testing.assert_array_equal(items.top_class, order[:, :TOP])
    np.testing.assert_array_equal(items.predicted, log_probs.argmax(axis=1))
    members = np.array([3, 49, 0, 17])
    found = items.log_probs(members)
    for row in range(len(items)):
        lowest = log_probs[row, order[row, TOP - 1]]
        expected = [log_probs[row, m] if m in order[row, :TOP] else lowest for m in members]
        np.testing.assert_allclose(found[row, 0], expected, atol=1e-6)
    assert np.isnan(found[:, 1]).all()  # a view without a head has no opinion
    assert (found[:, 0] > log_probs[:, members] + 0.1).any(), "some member must have been floored"


def test_ties_go_to_the_lower_class() -> None:
    flat = np.full((1, CLASSES), -np.log(CLASSES), np.float32)
    ids = np.zeros(1, np.int64)
    pooled = Pooled(
        ids, ids, ids, ids, np.ones(1, np.int32), (flat,), (np.zeros((1, WIDTH), np.float32),)
    )
    assert compact(pooled, (NO_SHIFT,), (WHOLE,)).top_class.tolist() == [list(range(CLASSES))]


def test_blocks_never_cut_a_product(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "BLOCK", 7)
    views = Views([fitted.store])
    blocks = list(views.blocks("train", fit_only=False))
    products = [set(block.product_id.tolist()) for block in blocks]
    assert len(blocks) > 20
    assert sum(len(p) for p in products) == len(set.union(*products))
    rows = fitted.store.of_split("train")
    np.testing.assert_array_equal(
        np.concatenate([b.item_id for b in blocks]), fitted.store.table.image_id[rows]
    )


def test_blocks_leave_out_the_unreadable_and_on_demand_the_unfit(tmp_path: Path) -> None:
    rows = make_rows()
    rows.table.fit[::3] = False
    errors = dict.fromkeys(range(1, len(rows.table), 10), "undecodable")
    store = write(tmp_path / "features.h5", rows, errors=errors)
    test = np.flatnonzero(rows.table.split == 4)
    readable = np.array([row for row in test if row not in errors])
    (everything,) = Views([store]).blocks("test", fit_only=False)
    (fit,) = Views([store]).blocks("test", fit_only=True)
    np.testing.assert_array_equal(everything.item_id, rows.table.image_id[readable])
    np.testing.assert_array_equal(
        fit.item_id, rows.table.image_id[readable[rows.table.fit[readable]]]
    )


def test_an_empty_split_is_one_empty_block(tmp_path: Path) -> None:
    store = write(tmp_path / "features.h5", make_rows(per_split=(4, 2, 0, 1, 0)))
    for split in ("val_a", "test"):
        (block,) = Views([store]).blocks(split, fit_only=True)
        assert len(block) == len(pool(block, 0.0)) == len(compact(block, [NO_SHIFT], [WHOLE])) == 0


def test_read_items_reads_the_splits_it_is_told(fitted: Fitted) -> None:
    shifts = {"image": [NO_SHIFT], "product": [NO_SHIFT]}
    items = read_items(
        Views([fitted.store]), {"reserve": None, "val_a": None}, shifts, [WHOLE], 0.0
    )
    table = fitted.store.table
    wanted = np.isin(table.split, [1, 2])
    np.testing.assert_array_equal(items["image"].product_id, table.product_id[wanted])
    np.testing.assert_array_equal(items["image"].class_index, table.class_index[wanted])
    ids, count = np.unique(table.product_id[wanted], return_counts=True)
    assert (
        sorted(items["product"].product_id) == ids[count > 1].tolist()
    )  # one of a single image is that image
    assert items["product"].n_images.sum() == count[count > 1].sum()
    np.testing.assert_array_equal(items["image"].on("val_a"), table.split[wanted] == 2)


def test_a_cap_takes_whole_products_by_their_hash(fitted: Fitted) -> None:
    views, table = Views([fitted.store]), fitted.store.table
    (images,) = views.blocks("train", fit_only=True, cap=np.full(CLASSES, 10))
    counts = np.bincount(images.class_index, minlength=CLASSES)
    assert counts.max() <= 10 and counts.min() >= 7
    assert (
        views.count({"train": np.full(CLASSES, 10), "val_a": None})
        == counts.sum() + (table.split == 2).sum()
    )
    ids, found = np.unique(images.product_id, return_counts=True)
    whole = np.bincount(np.searchsorted(ids, table.product_id[np.isin(table.product_id, ids)]))
    np.testing.assert_array_equal(found, whole)


def test_project_is_the_projection_of_the_fitted_images(fitted: Fitted) -> None:
    projection = fit_projection(fitted.store, 5, seed=0)
    product_id, class_index, z = Views([fitted.store, fitted.store]).project(
        "reserve", [projection, projection]
    )
    (images,) = Views([fitted.store]).blocks("reserve", fit_only=True)
    np.testing.assert_array_equal(product_id, images.product_id)
    np.testing.assert_array_equal(class_index, images.class_index)
    np.testing.assert_allclose(z[:, 0], projection(images.features[0]), atol=1e-5)


def test_views_of_other_images_are_refused(fitted: Fitted, tmp_path: Path) -> None:
    rows = make_rows()
    other = write(tmp_path / "other.h5", Rows(rows.table[:-1], rows.features[:-1]))
    with pytest.raises(ArtifactError, match=r"other\.h5: holds other images than .*features\.h5"):
        Views([fitted.store, other])


def test_projection_is_principal_components(fitted: Fitted) -> None:
    store = fitted.store
    fitted_rows = np.isin(store.table.split, [0, 1])
    x = store.features(slice(0, len(store)))[fitted_rows].astype(np.float64)
    found = fit_projection(store, 5, seed=0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(found.mean, x.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(
        np.abs((found.components * vectors[:, ::-1][:, :5]).sum(axis=0)), 1, atol=1e-3
    )
    np.testing.assert_allclose(found(x).std(axis=0), np.sqrt(values[::-1][:5]), rtol=1e-3)
    more = fit_projection(store, 20, seed=0)  # more components than features
    assert more.components.shape == (WIDTH, 20) and not more.components[:, WIDTH:].any()


def test_no_projection_keeps_the_features(fitted: Fitted) -> None:
    rows = fitted.store.features(slice(0, 4)).astype(np.float32)
    np.testing.assert_array_equal(fit_projection(fitted.store, None, seed=0)(rows), rows)


def test_log_probs_come_from_the_rounded_features() -> None:
    head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    table = ImageTable(*(np.zeros(1, t) for t in (np.int64, np.int64, np.int32, np.uint8, bool)))
    exact = np.array([[0.1, 0.2, 0.3]], np.float32)
    images = Pooled.images(table, [exact], [head])
    np.testing.assert_array_equal(
        images.log_probs[0], Pooled.images(table, [exact.astype(np.float16)], [head]).log_probs[0]
    )


def test_another_seed_draws_other_products(fitted: Fitted) -> None:
    cap = np.full(CLASSES, 10)
    kept = []
    for seed in (0, 0, 1):
        (images,) = Views([fitted.store], seed).blocks("train", fit_only=True, cap=cap)
        kept.append(images.product_id.tolist())
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("catalog_seed", range(4))
def test_samples_hold_their_share_whatever_dealt_the_splits(catalog_seed: int) -> None:
    """`of_products` and the reranker's lessons, of 20,000 products of val_a that another seed's
    hash dealt."""
    ids = np.arange(400_000)
    split = deal(np.zeros(len(ids), int), ids, np.zeros((1, 5), np.int64), catalog_seed)
    ids = ids[split == SPLITS.index("val_a")]
    zeros = np.zeros((len(ids), 1), np.float32)
    images = Pooled(ids, ids, ids, ids, ids, (zeros,), (zeros,))
    for seed in range(4):
        assert len(images.of_products(0.4, "class-mix shift", seed)) == pytest.approx(
            0.4 * len(ids), rel=0.05
        )
