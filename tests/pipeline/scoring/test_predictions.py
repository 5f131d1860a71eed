"""What is decided on opinions: promises, mixes, and files for people; nothing is scored twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest

from catalog.taxonomy import Category, Taxonomy
from pipeline.cli import main
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.answers import levels_of
from pipeline.decisions.rules import Rule
from pipeline.scoring.parts import OPINIONS
from pipeline.scoring.predictions import Decider, category_path
from stage2_xgb.addition import Addition, Additions, Newcomer
from tests.pipeline.score_helpers import predictions
from tests.pipeline.tiny import Tiny

NAMES = [("a", "a1"), ("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b1"), ("b", "b2")]
TAXONOMY = Taxonomy([Category(10 + i, a, b, f"c{i}") for i, (a, b) in enumerate(NAMES)])
NOTHING = Newcomer(np.zeros(1, np.float32), 0.0, np.zeros((1, 1), np.float32))
EVEN = np.full(6, 1 / 6)


def opinions(*probabilities: list[float]) -> pyarrow.Table:
    """One product each, its categories sorted."""
    p = np.array(probabilities, dtype=np.float32)
    order = np.argsort(-p, axis=1, kind="stable").astype(np.int32)
    n = len(p)
    columns = {
        "product_id": np.arange(n),
        "name": [None] * n,
        "n_images": np.ones(n, dtype=np.int32),
        "top_class": list(order),
        "log_prob": list(np.log(np.take_along_axis(p, order, axis=1))),
        "stage1_class": order[:, 0],
        "shifted_class": order[:, 0],
        "answered_by": ["pool"] * n,
        "blank": np.zeros(n, dtype=bool),
        "distance": np.zeros(n, dtype=np.float32),
        "added": [[]] * n,
        "z": [None] * n,
    }
    return pyarrow.table(columns, schema=OPINIONS)


def test_the_deepest_level_that_is_sure_enough() -> None:
    rules = [Rule(level, t) for level, t in zip(levels_of(TAXONOMY), (0.6, 0.7, 0.9), strict=True)]
    decider = Decider(TAXONOMY, EVEN, EVEN, rules)
    found = decider.predictions(
        opinions(
            [0.65, 0.1, 0.1, 0.05, 0.05, 0.05],
            [0.4, 0.35, 0.1, 0.05, 0.05, 0.05],
            [0.4, 0.2, 0.35, 0.02, 0.02, 0.01],
            [0.3, 0.1, 0.2, 0.3, 0.05, 0.05],
        ),
        top=2,
    ).to_pandas()
    assert found["level"].tolist() == [3, 2, 1, 0]
    assert found["category_path"].tolist() == ["a > a1 > c0", "a > a1", "a", ""]
    np.testing.assert_allclose(found["confidence"], [0.65, 0.75, 0.95, 0.3], rtol=1e-5)
    assert found["accepted"].tolist() == [True, True, True, False]
    assert found["reason"].fillna("").tolist() == ["", "", "", "unsure"]
    assert found["category_id"].tolist() == [10] * 4
    assert found["top_category_id"].map(len).eq(2).all()


def test_products_are_what_they_may_be(tmp_path: Path) -> None:
    """The first may be 11 alone, the second 15, which is not likely; the third may be any."""
    path = tmp_path / "allowed.csv"
    path.write_text("product_id,category_id\n0,11\n1,15\n")
    rules = [Rule(levels_of(TAXONOMY)[0], 0.6)]
    decider = Decider(TAXONOMY, EVEN, EVEN, rules, Allowed.read(path, TAXONOMY))
    likely = [0.7, 0.2, 0.05, 0.03, 0.015, 0.005]
    found = decider.predictions(opinions(likely, likely, likely), top=2).to_pandas()
    assert found["category_id"].tolist() == [11, 10, 10]
    assert found["accepted"].tolist() == [True, False, True]
    assert found["reason"].fillna("").tolist() == ["", "nothing_allowed", ""]
    np.testing.assert_allclose(found["confidence"], [1, 0.7, 0.7], rtol=1e-5)


def test_an_added_category_is_named_but_never_accepted() -> None:
    """Of the second product it is likelier than all others; of the third it leaves the surest of
    these below the threshold."""
    new = Addition(Category(99, "a", "a9", "new"), NOTHING, np.zeros(2), 0.0, {})
    sure = [0.9, 0.02, 0.02, 0.02, 0.02, 0.02]
    asked = opinions(sure, sure, sure)
    odds = pyarrow.array([[-9.0], [2.0], [-1.0]], type=OPINIONS.field("added").type)
    asked = asked.set_column(asked.schema.get_field_index("added"), "added", odds)
    rules = [Rule(level, 0.8) for level in levels_of(TAXONOMY)]
    for chosen in (rules, []):
        decider = Decider(TAXONOMY, EVEN, EVEN, chosen, added=Additions((new,)))
        found = decider.predictions(asked, top=3).to_pandas()
        assert found["category_id"].tolist() == [10, 99, 10]
        assert found["answered_by"].tolist() == ["pool", "added", "pool"]
        assert found["top_category_id"][1].tolist()[:2] == [99, 10]
        expected = ["", "added_category", "unsure"] if chosen else [""] * 3
        assert found["reason"].fillna("").tolist() == expected
        assert found["level"].tolist() == ([3, 0, 0] if chosen else [3, 3, 3])
    assert found["category_path"][1] == "a > a9 > new"
    np.testing.assert_allclose(found["confidence"][1], 1 / (1 + np.exp(-2.0)), rtol=1e-5)


def test_without_a_rule_nothing_is_accepted_or_refused() -> None:
    found = Decider(TAXONOMY, EVEN, EVEN).predictions(opinions([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), 5)
    assert found["accepted"].null_count == 1 and found["level"].to_pylist() == [3]


def test_a_category_without_names_has_its_id_for_a_path() -> None:
    assert category_path(Taxonomy.from_ids([7, 8]), 1, 3) == "8"


def test_promise_mix_and_csv_score_nothing_twice(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command = tiny.scoring(out)
    command += ["--labels", str(tiny.data / "test_labels.csv")]
    assert main(command) == 0
    plain, made = predictions(out), (out / "opinions-00000.parquet").stat().st_mtime_ns
    weights = tmp_path / "mix.csv"
    ids = tiny.run.store.taxonomy.category_ids.tolist()
    weights.write_text("category_id,weight\n" + f"{ids[0]},1\n")
    assert main([*command, "--mix", str(weights)]) == 0
    assert set(predictions(out)["category_id"]) == {ids[0]}  # nothing else is possible
    copied = out / "mix.csv"  # where an estimate lies, and stays
    copied.write_text(weights.read_text())
    assert main([*command, "--mix", str(copied)]) == 0 and copied.exists()
    capsys.readouterr()
    assert main([*command, "--promise", "0.5", "--mix", "natural", "--csv"]) == 0
    assert (out / "opinions-00000.parquet").stat().st_mtime_ns == made
    text, found = capsys.readouterr().out, predictions(out)
    assert "level 3: 50.0% " in text and "products in accepted.parquet" in text
    assert found["category_id"].tolist() == plain["category_id"].tolist()
    summary = json.loads((out / "summary.json").read_text())
    accepted, review = (pandas.read_parquet(out / f"{x}.parquet") for x in ("accepted", "review"))
    assert summary["counts"]["accepted"] == len(accepted) == found["accepted"].sum()
    assert summary["accepted_percent"] == round(100 * len(accepted) / len(found), 1)
    assert len(review) == (found["level"] == 0).sum() and "val_b" not in json.dumps(summary)
    with open(out / "predictions.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category_id"] for row in rows] == [f'="{i}"' for i in found["category_id"]]
    assert main(command) == 0
    assert not any((out / name).exists() for name in ("accepted.parquet", "predictions.csv"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mix", "no-such.csv"], "score.mix: no-such.csv: "),
        (["--promise", "1.5"], "score.promise: "),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_scored(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], said: str
) -> None:
    command = ["score", str(tiny.data / "test.bson"), "--run", str(tiny.folder)]
    assert main([*command, "--out", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.glob("opinions-*"))
