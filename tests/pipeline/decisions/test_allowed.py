"""The table of allowed categories: what it allows, and its faults."""

from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ShelfsortError
from catalog.image_table import MAX_PRODUCT_ID
from catalog.taxonomy import Taxonomy
from pipeline.decisions.allowed import Allowed

TAXONOMY = Taxonomy.from_ids([100, 200, 300])


def test_who_may_be_what(tmp_path: Path) -> None:
    path = tmp_path / "allowed.csv"
    path.write_text(f"_id,category_id\n5,100\n5,300\n{MAX_PRODUCT_ID},200\n")
    allowed = Allowed.read(path, TAXONOMY)
    found = allowed.mask(np.array([5, MAX_PRODUCT_ID, 6]), np.tile([0, 1, 2], (3, 1)))
    assert found.tolist() == [[True, False, True], [False, True, False], [True] * 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_id,category_id\n5,101\n", "category_id 101 is not in the taxonomy"),
        ("_id,category_id\n5,100\n1.0,100\n", "line 3: as product id and category_id: "),
        ("_id,category\n5,100\n", "line 1: .*category_id"),
        ("_id,category_id\n5,-1\n", "line 2: as product id and category_id: "),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "allowed.csv"
    path.write_text(text)
    with pytest.raises(ShelfsortError, match=said):
        Allowed.read(path, TAXONOMY)
    with pytest.raises(ShelfsortError, match=r"none\.csv"):
        Allowed.read(tmp_path / "none.csv", TAXONOMY)
