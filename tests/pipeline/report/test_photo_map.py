"""The map: alike products lie side by side."""

from pathlib import Path

import numpy as np
import pandas

from pipeline.report.photo_map import photo_map
from tests.stage2_xgb import planted


def test_families_lie_together(tmp_path: Path):
    store = planted.write(tmp_path / "features.h5", planted.make_rows())
    found = photo_map([store])
    table, span = store.table, store.of_split("test")
    assert sorted(found["product_id"]) == np.unique(table.product_id[span]).tolist()
    place = found[["x", "y"]].to_numpy()
    assert place.min() >= 0 and place.max() <= 1
    classes = pandas.Series(table.class_index[span], index=table.product_id[span])
    family = classes.groupby(level=0).first()[found["product_id"]].to_numpy() // 2 % 4
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    same = family[:, None] == family
    assert apart[same].mean() < 0.6 * apart[~same].mean()
