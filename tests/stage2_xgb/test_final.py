"""The last fit: the experts on every split, all else as it was evaluated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ArtifactError, ShelfsortError
from catalog.splits import SPLITS
from stage2_xgb.bundle import Bundle, model_name
from stage2_xgb.final import FOLDER, fit_final, open_final, refitted_on
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CONFIG, fit


@pytest.fixture(scope="module")
def evaluated(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a last fit."""
    folder = tmp_path_factory.mktemp("final") / "stage2"
    shutil.copytree(fitted.folder, folder)
    fit_final([fitted.store], Bundle.open(folder), CONFIG.seed, 1)
    return folder


def test_experts_know_every_split_and_all_else_stays(evaluated: Path, fitted: Fitted) -> None:
    before, final = Bundle.open(evaluated), open_final(evaluated)
    assert final is not None and before.pool is not None and final.pool is not None
    assert len(final.pool.neighbours.bank.product_id) == len(fitted.store.table)
    assert len(before.pool.neighbours.bank.product_id) < len(fitted.store.table)
    for old, new in zip(before.pool.linear, final.pool.linear, strict=True):
        assert new.inverse_temperature == old.inverse_temperature
        assert not np.array_equal(new.bias, old.bias)
    for unit, weights in before.pool.weights.items():
        np.testing.assert_array_equal(final.pool.weights[unit].plain, weights.plain)
    assert final.answers == before.answers and final.made_from == before.made_from
    name = model_name(0)
    assert (evaluated / FOLDER / name).read_bytes() == (evaluated / name).read_bytes()
    final.verify()


def test_it_says_what_it_knows(evaluated: Path, fitted: Fitted) -> None:
    final = open_final(evaluated)
    assert final is not None and final.final is not None
    table = fitted.store.table
    sizes = np.bincount(table.split, minlength=len(SPLITS)).tolist()
    assert final.final["images"] == dict(zip(SPLITS, sizes, strict=True))
    said = refitted_on(final)
    assert said is not None and f"all {len(table)} labelled images (train {sizes[0]}, " in said
    assert refitted_on(Bundle.open(evaluated)) is None


def test_the_number_of_threads_changes_nothing(evaluated: Path, fitted: Fitted) -> None:
    first = (evaluated / FOLDER / "manifest.json").read_bytes()
    fit_final([fitted.store], Bundle.open(evaluated), CONFIG.seed, 2)
    assert (evaluated / FOLDER / "manifest.json").read_bytes() == first


def test_the_last_fit_of_another_stage_2_is_refused(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    shutil.copytree(evaluated, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=3))
    with pytest.raises(ArtifactError, match="made from another stage 2 than is there now"):
        open_final(folder)


def test_training_again_removes_it(evaluated: Path, fitted: Fitted, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    shutil.copytree(evaluated, folder)
    fit(fitted.store, folder)
    assert open_final(folder) is None and not (folder / FOLDER).exists()


def test_without_a_pool_there_is_nothing_to_fit(fitted: Fitted, tmp_path: Path) -> None:
    fit(fitted.store, tmp_path, CONFIG.model_copy(update={"pool": False}))
    with pytest.raises(ShelfsortError, match=r"stage2.pool is off; .*--set stage2.pool=true"):
        fit_final([fitted.store], Bundle.open(tmp_path), 0, 1)
