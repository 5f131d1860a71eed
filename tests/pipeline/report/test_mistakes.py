"""What mistakes cost, and which of them a merge would undo."""

from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.errors import ShelfsortError
from pipeline.report.mistakes import mean_costs, merges, read_costs
from tests.stage2_xgb.planted import taxonomy

TRUTH = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
ANSWER = [0, 1, 1, 0, 1, 0, 2, 2, 2, 2]


def items() -> pandas.DataFrame:
    answers = {f"{s}_class": ANSWER for s in ("stage1", "shifted", "two_stage")}
    answers["shifted_class"] = TRUTH
    columns = {"class_index": TRUTH, "group": np.arange(10), "weight": 1.0} | answers
    return pandas.DataFrame(columns)


def test_merges_by_hand():
    first, second = merges(items())
    assert (first["a"], first["b"], first["items"]) == (0, 1, 3)
    assert first["gain"]["value"] == pytest.approx(0.3)
    assert (second["a"], second["b"], second["items"]) == (0, 2, 1)
    assert first["gain"]["low"] < 0.3 < first["gain"]["high"]


def test_costs_by_hand(tmp_path: Path):
    """0 taken for 1 costs 4 and 1 for 0 nothing; 2 for 0 is not listed and costs 1."""
    path = tmp_path / "costs.csv"
    path.write_text("true,predicted,cost\n100,101,4\n101,100,0\n")
    costs = read_costs(path, taxonomy())
    found = mean_costs(costs, items())
    assert found["two_stage"]["value"] == pytest.approx(900)
    assert found["shifted"]["value"] == 0 and found["change"]["value"] == pytest.approx(900)
    assert found["pairs"] == [[0, 1, 8.0], [2, 0, 1.0]]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("100,7,1", "line 2: category_id 7 is not in the taxonomy"),
        ("100,101,-1", "line 2: cost -1, expected a number from 0 on"),
        ("100,101,dear", "line 2: as true, predicted and cost"),
    ],
)
def test_costs_that_will_not_do(row: str, problem: str, tmp_path: Path):
    path = tmp_path / "costs.csv"
    path.write_text(f"true,predicted,cost\n{row}\n")
    with pytest.raises(ShelfsortError, match=problem):
        read_costs(path, taxonomy())
