"""Extraction: every image's own features at its own row, whatever else is in the batch."""

import copy
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xxhash

from catalog.errors import ShelfsortError
from catalog.images import decode
from catalog.store.reader import Store
from features import schema
from features.extract import extract, made_from
from features.store import FeatureStore
from stage1_cnn.device import inference_compute
from stage1_cnn.predict import Predictor


@pytest.fixture(scope="module")
def store(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of one's own, with one image that no longer decodes."""
    path = tmp_path_factory.mktemp("extract") / "store.sqlite"
    shutil.copy(small_store.path, path)
    with closing(sqlite3.connect(path)) as connection:
        bad, data = int(small_store.images().image_id[7]), b"\xff\xd8\xff nothing"
        connection.execute("UPDATE blobs SET data = ? WHERE image_id = ?", (data, bad))
        connection.execute(
            "UPDATE images SET digest = ? WHERE image_id = ?", (xxhash.xxh3_128_digest(data), bad)
        )
        connection.commit()
    return Store(path)


@pytest.fixture(scope="module")
def features(predictor: Predictor, store: Store) -> FeatureStore:
    """The features of that store."""
    path = store.path.with_name("features.h5")
    assert extract(predictor, store, path, batch_size=50) == 1
    return FeatureStore(path)


def test_each_row_is_its_image_alone(
    predictor: Predictor, store: Store, features: FeatureStore
) -> None:
    table = features.table
    assert sorted(table.image_id) == sorted(store.images().image_id)
    for row in (0, 49, 50, 101, len(table) - 1):
        pixels = predictor.transform([decode(store.read([table.image_id[row]])[0])])
        alone = predictor.features(pixels)[0].astype(np.float32)
        there = features.features(slice(row, row + 1))[0].astype(np.float32)
        np.testing.assert_allclose(there, alone, rtol=5e-3, atol=1e-3)
    norms = features.features(slice(0, len(features))).astype(np.float32)
    other = np.abs(norms[0] - norms[50]).max()
    assert other > 0.01, "the rows must differ, or the comparison shows nothing"


def test_an_unreadable_image_keeps_its_row(store: Store, features: FeatureStore) -> None:
    bad = int(np.flatnonzero(features.status == schema.UNREADABLE)[0])
    image_id = int(features.table.image_id[bad])
    assert image_id == int(store.images().image_id[7])
    assert not features.features(slice(bad, bad + 1)).any()
    assert list(features.errors) == [image_id] and features.errors[image_id]


def test_it_says_what_it_was_made_from(
    predictor: Predictor, store: Store, features: FeatureStore
) -> None:
    assert features.made_from == made_from(predictor, store.fingerprint)
    assert features.computed_with == {"device": "cpu", "precision": "fp32", "runtime": "torch"}
    np.testing.assert_array_equal(features.head.weight, predictor.head.weight)
    np.testing.assert_array_equal(features.head.bias, predictor.head.bias)


def test_features_beyond_float16_are_refused(
    predictor: Predictor, store: Store, tmp_path: Path
) -> None:
    loud = copy.deepcopy(predictor)
    loud.network.backbone.layer4[1].bn2.weight.mul_(1e8)
    first = store.images().image_id[0]
    for precision, remedy in (
        ("fp32", ": train stage 1 again"),
        ("bf16", r": set features\.precision=fp32, or train stage 1"),
    ):
        loud.compute = inference_compute("cpu", precision)
        with pytest.raises(
            ShelfsortError,
            match=rf"features of image {first} are not finite .* in {precision}; .*{remedy}",
        ):
            extract(loud, store, tmp_path / "features.h5", batch_size=50)
    assert not (tmp_path / "features.h5").exists()
