"""Items of stage 2: pooling, what is kept of the log-probabilities, blocks, projections."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from catalog.errors import ArtifactError
from catalog.image_table import ImageTable
from catalog.splits import SPLITS
from features.columns import MISSING
from stage1_cnn.head import Head, log_softmax
from stage2_xgb import dataset
from stage2_xgb.dataset import Views, fit_projection, read_items
from stage2_xgb.items import (
    TOP,
    ItemBlock,
    Items,
    Projection,
    compact,
    has_columns,
    of_unit,
    pool,
)
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, WIDTH, Rows, images_of, make_rows, write

WHOLE = Projection(np.zeros(WIDTH, np.float32), np.eye(WIDTH, dtype=np.float32))


def test_pool_equals_a_plain_loop(fitted: Fitted) -> None:
    images = images_of(fitted.store, "val_b")
    found = pool(images)
    ids = list(dict.fromkeys(images.product_id.tolist()))
    assert found.product_id.tolist() == found.item_id.tolist() == ids
    for row, product in enumerate(ids):
        mine = images.product_id == product
        mean = images.log_probs[mine].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found.log_probs[row], mean - logsumexp(mean), atol=1e-5)
        np.testing.assert_allclose(
            found.features[0][row], images.features[0][mine].mean(axis=0), atol=1e-5
        )
        assert found.n_images[row] == mine.sum()
        assert {found.class_index[row]} == set(images.class_index[mine]) and found.split[
            row
        ] == SPLITS.index("val_b")
    single = found.n_images == 1
    first = np.isin(images.product_id, found.product_id[single])
    np.testing.assert_allclose(found.log_probs[single], images.log_probs[first], atol=1e-6)


def test_images_of_products_that_have_several(fitted: Fitted) -> None:
    images = images_of(fitted.store, "val_b")
    several = images.of_several()
    count = dict(zip(*np.unique(images.product_id, return_counts=True), strict=True))
    expected = [p for p in images.product_id.tolist() if count[p] > 1]
    assert several.product_id.tolist() == expected and len(expected) < len(images)
    assert len(several.log_probs) == len(several.features[0]) == len(expected)


def of_one_class(product_id: list[int], views: int) -> ItemBlock:
    """Images of these products, each with its row number as its features in every view."""
    ids = np.array(product_id)
    n = len(ids)
    rows = np.repeat(np.arange(n, dtype=np.float32)[:, None], WIDTH, axis=1)
    zeros, ones = np.zeros((n, 1), np.float32), np.ones(n, np.int32)
    return ItemBlock(np.arange(n), ids, ids, ids, ones, zeros, (rows,) * views, zeros[:, :0])


@pytest.mark.parametrize(
    ("product_id", "several"),
    [([1, 1, 2], [1, 1]), ([1, 2, 2], [2, 2]), ([1, 2], []), ([1], []), ([], [])],
)
def test_a_single_image_at_either_end_is_no_product_of_several(
    product_id: list[int], several: list[int]
) -> None:
    assert of_one_class(product_id, 1).of_several().product_id.tolist() == several


def with_columns(product_id: list[int], views: int = 2) -> ItemBlock:
    """Images as `of_one_class` has them, of products with two columns; the first product's second
    column is missing, the second product has none."""
    images = of_one_class(product_id, views)
    codes = np.arange(2 * len(images), dtype=np.float32).reshape(-1, 2)
    codes[0, 1] = codes[1] = MISSING
    return replace(images, codes=codes)


def test_the_first_view_alone() -> None:
    alone = with_columns([1, 2, 3]).first_view()
    assert len(alone.features) == 1 and alone.codes.shape == (3, 0)


def test_parts_one_after_another_are_the_whole() -> None:
    images = with_columns([1, 2, 3, 3])
    again = ItemBlock.concatenate([images.rows(slice(0, 1)), images.rows(slice(1, 4))])
    for field in fields(ItemBlock):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(images, field.name))


def test_images_have_the_columns_of_their_products_or_none(fitted: Fitted) -> None:
    store = fitted.store
    rows = slice(0, 3)
    parts = store.table[rows], [store.features(rows)], store.head
    assert ItemBlock.images(*parts).codes.shape == (3, 0)
    codes = with_columns([1, 2, 3]).codes
    np.testing.assert_array_equal(ItemBlock.images(*parts, codes).codes, codes)


def test_a_product_without_any_value_has_no_columns() -> None:
    assert has_columns(with_columns([1, 2, 3]).codes).tolist() == [True, False, True]
    assert not has_columns(of_one_class([1, 2], 1).codes).any()


def test_compact_projects_each_view_by_itself() -> None:
    """z is [N, V, C]: less the mean, then onto the components."""
    images = of_one_class([1, 2, 3, 4], 2)
    mean = np.arange(WIDTH, dtype=np.float32)
    shifted = Projection(mean, np.eye(WIDTH, dtype=np.float32)[:, :3])
    both = Projection(2 * mean, np.eye(WIDTH, dtype=np.float32)[:, :3])
    items = compact(images, np.zeros((4, 1), np.float32), [shifted, both])
    expected = np.stack([np.arange(4)[:, None] - k * mean[:3] for k in (1, 2)], axis=1)
    np.testing.assert_array_equal(items.z, expected)


def wide_items(classes: int = 50, n: int = 30) -> tuple[Items, np.ndarray]:
    """Items with more classes than are kept, and their whole shifted log-probabilities."""
    rng = np.random.default_rng(0)
    log_probs = log_softmax(rng.normal(size=(n, classes)).astype(np.float32))
    ids = np.arange(n)
    zeros = np.zeros((n, WIDTH), np.float32)
    pooled = ItemBlock(
        ids,
        ids,
        ids.astype(np.int32),
        ids.astype(np.uint8),
        np.ones(n, np.int32),
        log_probs,
        (zeros, zeros),
        zeros[:, :0],
    )
    return compact(pooled, log_probs, (WHOLE, WHOLE)), log_probs


def test_the_highest_are_kept_exactly_and_the_rest_is_floored() -> None:
    items, log_probs = wide_items(classes=300, n=60)
    assert items.top_class.shape == (60, TOP)
    order = np.argsort(-log_probs, axis=1, kind="stable")
    np.testing.assert_array_equal(items.top_class, order[:, :TOP])
    np.testing.assert_array_equal(items.predicted, log_probs.argmax(axis=1))
    members = np.array([3, 299, 0, 17])
    found = items.log_probs(members)
    for row in range(len(items)):
        lowest = log_probs[row, order[row, TOP - 1]]
        expected = [log_probs[row, m] if m in order[row, :TOP] else lowest for m in members]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)
    assert (found > log_probs[:, members] + 0.1).any(), "some member must have been floored"


def test_ties_go_to_the_lower_class() -> None:
    flat = np.full((1, CLASSES), -np.log(CLASSES), np.float32)
    ids = np.zeros(1, np.int64)
    zeros = np.zeros((1, WIDTH), np.float32)
    pooled = ItemBlock(ids, ids, ids, ids, np.ones(1, np.int32), flat, (zeros,), zeros[:, :0])
    assert compact(pooled, flat, (WHOLE,)).top_class.tolist() == [list(range(CLASSES))]


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
        assert len(block) == len(pool(block)) == len(compact(block, block.log_probs, [WHOLE])) == 0


def test_read_items_reads_the_blocks_it_is_told(fitted: Fitted) -> None:
    def opinion(images: ItemBlock, unit: str) -> np.ndarray:
        return of_unit(images, unit).log_probs

    views = Views([fitted.store])
    blocks = (b for split in ("reserve", "val_a") for b in views.features(split, fit_only=True))
    items = read_items(views, blocks, 0, opinion, [WHOLE])
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
    images = ItemBlock.images(table, [exact], head)
    rounded = ItemBlock.images(table, [exact.astype(np.float16)], head)
    np.testing.assert_array_equal(images.log_probs, rounded.log_probs)
