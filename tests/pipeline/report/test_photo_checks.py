"""Photos that need a look, by planted ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas

from catalog.store.reader import Store
from pipeline.report.photo_checks import KINDS, measure_photos, problems, sample_of
from tests.stage2_xgb import planted


def photos(count: int = 40) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "image_id": np.arange(count) * 4,
            "product_id": np.arange(count),
            "class_index": np.zeros(count, dtype=np.int32),
            "width": 180,
            "height": 180,
            "brightness": 0.7,
            "sharpness": 0.02,
        }
    )


def test_measures_of_the_stores_photos(small_store: Store):
    """All photos of a small store are looked at; a photo that is blurred gets a lower sharpness."""
    table = sample_of(small_store)
    assert len(table) == len(small_store.images())
    found = measure_photos(small_store, table)
    assert found["image_id"].tolist() == table.image_id.tolist()
    assert (found[["width", "height"]] == 32).all(axis=None)
    assert found["brightness"].between(0, 1).all() and (found["sharpness"] >= 0).all()


def test_what_the_eye_sees():
    table = photos()
    table.loc[3, "sharpness"] = 0.0005
    table.loc[5, "brightness"] = 0.05
    table.loc[7, "width"] = 900
    found = problems(table, [], [])
    assert dict(zip(found["kind"], found["product_id"], strict=True)) == {
        "blurred": 3,
        "dark": 5,
        "odd_size": 7,
    }
    assert np.isclose(found.set_index("kind")["value"]["odd_size"], 5.0)
    assert set(found["kind"]) <= set(KINDS) and (found["other"] == -1).all()
    assert not len(problems(photos(0), [], []))


def test_what_the_features_say(tmp_path: Path):
    """One photo is a near copy of another product's of its category, one is like no other."""
    rows = planted.make_rows()
    mine = np.flatnonzero(rows.table.class_index == 2)
    first, copy, odd = mine[0], mine[-1], mine[len(mine) // 2]
    features = rows.features.astype(np.float32)
    features[copy] = features[first] * 1.001
    features[odd] = -10 * features[mine].astype(np.float32).mean(axis=0)
    store = planted.write(
        tmp_path / "features.h5", replace(rows, features=features.astype(np.float16))
    )
    table = pandas.DataFrame(
        {name: getattr(rows.table, name) for name in ("image_id", "product_id", "class_index")}
    ).assign(width=180, height=180, brightness=0.7, sharpness=0.02)
    digests = [str(i) for i in range(len(table))]
    found = problems(table, [store], digests)
    twins = found[found["kind"] == "near_duplicate"]
    products = rows.table.product_id
    pair = {products[first], products[copy]}
    assert pair in [{a, b} for a, b in zip(twins["product_id"], twins["other"], strict=True)]
    assert found[found["kind"] == "outlying"]["image_id"].iloc[0] == rows.table.image_id[odd]
    digests[copy] = digests[first]  # the same bytes are no near duplicate
    again = problems(table, [store], digests)
    twins = again[again["kind"] == "near_duplicate"]
    assert pair not in [{a, b} for a, b in zip(twins["product_id"], twins["other"], strict=True)]
