"""What a threshold costs: the table from val_b, and the split of the predictions."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pytest

from catalog.artifacts import read_json
from catalog.intervals import clustered_share
from pipeline.cli import main
from pipeline.config import ScoreConfig
from pipeline.decisions import heldout
from pipeline.model import TwoStageModel
from pipeline.scoring import coverage
from pipeline.scoring.lanes import Task
from pipeline.scoring.parts import Part
from pipeline.scoring.predictions import ACCEPTED, REVIEWED
from tests.pipeline.score_helpers import CONFIG, predictions, score, scorer
from tests.pipeline.tiny import Tiny


def costs(tiny: Tiny) -> list[coverage.Cost]:
    """The table of the tiny run, as it was trained."""
    held = heldout.read(tiny.run.stage2)
    return coverage.costs_of(held.under(held.fitted))


def test_the_table_falls_in_coverage_and_holds_its_intervals(tiny: Tiny) -> None:
    table = costs(tiny)
    assert [cost.threshold for cost in table] == [round(i / 100, 2) for i in range(101)]
    assert (
        table[0].coverage == pytest.approx(1)
        and (np.diff([cost.coverage for cost in table]) <= 1e-12).all()
    )
    assert (np.diff([cost.n for cost in table]) <= 0).all()
    sure = [cost for cost in table if cost.accuracy is not None]
    assert all(cost.low <= cost.accuracy <= cost.high for cost in sure)
    held = json.loads((tiny.run.stage2 / "summary.json").read_text())["units"]["product"]["natural"]
    assert table[0].n > held["items"]  # val_b's; products of reserve and val_a count as well


def test_a_threshold_between_two_is_told_by_the_lower_one(tiny: Tiny) -> None:
    table = costs(tiny)
    assert [coverage.text_at(table, cost.threshold) for cost in table] == [
        cost.text() for cost in table
    ]
    for asked, told in ((0.995, 99), (0.5749, 57), (0.001, 0)):
        assert (
            coverage.text_at(table, asked)
            == f"{table[told].text()}; {asked} lies above that and was not measured itself"
        )


def test_accepted_and_to_be_reviewed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command = tiny.scoring(out, "--top", "3")
    assert main([*command, "--min-confidence", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "confidence >= 0.50: " in text and "of held-out products" in text
    found = predictions(out)
    assert found["top_category_id"].map(len).eq(3).all()
    accepted, review = (pandas.read_parquet(out / name) for name in (ACCEPTED, REVIEWED))
    assert (
        f"here: {len(accepted)} products in accepted.parquet, {len(accepted) / len(found):.1%}; "
        f"{len(review)} in review.parquet" in text
    )
    assert (accepted["confidence"] >= 0.5).all() and (review["confidence"] < 0.5).all()
    assert accepted["accepted"].all() and not review["accepted"].any()
    assert sorted([*accepted["product_id"], *review["product_id"]]) == sorted(found["product_id"])
    before = (out / "opinions-00000.parquet").stat().st_mtime_ns
    assert (
        main([*command, "--min-confidence", "0.9"]) == 0
    )  # another threshold scores nothing again
    assert (out / "opinions-00000.parquet").stat().st_mtime_ns == before
    assert len(pandas.read_parquet(out / "accepted.parquet")) < len(accepted)
    success = read_json(out / "_SUCCESS", "")
    assert (success["min_confidence"], success["accepted"] + success["review"]) == (0.9, len(found))
    assert (out / "_SUCCESS").stat().st_mtime_ns >= max(
        (out / name).stat().st_mtime_ns for name in (ACCEPTED, REVIEWED)
    )
    assert main(command) == 0 and not (out / "accepted.parquet").exists()


def test_nothing_of_an_earlier_threshold_stands_while_parts_are_made(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
        raise Stopped
        yield

    config, dumps = CONFIG.model_copy(update={"min_confidence": 0.5}), [tiny.data / "test.bson"]
    score(scorer(tiny, model), dumps, tmp_path, config)
    assert all((tmp_path / name).exists() for name in ("_SUCCESS", ACCEPTED, REVIEWED))
    (tmp_path / "opinions-00000.parquet").unlink()
    with pytest.raises(Stopped):
        score(scorer(tiny, stop), dumps, tmp_path, config)
    assert not any((tmp_path / name).exists() for name in ("_SUCCESS", ACCEPTED, REVIEWED))


def test_a_threshold_beyond_1_is_an_error(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "score",
        "x.bson",
        "--run",
        str(tiny.folder),
        "--out",
        str(tmp_path),
        "--min-confidence",
        "62",
    ]
    assert main(command) == 2
    assert "score.min_confidence: " in capsys.readouterr().err


def test_other_readers(tiny: Tiny, model: TwoStageModel, tmp_path: Path) -> None:
    score(scorer(tiny, model), [tiny.data / "test.bson"], tmp_path)
    ours = predictions(tmp_path)
    parts = str(tmp_path / "part-*.parquet")
    duck = duckdb.sql(
        "SELECT product_id, top_category_id[1] AS best, "
        f"category_id FROM '{parts}' ORDER BY product_id"
    ).df()
    frame = polars.read_parquet(parts)
    assert (duck["best"] == duck["category_id"]).all() and len(duck) == len(ours)
    assert frame["product_id"].to_list() == ours["product_id"].tolist()
    assert frame.schema["confidence"] == polars.Float32 and frame.schema[
        "top_category_id"
    ] == polars.List(polars.Int64)
    assert frame.schema["product_id"] == polars.Int64


def test_a_labelled_dump_prints_its_accuracy(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = tiny.scoring(tmp_path, dump=tiny.data / "train.bson")
    assert main(command) == 0
    assert re.search(
        r"top-1 of 600 labelled products: stage 1 \d+\.\d% \[", capsys.readouterr().out
    )


def test_a_curve_by_hand() -> None:
    """Three items; the threshold itself is accepted, and weights count in shares but not in n."""
    confidence, right = np.array([0.2, 0.5, 0.9]), np.array([False, True, True])
    rows = coverage.curve(confidence, right, np.array([1.0, 1.0, 2.0]), np.arange(3))
    assert [(r.threshold, r.coverage, r.accuracy, r.n) for r in (rows[0], rows[20])] == [
        (0, 1, 0.75, 3),
        (0.2, 1, 0.75, 3),
    ]
    assert (rows[50].coverage, rows[50].accuracy, rows[50].n) == (0.75, 1.0, 2)
    assert (rows[51].coverage, rows[51].accuracy, rows[51].n) == (0.5, 1.0, 1)
    assert (rows[91].coverage, rows[91].accuracy, rows[91].low, rows[91].high, rows[91].n) == (
        0,
        None,
        None,
        None,
        0,
    )
    assert (rows[0].low, rows[0].high) == pytest.approx(
        clustered_share(right, np.array([1.0, 1.0, 2.0]), np.arange(3))[1:3]
    )
    assert rows[51].low < 0.3  # one right item of one proves little


def test_a_curve_counts_groups_once() -> None:
    confidence, right = np.full(40, 0.7), np.arange(40) % 4 > 0
    alone = coverage.curve(confidence, right, np.ones(40), np.arange(40))[50]
    together = coverage.curve(
        np.repeat(confidence, 3), np.repeat(right, 3), np.ones(120), np.repeat(np.arange(40), 3)
    )[50]
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=0.02)
    assert together.low <= alone.low and together.high >= alone.high and together.n == 120
    assert (together.accuracy, together.coverage) == (alone.accuracy, alone.coverage) == (0.75, 1.0)


def test_a_curve_of_nothing() -> None:
    nothing = np.zeros(0)
    rows = coverage.curve(nothing, nothing, nothing, nothing)
    assert (rows[0].coverage, rows[0].accuracy, rows[0].n) == (0, None, 0)
    assert (
        coverage.text_at(rows, 0.5)
        == "there is no held-out product, so that nobody knows what a threshold costs"
    )
