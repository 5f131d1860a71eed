"""The bundle on disk: what was trained is what opens, and what is damaged is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.errors import ArtifactError
from stage2_xgb.bundle import SCHEMA, Bundle
from stage2_xgb.refine import refine
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import CLASSES, MADE_FROM, images_of, taxonomy
from tests.stage2_xgb.treeless import seal


@pytest.fixture
def folder(fitted: Fitted, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    shutil.copytree(fitted.folder, tmp_path / "stage2")
    return tmp_path / "stage2"


def flip(path: Path, place: int) -> None:
    """Flips one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(data)


def test_manifest_and_tables_agree(fitted: Fitted) -> None:
    manifest = json.loads((fitted.folder / "manifest.json").read_text())
    sets = pandas.read_parquet(fitted.folder / "sets.parquet")
    assert manifest["made_from"]["views"] == MADE_FROM["views"]
    assert (
        [c["category_id"] for c in manifest["categories"]]
        == sets["category_id"].tolist()
        == taxonomy().category_ids.tolist()
    )
    for category, members, counts, errors in zip(
        manifest["categories"], sets["members"], sets["member_counts"], sets["errors"], strict=True
    ):
        assert (
            category["members"] == members.tolist()
            and len(counts) == len(members)
            and counts[1:].sum() <= errors
        )
    expected = {
        "shared.npz",
        "sets.parquet",
        "judged.parquet",
        "products.npz",
        *(f"boosters/{c:05d}.ubj" for c in range(CLASSES)),
    }
    assert set(manifest["files"]) == expected


def test_opens_lazily(fitted: Fitted, folder: Path) -> None:
    shutil.rmtree(folder / "boosters")
    bundle = Bundle.open(folder)
    assert not bundle.broken and bundle.made_from == fitted.open().made_from
    assert bundle.reclassifier(3) is None and list(bundle.broken) == ["boosters/00003.ubj"]


@pytest.mark.parametrize("damage", ["missing", "emptied", "cut", "flipped", "another's"])
def test_a_broken_booster_leaves_its_category_to_others(
    fitted: Fitted, folder: Path, damage: str, caplog
) -> None:
    path = folder / "boosters" / "00002.ubj"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        flip(path, len(data) // 2)
    else:
        other = (folder / "boosters" / "00001.ubj").read_bytes()
        path.write_bytes(
            {"emptied": b"", "cut": data[: len(data) // 2], "another's": other}[damage]
        )
    bundle = Bundle.open(folder)
    bundle = replace(bundle, answers=dict.fromkeys(bundle.members, "own"))
    images = images_of(fitted.store, "test")
    result, pool = refine(bundle, images, "image"), bundle.pool.log_probs(images, "image")
    mine = pool.argmax(axis=1) == 2
    assert list(bundle.broken) == ["boosters/00002.ubj"]
    assert (
        str(path) in bundle.broken["boosters/00002.ubj"]
        and "step stage2" in bundle.broken["boosters/00002.ubj"]
    )
    assert "the pool answers where boosters/00002.ubj would" in caplog.text
    assert mine.any() and result.refined.all()
    np.testing.assert_array_equal(result.two_stage[mine], pool[mine])
    assert (result.two_stage[~mine] != pool[~mine]).any()


def test_a_booster_that_verifies_but_does_not_load(folder: Path) -> None:
    name = "boosters/00001.ubj"
    (folder / name).write_bytes(b"not a model")
    seal(folder)
    bundle = Bundle.open(folder)
    assert bundle.reclassifier(1) is None and list(bundle.broken) == [name]


@pytest.mark.parametrize("name", ["pool_linear_0_bias", "log_ratio_image", "components_0"])
def test_a_lost_array_is_refused(folder: Path, name: str) -> None:
    path = folder / "shared.npz"
    with np.load(path) as file:
        arrays = dict(file)
    del arrays[name]
    np.savez(path, **arrays)
    seal(folder)
    lacking = name.removeprefix("pool_")
    with pytest.raises(ArtifactError, match=rf"shared\.npz: lacks an array: '{lacking}'"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["manifest.json", "shared.npz"])
@pytest.mark.parametrize("damage", ["missing", "emptied", "cut", "flipped"])
def test_damaged_shared_files_are_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        flip(path, len(data) // 2)
    else:
        path.write_bytes(b"" if damage == "emptied" else data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=rf"{name}: .*step stage2") as caught:
        Bundle.open(folder)
    assert str(path) in str(caught.value)


def test_every_bit_of_the_manifest_counts(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        if whole[place : place + 1].isspace():
            continue  # white space is no content
        flip(path, place)
        with pytest.raises(ArtifactError):
            Bundle.open(folder)
        path.write_bytes(whole)
    Bundle.open(folder)


def test_another_schema_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(ArtifactError, match=f"of schema 2, expected {SCHEMA}"):
        Bundle.open(folder)
