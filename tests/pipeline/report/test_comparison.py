"""Two runs item by item."""

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.artifacts import read_sealed, sha256_file, write_sealed
from pipeline.report.comparison import compare_runs
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.run_folder import RunFolder
from tests.pipeline.evaluation_maker import make_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_run(tmp_path_factory.mktemp("runs") / "small")


def with_items(run: Path, folder: Path, items: pandas.DataFrame) -> EvaluatedRun:
    """A copy of a run with other items."""
    shutil.copytree(run, folder)
    items.to_parquet(folder / "evaluation" / "items.parquet")
    metrics = read_sealed(folder / "evaluation" / "metrics.json", "")
    if "files" in metrics:
        metrics["files"]["items.parquet"] = sha256_file(folder / "evaluation" / "items.parquet")
        write_sealed(folder / "evaluation" / "metrics.json", metrics)
    return EvaluatedRun(RunFolder(folder))


def test_categories_rank_by_what_chance_explains_least(run: Path, tmp_path: Path):
    """The other run gets every product of the largest category right and one of another wrong: the
    first is surely better and stands before the second, whose share moved more."""
    items = pandas.read_parquet(run / "evaluation" / "items.parquet")
    product = items["unit"] == "product"
    truth = items["class_index"]
    first = items.assign(two_stage_class=truth)
    sizes = truth[product].value_counts()
    large, small = sizes.index[0], sizes.index[-1]
    first.loc[product & (truth == large), "two_stage_class"] = (large + 1) % 50
    other = items.assign(two_stage_class=truth)
    lost = items.index[product & (truth == small)][:1]
    other.loc[lost, "two_stage_class"] = (small + 1) % 50
    found = compare_runs(
        with_items(run, tmp_path / "first", first),
        with_items(run, tmp_path / "other", other),
        "product",
    )
    assert found.figures["common"] == product.sum()
    assert found.gained[large] == sizes[large] and found.gained.sum() == sizes[large]
    assert found.lost[small] == found.lost.sum() == 1
    assert found.chance[large] < found.chance[small] == 1.0
    assert np.isnan(np.delete(found.chance, [large, small])).all()
    assert found.figures["categories"]["better"] == [large]
    assert found.figures["categories"]["worse"] == []
    assert found.figures["change"]["value"] > 0
