"""The figures against a slow plain reference, and evaluation/ against the store."""

import json

import numpy as np
import pandas
import pytest

from pipeline.config import EvaluateConfig
from pipeline.evaluate import changed_categories, measure, product_groups
from stage2_xgb.prior import calibration_error
from tests.pipeline.tiny import Tiny

CLASSES, SYSTEMS = 6, ("stage1", "shifted", "two_stage")


def made_items(n: int = 120, seed: int = 0) -> pandas.DataFrame:
    """Items with ranks and answers that fit together, some in one group, unevenly weighted; class 5 has too few items."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.integers(0, 5, n - 3), [5, 5, 5]])
    columns: dict = {
        "class_index": truth,
        "group": np.r_[np.arange(n - 20), np.arange(20) // 2],
        "weight": rng.uniform(0.2, 3, n),
    }
    for skill, system in enumerate(SYSTEMS):
        scores = rng.normal(size=(n, CLASSES)) + (0.5 + 0.6 * skill) * np.eye(CLASSES)[truth]
        order = np.argsort(-scores, axis=1)
        columns[f"{system}_class"] = order[:, 0]
        columns[f"{system}_true_rank"] = (order == truth[:, None]).argmax(axis=1)
        columns[f"{system}_confidence"] = rng.uniform(size=n)
    return pandas.DataFrame(columns | {"refined": rng.random(n) < 0.5})


def slow(frame: pandas.DataFrame, system: str, weight: np.ndarray) -> dict[str, float]:
    """Weighted top-1, top-5, and macro F1 over the classes with five items, by plain loops."""
    rows = list(zip(frame["class_index"], frame[f"{system}_class"], frame[f"{system}_true_rank"], weight, strict=True))
    f1 = []
    for c in sorted({t for t, _, _, w in rows if w > 0 and sum(t == other[0] for other in rows) >= 5}):
        hit = sum(w for t, p, _, w in rows if t == p == c)
        f1.append(2 * hit / (sum(w for t, _, _, w in rows if t == c) + sum(w for _, p, _, w in rows if p == c)))
    return {
        "top1": sum(w for t, p, _, w in rows if t == p) / sum(weight), "top5": sum(w for *_, r, w in rows if r < 5) / sum(weight),
        "macro_f1": float(np.mean(f1)),
    }  # fmt: skip


def test_figures_equal_a_plain_reference() -> None:
    frame = made_items()
    found = measure(frame, CLASSES, EvaluateConfig(resamples=20, min_support=5))
    support = frame["class_index"].value_counts()
    weights = {
        "natural": frame["weight"].to_numpy(),
        "balanced": np.array([1 / support[c] if support[c] >= 5 else 0.0 for c in frame["class_index"]]),
    }
    for mix, weight in weights.items():
        for system in SYSTEMS:
            for metric, value in slow(frame, system, weight).items():
                assert found[mix][system][metric]["value"] == pytest.approx(value), (mix, system, metric)
        for change, new, old in (
            ("shifted_over_stage1", 1, 0),
            ("two_stage_over_shifted", 2, 1),
            ("two_stage_over_stage1", 2, 0),
        ):
            a, b = (slow(frame, SYSTEMS[s], weight)["top1"] for s in (new, old))
            assert found[mix]["changes"][change]["top1"]["value"] == pytest.approx(a - b)
    assert found["natural"]["counts"]["n"] == len(frame) and found["balanced"]["counts"]["n"] == len(frame) - 3
    assert found["balanced"]["counts"]["categories"] == 5 and found["natural"]["counts"]["categories"] == 6
    assert found["natural"]["counts"]["effective_n"] == pytest.approx(frame["weight"].sum() ** 2 / (frame["weight"] ** 2).sum())
    right = [(frame[f"{s}_class"] == frame["class_index"]).to_numpy() for s in SYSTEMS]
    assert found["fixed"] == (right[2] & ~right[1]).sum() and found["broken"] == (right[1] & ~right[2]).sum()
    assert found["refined"] == frame["refined"].sum()
    ece = calibration_error(frame["shifted_confidence"].to_numpy(), right[1], frame["weight"].to_numpy())
    assert found["ece"]["shifted"] == pytest.approx(ece)


def every_interval(value: object) -> list[dict]:
    """All dictionaries with value, low and high."""
    if not isinstance(value, dict):
        return []
    return [value] if "low" in value else [found for inner in value.values() for found in every_interval(inner)]


def test_intervals_hold_the_point_and_know_the_groups() -> None:
    frame = made_items(400)
    config = EvaluateConfig(resamples=300)
    found = measure(frame, CLASSES, config)
    intervals = every_interval(found)
    assert len(intervals) == 2 * (3 + 3) * 3
    assert all(i["low"] - 0.02 <= i["value"] <= i["high"] + 0.02 and i["low"] < i["high"] for i in intervals)
    n, p = len(frame), found["natural"]["stage1"]["top1"]
    error = 1.96 * np.sqrt(p["value"] * (1 - p["value"]) / found["natural"]["counts"]["effective_n"])
    assert (p["high"] - p["low"]) / 2 == pytest.approx(error, rel=0.25)
    tied = frame.assign(group=np.arange(n) // 40)  # ten groups: far less is known
    for name in SYSTEMS:  # all of a group right or wrong together
        tied[f"{name}_class"] = np.where(np.arange(n) // 40 % 2, tied["class_index"], (tied["class_index"] + 1) % 5)
        tied[f"{name}_true_rank"] = (tied[f"{name}_class"] != tied["class_index"]).astype(int)
    wide = measure(tied, CLASSES, config)["natural"]["stage1"]["top1"]
    assert wide["high"] - wide["low"] > 3 * (p["high"] - p["low"])
    assert measure(frame, CLASSES, config) == found  # the seed decides


def test_items_are_all_images_and_products_of_test(tiny: Tiny) -> None:
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
    table = tiny.run.store.images("test")
    images, products = (items[items["unit"] == unit] for unit in ("image", "product"))
    assert images["item_id"].tolist() == table.image_id.tolist()
    assert products["item_id"].tolist() == list(dict.fromkeys(table.product_id.tolist()))
    np.testing.assert_array_equal(images["class_index"], table.class_index)
    assert products["n_images"].sum() == len(images)
    assert (items["weight"] == 1).all()  # test has no cap
    for system in SYSTEMS:
        np.testing.assert_array_equal(items[f"{system}_true_rank"] == 0, items[f"{system}_class"] == items["class_index"])


def test_metrics_follow_from_the_items(tiny: Tiny) -> None:
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
    metrics = json.loads((tiny.folder / "evaluation" / "metrics.json").read_text())
    for unit in ("image", "product"):
        frame = items[items["unit"] == unit]
        for system in SYSTEMS:
            for metric, value in slow(frame, system, frame["weight"].to_numpy()).items():
                assert metrics[unit]["natural"][system][metric]["value"] == pytest.approx(value)
    assert metrics["settings"]["split"] == "test" and metrics["settings"]["duplicates"] == "drop" and metrics["seconds"] > 0


def test_tables_sum_up(tiny: Tiny) -> None:
    folder = tiny.folder / "evaluation"
    items, per_category, confusion = (
        pandas.read_parquet(folder / f"{n}.parquet") for n in ("items", "per_category", "confusion")
    )
    store = tiny.run.store
    fitted = store.images("train")
    for unit in ("image", "product"):
        frame, table = items[items["unit"] == unit], per_category[per_category["unit"] == unit].set_index("class_index")
        support = frame["class_index"].value_counts()
        assert table["support"].sum() == len(frame) and (table["support"][support.index] == support).all()
        np.testing.assert_array_equal(table["category_id"], store.taxonomy.category_ids[table.index])
        np.testing.assert_array_equal(
            table["train_images"], np.bincount(fitted.class_index[fitted.fit], minlength=8)[table.index]
        )
        for system in SYSTEMS:
            pairs = confusion[(confusion["unit"] == unit) & (confusion["system"] == system)]
            assert pairs["count"].sum() == len(frame) == table[f"{system}_predicted"].sum()
            hit = pairs[pairs["true_class"] == pairs["predicted_class"]].set_index("true_class")["count"]
            for c, row in table.iterrows():
                right = hit.get(c, 0)
                assert row[f"{system}_recall"] == pytest.approx(right / row["support"], nan_ok=True)
                if row[f"{system}_predicted"]:
                    assert row[f"{system}_precision"] == pytest.approx(right / row[f"{system}_predicted"])
                assert row[f"{system}_f1"] == pytest.approx(2 * right / (row["support"] + row[f"{system}_predicted"]))


def test_groups_are_products_that_share_a_picture(tiny: Tiny) -> None:
    """Reference: merging by hand over the digests."""
    run = tiny.run
    groups = product_groups(run.features, run.store)
    rows = run.store.connection.execute(
        "SELECT product_id, digest FROM images WHERE split = 'test' AND status != 'blank'"
    ).fetchall()
    names = {product: product for product, _ in rows}
    for _ in range(5):
        for digest in {d for _, d in rows}:
            together = [p for p, d in rows if d == digest]
            lowest = min(names[p] for p in together)
            names.update(dict.fromkeys(together, lowest))
    assert set(groups.index) == set(names)
    pairs = {(groups[p], names[p]) for p in names}
    assert len(pairs) == len(set(names.values())) == groups.nunique()


def test_categories_significantly_worse_and_better() -> None:
    """Class 0 loses 20 of 40 and wins none, class 1 the other way round, class 2 moves both ways, class 3 only once."""
    truth = np.repeat([0, 1, 2, 3], 40)
    before = np.concatenate([np.ones(40), np.zeros(40), np.arange(40) % 2, np.zeros(40)]).astype(bool)
    after = np.concatenate([np.arange(40) % 2, np.arange(40) % 2, 1 - np.arange(40) % 2, np.arange(40) == 0]).astype(bool)
    alone = np.arange(len(truth))
    assert changed_categories(truth, alone, before, after, 4) == {"worse": [0], "better": [1]}
    assert changed_categories(truth, alone, before, before, 4) == {"worse": [], "better": []}


def test_repeats_of_an_item_make_no_change_significant() -> None:
    """Class 0: 3 fixed, none broken, which is chance; class 1: 10 fixed, which isn't. Each item stands 1 or 10 times."""
    truth, after = np.repeat([0, 1], [3, 10]), np.ones(13, dtype=bool)
    for times in (1, 10):
        rows = np.repeat(np.arange(13), times)
        assert changed_categories(truth[rows], rows, ~after[rows], after[rows], 2) == {"worse": [], "better": [1]}
