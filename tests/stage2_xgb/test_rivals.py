"""Simple systems on the same features, on the planted problem."""

import logging
from pathlib import Path

import numpy as np
import pytest

from features.store import FeatureStore
from features.writer import FeatureWriter
from stage1_cnn.head import Head, log_softmax
from stage2_xgb.dataset import Views
from stage2_xgb.heldout import UNITS
from stage2_xgb.prior import fit_shift, mix
from stage2_xgb.refine import refine
from stage2_xgb.rivals import RIVALS, Rival, fit_rivals, opinion
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, images_of, make_rows, write

TARGETS = dict.fromkeys(UNITS, mix(np.arange(1, CLASSES + 1)))


@pytest.fixture(scope="module")
def rivals(fitted: Fitted) -> dict[str, Rival]:
    return fit_rivals(Views([fitted.store]), TARGETS, fitted.open().pool, 0)


def test_those_that_read_the_answer_beat_stage_1_and_not_the_pool(
    rivals: dict[str, Rival], fitted: Fitted
) -> None:
    images, bundle = images_of(fitted.store, "test"), fitted.open()
    assert tuple(rivals) == tuple(name for name in RIVALS if name != "logistic_columns")
    for unit in UNITS:
        result = refine(bundle, images, unit)
        truth = result.pooled.class_index
        stage1, both = (
            (x.argmax(axis=1) == truth).mean() for x in (result.shifted, result.two_stage)
        )
        for name, rival in rivals.items():
            log_probs = rival.log_probs(images, unit)
            np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-4)
            right = (log_probs.argmax(axis=1) == truth).mean()
            assert stage1 + 0.03 < right < both + 0.06, (unit, name)


def test_shifts_are_fitted_on_val_b(rivals: dict[str, Rival], fitted: Fitted) -> None:
    """From the mix of what each was fitted on, to the target's."""
    held, table = images_of(fitted.store, "val_b"), fitted.store.table
    for name, splits in (("head_train", [0]), ("head_all", [0, 1, 2])):
        counts = np.bincount(table.class_index[np.isin(table.split, splits)], minlength=CLASSES)
        rival = rivals[name]
        expected = fit_shift(
            opinion(rival.expert, held), held.class_index, mix(counts), TARGETS["image"]
        )
        assert rival.shifts["image"].numbers == pytest.approx(expected.numbers)
        np.testing.assert_allclose(rival.shifts["image"].log_ratio, expected.log_ratio)


def test_a_products_opinion_is_the_mean_of_its_images(
    rivals: dict[str, Rival], fitted: Fitted
) -> None:
    images = images_of(fitted.store, "test")
    several = images.of_several()
    first = several.rows(several.product_id == several.product_id[0])
    for rival in rivals.values():
        (found,) = rival.log_probs(first, "product")
        mean = log_softmax(opinion(rival.expert, first).mean(axis=0, keepdims=True))
        np.testing.assert_allclose(found, rival.shifts["product"](mean)[0], rtol=1e-4, atol=1e-4)


def test_one_reads_the_columns_too(tmp_path: Path) -> None:
    """A column that names the sibling, for nine of ten products, beside photos that don't."""
    rows = make_rows(answer=False)
    sibling = rows.table.class_index % 2
    wrong = np.random.default_rng(0).random(int(rows.table.product_id.max()) + 1) < 0.1
    codes = np.where(wrong[rows.table.product_id], 1 - sibling, sibling)[:, None]
    origin = {"columns": "c", "sizes": [2], "categorical": [True]}
    with FeatureWriter(tmp_path / "columns.h5", rows.table, 1, CLASSES, origin, {}) as writer:
        writer.write(codes.astype(np.float16), {})
        writer.finish(Head(np.zeros((CLASSES, 1), np.float32), np.zeros(CLASSES, np.float32)))
    photos = write(tmp_path / "photos.h5", rows)
    views = Views([photos, FeatureStore(tmp_path / "columns.h5")])
    rivals = fit_rivals(views, TARGETS, None, 0)
    assert tuple(rivals) == ("head_train", "head_all", "logistic_columns")
    (images,) = views.blocks("test", fit_only=False)
    right = {
        name: (rival.log_probs(images, "image").argmax(axis=1) == images.class_index).mean()
        for name, rival in rivals.items()
    }
    assert right["logistic_columns"] > right["head_all"] + 0.15, right


def test_without_a_pool_the_heads_stand_alone(fitted: Fitted) -> None:
    assert set(fit_rivals(Views([fitted.store]), TARGETS, None, 0)) == {"head_train", "head_all"}


def test_what_would_take_too_long_is_left_out(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stage2_xgb.logistic.LARGEST", 10)
    with caplog.at_level(logging.WARNING):
        found = fit_rivals(Views([fitted.store]), TARGETS, fitted.open().pool, 0)
    assert set(found) == {"logistic", "neighbours"}
    assert "rival head_all is left out: its fit would take too long" in caplog.text
