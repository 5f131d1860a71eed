"""What a threshold costs: the table from val_b, and the split of the predictions."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pytest

from catalog.artifacts import read_json, read_sealed, write_sealed
from catalog.errors import ArtifactError
from pipeline import coverage, steps
from pipeline.cli import main
from pipeline.config import ScoreConfig
from pipeline.engine import Task
from pipeline.parts import Part
from pipeline.predict import Model
from tests.pipeline.scoring import CONFIG, predictions, score, scorer
from tests.pipeline.tiny import Tiny


def test_the_table_falls_in_coverage_and_holds_its_intervals(tiny: Tiny) -> None:
    table = coverage.read(tiny.run.stage2, "")
    assert [cost.threshold for cost in table] == [round(i / 100, 2) for i in range(101)]
    assert table[0].coverage == pytest.approx(1) and (np.diff([cost.coverage for cost in table]) <= 1e-12).all()
    assert (np.diff([cost.n for cost in table]) <= 0).all()
    sure = [cost for cost in table if cost.accuracy is not None]
    assert all(cost.low <= cost.accuracy <= cost.high for cost in sure)
    held = json.loads((tiny.run.stage2 / "summary.json").read_text())["units"]["product"]["natural"]
    assert table[0].n == held["items"]


def test_a_threshold_between_two_is_told_by_the_lower_one(tiny: Tiny) -> None:
    costs = coverage.read(tiny.run.stage2, "")
    assert [coverage.text_at(costs, cost.threshold) for cost in costs] == [cost.text() for cost in costs]
    for asked, told in ((0.995, 99), (0.5749, 57), (0.001, 0)):
        assert coverage.text_at(costs, asked) == f"{costs[told].text()}; {asked} lies above that and was not measured itself"


def test_accuracy_at_no_threshold_is_stage_2s_own(tiny: Tiny, model: Model) -> None:
    """Without a class mix to weigh by, the first row is what stage 2's summary says of val_b."""
    stores = [tiny.run.view(name).features for name in ("stage1", "small")]
    store = tiny.run.store
    counts = np.zeros(len(store.taxonomy))
    for images in [stores[0].table[stores[0].of_split("val_b")]]:
        fitted = images[images.fit]
        products = dict(zip(fitted.product_id.tolist(), fitted.class_index.tolist(), strict=True))
        np.add.at(counts, list(products.values()), 1)
    first = coverage.measure(stores, model.bundle, counts / counts.sum())[0]
    held = json.loads((tiny.run.stage2 / "summary.json").read_text())["units"]["product"]["natural"]
    assert first.accuracy == pytest.approx(held["gated"])


def test_a_table_of_another_bundle_is_refused_and_made_anew(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "run")
    path = copy.run.stage2 / "coverage.json"
    good = path.read_text()
    write_sealed(path, read_sealed(path, "") | {"made_from": {"stage2": "0"}})
    with pytest.raises(ArtifactError, match=r"coverage\.json: measured with another stage 2 .* rebuild it with: this"):
        coverage.read(copy.run.stage2, "this")
    steps.stage2(copy.run, copy.config, rebuild=False, say=lambda _: None)
    assert path.read_text() == good


def test_accepted_and_to_be_reviewed(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    command = ["score", str(tiny.data / "test.bson"), "--run", str(tiny.folder), "--out", str(out), "--top", "3"]
    assert main([*command, "--min-confidence", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "confidence >= 0.50: " in text and "on val_b" in text
    found = predictions(out)
    assert found["top_category_id"].map(len).eq(3).all()
    accepted, review = (pandas.read_parquet(out / name) for name in coverage.FILES)
    assert f"here: {len(accepted)} products in accepted.parquet, {len(review)} in review.parquet" in text
    assert (accepted["confidence"] >= 0.5).all() and (review["confidence"] < 0.5).all()
    assert sorted([*accepted["product_id"], *review["product_id"]]) == sorted(found["product_id"])
    before = (out / "part-00000.parquet").stat().st_mtime_ns
    assert main([*command, "--min-confidence", "0.9"]) == 0  # another threshold scores nothing anew
    assert (out / "part-00000.parquet").stat().st_mtime_ns == before
    assert len(pandas.read_parquet(out / "accepted.parquet")) < len(accepted)
    success = read_json(out / "_SUCCESS", "")
    assert (success["min_confidence"], success["accepted"] + success["review"]) == (0.9, len(found))
    assert (out / "_SUCCESS").stat().st_mtime_ns >= max((out / name).stat().st_mtime_ns for name in coverage.FILES)
    assert main(command) == 0 and not (out / "accepted.parquet").exists()


def test_nothing_of_an_earlier_threshold_stands_while_parts_are_made(tiny: Tiny, model: Model, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
        raise Stopped
        yield

    config, dumps = CONFIG.model_copy(update={"min_confidence": 0.5}), [tiny.data / "test.bson"]
    score(scorer(tiny, model), dumps, tmp_path, config)
    assert all((tmp_path / name).exists() for name in ("_SUCCESS", *coverage.FILES))
    (tmp_path / "part-00000.parquet").unlink()
    with pytest.raises(Stopped):
        score(scorer(tiny, stop), dumps, tmp_path, config)
    assert not any((tmp_path / name).exists() for name in ("_SUCCESS", *coverage.FILES))


def test_a_threshold_beyond_1_is_an_error(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["score", "x.bson", "--run", str(tiny.folder), "--out", str(tmp_path), "--min-confidence", "62"]
    assert main(command) == 2
    assert "score.min_confidence: " in capsys.readouterr().err


def test_other_readers(tiny: Tiny, model: Model, tmp_path: Path) -> None:
    score(scorer(tiny, model), [tiny.data / "test.bson"], tmp_path)
    ours = predictions(tmp_path)
    parts = str(tmp_path / "part-*.parquet")
    duck = duckdb.sql(f"SELECT product_id, top_category_id[1] AS best, category_id FROM '{parts}' ORDER BY product_id").df()
    frame = polars.read_parquet(parts)
    assert (duck["best"] == duck["category_id"]).all() and len(duck) == len(ours)
    assert frame["product_id"].to_list() == ours["product_id"].tolist()
    assert frame.schema["confidence"] == polars.Float32 and frame.schema["top_category_id"] == polars.List(polars.Int64)
    assert frame["name"].null_count() == len(frame)


def test_a_labelled_dump_prints_its_accuracy(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["score", str(tiny.data / "train.bson"), "--run", str(tiny.folder), "--out", str(tmp_path)]
    assert main(command) == 0
    assert "top-1 of 600 labelled products: stage 1 ." in capsys.readouterr().out.replace("0.", ".")
