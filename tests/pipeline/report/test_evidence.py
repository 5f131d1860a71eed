"""The photos beside an error: the right ones, and never the product's own."""

from pathlib import Path

import numpy as np
import pandas

from features.neighbours import unit
from pipeline.report.evidence import NEAREST, nearest_photos, typical_photos
from tests.stage2_xgb import planted


def test_the_nearest_fitted_photos_of_both_categories(tmp_path: Path):
    store = planted.write(tmp_path / "features.h5", planted.make_rows())
    table, vectors = store.table, unit(store.features(slice(None)))
    train = table.split == 0
    cases = pandas.DataFrame(
        {
            "product_id": [table.product_id[-1], table.product_id[train][0]],
            "class_index": [int(table.class_index[-1]), int(table.class_index[train][0])],
            "suggested_class": [0, -1],
        }
    )
    found = nearest_photos([store], cases)
    assert set(found["kind"]) == {"nearest"}
    for case in cases.itertuples():
        query = unit(vectors[table.product_id == case.product_id].mean(axis=0, keepdims=True))
        for class_index in {case.class_index, case.suggested_class} - {-1}:
            mine = train & (table.class_index == class_index)
            mine &= table.product_id != case.product_id
            order = np.argsort(-(vectors[mine] @ query[0]))
            expected = list(dict.fromkeys(table.product_id[mine][order].tolist()))[:NEAREST]
            rows = found.query(f"product_id == {case.product_id} and class_index == {class_index}")
            assert rows["shown"].tolist() == expected
            best = (vectors[mine] @ query[0]).max()
            assert np.isclose(rows["cosine"].iloc[0], best, atol=1e-3)


def test_typical_photos_are_right_and_sure():
    opinions = pandas.DataFrame(
        {
            "product_id": [1, 2, 3, 4, 5],
            "class_index": [0, 0, 0, 0, 1],
            "answer": [0, 0, 1, 0, 1],
            "self_confidence": [0.6, 0.9, 0.99, 0.7, 0.3],
        }
    )
    found = typical_photos(opinions)
    assert found.groupby("class_index")["shown"].apply(list).to_dict() == {0: [2, 4], 1: [5]}
