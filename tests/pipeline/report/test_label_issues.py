"""Doubtful labels: judged out of fold over all splits, the least likely first."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas

from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.label_issues import doubtful_labels, label_opinions, out_of_fold, review_table
from pipeline.run_folder import RunFolder
from stage2_xgb.dataset import Views
from tests.pipeline.evaluation_maker import make_small_run
from tests.stage2_xgb import planted


def test_swapped_labels_are_doubted():
    """Two classes that the judge knows well, and two products whose labels are exchanged."""
    truth = np.array([0] * 20 + [1] * 20)
    answer = truth.copy()
    answer[[3, 30]] = [1, 0]
    own = np.where(truth == answer, 0.9, 0.02)
    own[30] = 0.01
    table = pandas.DataFrame(
        {
            "item_id": np.arange(40),
            "product_id": np.arange(40),
            "split": "test",
            "class_index": truth,
            "answer": answer,
            "confidence": np.where(truth == answer, 0.9, 0.95),
            "self_confidence": own,
        }
    )
    found = doubtful_labels(table, 3)
    assert found["product_id"].tolist() == [30, 3]  # the least likely label first
    assert found["suggested_class"].tolist() == [0, 1]


def test_wrong_labels_of_every_split_are_found(tmp_path: Path):
    """Of 8 classes in 4 families, 30 products get a label of another family: most of the
    first 30 doubts are these, with the right suggestion, and train's are among them."""
    rows, rng = planted.make_rows(), np.random.default_rng(1)
    product_id, first = np.unique(rows.table.product_id, return_index=True)
    wrong = rng.choice(len(product_id), 30, replace=False)
    truth = pandas.Series(rows.table.class_index[first].astype(int), index=product_id)
    label = truth.copy()
    label.iloc[wrong] = (truth.iloc[wrong] + rng.choice([2, 4, 6], 30)) % planted.CLASSES
    table = replace(rows.table, class_index=label[rows.table.product_id].to_numpy(np.int32))
    order = np.lexsort((table.image_id, table.class_index, table.split))
    store = planted.write(
        tmp_path / "features.h5", planted.Rows(table[order], rows.features[order])
    )

    opinions = out_of_fold(Views([store]))
    assert sorted(opinions["product_id"]) == product_id.tolist()
    found = doubtful_labels(opinions, planted.CLASSES).head(30)
    hits = found[found["product_id"].isin(product_id[wrong])]
    assert len(hits) >= 20 and "train" in set(hits["split"])
    assert (hits["suggested_class"] == truth[hits["product_id"]].to_numpy()).mean() > 0.8


def test_a_label_that_no_other_fold_has_is_not_judged(tmp_path: Path):
    """One product alone carries the last class: nothing can be said of its label."""
    rows = planted.make_rows()
    single = rows.table.product_id[-1]
    class_index = np.where(rows.table.product_id == single, 8, rows.table.class_index)
    table = replace(rows.table, class_index=class_index.astype(np.int32))
    store = planted.write(tmp_path / "features.h5", planted.Rows(table, rows.features), classes=9)
    opinions = out_of_fold(Views([store])).set_index("product_id")
    assert np.isnan(opinions.loc[single, "self_confidence"])
    assert opinions["self_confidence"].isna().sum() == 1
    assert single not in set(doubtful_labels(opinions.reset_index(), 9)["product_id"])


def test_a_picture_of_two_categories_is_no_doubt(tmp_path: Path):
    """Such products stand among the conflicts, in groups of at least two categories, only."""
    run = EvaluatedRun(RunFolder(make_small_run(tmp_path / "run")))
    opinions, judged = label_opinions(run)
    review = review_table(run, opinions)
    doubts, conflicts = (review[review["kind"] == kind] for kind in ("doubt", "conflict"))
    assert judged == "evaluated"  # this run has no features
    assert len(conflicts) and (conflicts.groupby("group")["class_index"].nunique() > 1).all()
    assert not set(doubts["product_id"]) & set(conflicts["product_id"])
    assert doubts["self_confidence"].is_monotonic_increasing
