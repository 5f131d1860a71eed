"""Corrected labels move rows and change no feature."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ArtifactError
from features.relabel import relabel
from features.store import FeatureStore
from tests.stage2_xgb import planted


def relabelled(rows: planted.Rows, share: float = 0.1) -> planted.Rows:
    """The same rows in store order after a tenth of the products changed their class."""
    rng = np.random.default_rng(3)
    products = np.unique(rows.table.product_id)
    moved = rng.choice(products, int(share * len(products)), replace=False)
    class_index = np.where(
        np.isin(rows.table.product_id, moved),
        (rows.table.class_index + 1) % planted.CLASSES,
        rows.table.class_index,
    ).astype(np.int32)
    table = replace(rows.table, class_index=class_index)
    order = np.lexsort((table.image_id, table.class_index, table.split))
    return planted.Rows(table[order], rows.features[order])


def test_rows_move_and_features_stay(tmp_path: Path):
    rows = planted.make_rows()
    errors = {3: "broken", 40: "no picture"}
    path = tmp_path / "features.h5"
    old = planted.write(path, rows, errors=errors)
    reasons, now = old.errors, relabelled(rows)
    changed = relabel(old, now.table, planted.CLASSES, {"store": "new"})
    new = FeatureStore(path)
    before = dict(zip(rows.table.image_id, rows.table.class_index, strict=True))
    assert changed == sum(
        before[i] != c for i, c in zip(now.table.image_id, now.table.class_index, strict=True)
    )
    assert changed > 0 and new.made_from == {"store": "new"}
    assert (new.table.image_id == now.table.image_id).all()
    assert (new.table.class_index == now.table.class_index).all()
    expected = now.features.copy()
    expected[np.isin(now.table.image_id, list(reasons))] = 0
    assert (new.features(slice(None)) == expected).all()
    assert new.errors == reasons and (new.head.weight == old.head.weight).all()
    assert new.computed_with == old.computed_with
    for class_index in range(planted.CLASSES):
        rows_of = new.of_class("val_b", class_index)
        assert (new.table.class_index[rows_of] == class_index).all()
    assert [file.name for file in tmp_path.iterdir()] == ["features.h5"]


def test_an_image_without_features_is_named(tmp_path: Path):
    rows = planted.make_rows()
    old = planted.write(tmp_path / "features.h5", planted.Rows(rows.table[1:], rows.features[1:]))
    with pytest.raises(ArtifactError, match=f"no features of image {rows.table.image_id[0]}"):
        relabel(old, rows.table, planted.CLASSES, {"store": "new"})
    assert len(FeatureStore(tmp_path / "features.h5")) == len(rows.table) - 1
