"""Training of the whole second stage on a planted problem: it finds what is there, nothing else,
and never looks at test."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from catalog.artifacts import sha256_file
from catalog.errors import ShelfsortError
from catalog.splits import SPLITS
from features.store import FeatureStore
from stage2_xgb.bundle import Bundle
from stage2_xgb.fit import JOURNAL
from stage2_xgb.gate import OWN, POOL, STAGE1
from stage2_xgb.inputs import _warn_of_shifts, prepare_stage2
from stage2_xgb.prior import Shift
from stage2_xgb.published import PUBLISHED
from stage2_xgb.refine import answer_with_all, refine
from stage2_xgb.tune import ROUNDS, search
from tests.moments import kill_at_moment
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import (
    CLASSES,
    CONFIG,
    PER_SPLIT,
    bundle_bytes,
    fit,
    images_of,
    make_head,
    make_rows,
    mixes,
    taxonomy,
    write,
    write_wide,
)

ROOT = Path(__file__).parents[2]


def gain(
    store: FeatureStore, bundle: Bundle, unit: str, answer: str | None = None
) -> tuple[float, float]:
    """Accuracy on test of the shifted stage 1, and what the second stage adds, or one answer
    everywhere."""
    images = images_of(store, "test")
    result = refine(bundle, images, unit)
    after = answer_with_all(bundle, images, unit)[1][answer] if answer else result.two_stage
    truth = result.pooled.class_index
    before, after = (float((x.argmax(axis=1) == truth).mean()) for x in (result.shifted, after))
    return before, after - before


@pytest.mark.parametrize("unit", ["image", "product"])
def test_gains_where_the_features_hold_the_answer(fitted: Fitted, unit: str) -> None:
    before, gained = gain(fitted.store, fitted.open(), unit)
    assert 0.5 < before < 0.75  # siblings confused, families not
    assert gained > 0.15
    for answer in (POOL, OWN):
        assert gain(fitted.store, fitted.open(), unit, answer)[1] > 0.12, answer


def test_every_sibling_pair_is_found(fitted: Fitted) -> None:
    members = fitted.open().members
    assert sorted(members) == list(range(CLASSES))
    assert all(set(s) >= {c, c ^ 1} for c, s in members.items())
    assert fitted.summary.sets == fitted.summary.models == CLASSES
    assert fitted.summary.mendable_share > 0.8
    assert fitted.summary.default == POOL


def test_reclassifiers_find_what_linear_experts_do_not(tmp_path: Path) -> None:
    rows = make_rows(answer=False, curved=True, per_split=(40, 40, 20, 40, 40))
    store = write(tmp_path / "features.h5", rows)
    config = CONFIG.model_copy(update={"components": None})
    summary = fit(store, tmp_path / "stage2", config)
    bundle = Bundle.open(tmp_path / "stage2")
    assert OWN in bundle.answers.values()
    for unit in ("image", "product"):
        pool, gated = (gain(store, bundle, unit, answer)[1] for answer in (POOL, None))
        assert gated > pool + 0.05
    assert summary.units["image"]["natural"]["own_share"] > 0.2


def test_gains_nothing_where_there_is_nothing_and_is_gated_out(hopeless: Fitted) -> None:
    bundle = hopeless.open()
    assert OWN not in bundle.answers.values()
    for unit in ("image", "product"):
        images = images_of(hopeless.store, "test")
        answers = answer_with_all(bundle, images, unit)[1]
        np.testing.assert_array_equal(refine(bundle, images, unit).two_stage, answers[POOL])
        assert abs(gain(hopeless.store, bundle, unit)[1]) < 0.05  # 279 images: a point is three
        assert gain(hopeless.store, bundle, unit, OWN)[1] < 0.03


def test_test_is_never_read(fitted: Fitted, tmp_path: Path) -> None:
    rows = make_rows()
    test = rows.table.split == 4
    rows.features[test] = np.nan
    rows.table.class_index[test] = 0
    rows.table.product_id[test] = 999_999_999
    fit(write(tmp_path / "features.h5", rows), tmp_path / "stage2")
    assert bundle_bytes(tmp_path / "stage2") == bundle_bytes(fitted.folder)


def test_a_marker_elsewhere_is_noticed(fitted: Fitted, tmp_path: Path) -> None:
    """What the test above compares would differ if any other split were touched."""
    for split in range(4):
        rows = make_rows()
        rows.features[np.flatnonzero(rows.table.split == split)[:30]] = 0
        fit(write(tmp_path / "features.h5", rows), tmp_path / f"stage2-{split}")
        assert bundle_bytes(tmp_path / f"stage2-{split}") != bundle_bytes(fitted.folder), split


def test_neither_blas_threads_nor_jobs_change_a_bit(tmp_path: Path) -> None:
    """At 2,000 x 512 BLAS does split its products. Boosters of worker processes included."""
    store = write_wide(tmp_path / "features.h5", make_rows(per_split=(50, 30, 24, 40, 4)), 512)
    assert len(store) > 2000
    few = {"n_estimators": 3}
    config = CONFIG.model_copy(
        update={
            "booster": CONFIG.booster.model_copy(update=few),
        }
    )
    bundles = {}
    for threads, jobs in ((1, 1), (2, 1), (2, 2)):
        folder = tmp_path / f"{threads}-{jobs}"
        with threadpool_limits(threads, user_api="blas"):
            fit(store, folder, config, jobs)
            blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
            assert set(blas) == {threads}  # as it was before
        bundles[threads, jobs] = bundle_bytes(folder)
    one = bundles.pop((1, 1))
    for name, other in bundles.items():
        assert {file for file in one if one[file] != other.get(file)} == set(), name
        assert one.keys() == other.keys()


_CHILD = """
import sys
from pathlib import Path
from features.store import FeatureStore
from tests.moments import Moment
from tests.stage2_xgb.planted import fit
with Moment(3, "_train_one").watched():
    fit(FeatureStore(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_killed_and_resumed_it_is_the_same(fitted: Fitted, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    command = [sys.executable, "-c", _CHILD, str(fitted.store.path), str(folder)]
    child = subprocess.Popen(command, cwd=ROOT)
    assert kill_at_moment(child)
    journal = folder / JOURNAL
    names = [line.split()[1] for line in journal.read_text().splitlines()]
    kept = {folder / name: (folder / name).stat().st_mtime_ns for name in names}
    assert kept and not (folder / "manifest.json").exists()
    fit(fitted.store, folder)
    assert all(
        path.stat().st_mtime_ns == mtime for path, mtime in kept.items()
    )  # not trained again
    left = bundle_bytes(folder)
    assert {name: data for name, data in left.items() if not name.endswith(".tmp")} == bundle_bytes(
        fitted.folder
    )


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "unknown"])
def test_a_model_that_was_damaged_before_the_run_went_on_is_trained_anew(
    fitted: Fitted, tmp_path: Path, fault: str
) -> None:
    """As an interrupted run leaves it; `unknown`: killed before the journal had the model."""
    folder = tmp_path / "stage2"
    shutil.copytree(fitted.folder, folder)
    (folder / "manifest.json").unlink()
    lines = [
        f"{sha256_file(path)}  boosters/{path.name}\n" for path in sorted(folder.glob("boosters/*"))
    ]
    (folder / JOURNAL).write_text("".join(lines[1:] if fault == "unknown" else lines))
    first, *others = sorted(folder.glob("boosters/0*"))
    whole, times = first.read_bytes(), {path: path.stat().st_mtime_ns for path in others}
    flipped = whole[:200] + bytes([whole[200] ^ 4]) + whole[201:]
    first.unlink()
    if fault != "missing":
        first.write_bytes({"flipped": flipped, "cut": whole[:-9], "unknown": whole}[fault])
    fit(fitted.store, folder)
    assert {path: path.stat().st_mtime_ns for path in others} == times
    assert bundle_bytes(folder) == bundle_bytes(fitted.folder)


def test_models_of_another_configuration_are_not_kept(fitted: Fitted, tmp_path: Path) -> None:
    folder = tmp_path / "stage2"
    other = CONFIG.model_copy(update={"seed": 5})
    fit(fitted.store, folder, other)
    (folder / "manifest.json").unlink()
    fit(fitted.store, folder)
    assert bundle_bytes(folder) == bundle_bytes(fitted.folder)


def test_the_gate_can_be_opened(hopeless: Fitted, tmp_path: Path) -> None:
    fit(hopeless.store, tmp_path, CONFIG.model_copy(update={"gate": False}))
    bundle = Bundle.open(tmp_path)
    assert set(bundle.answers.values()) == {OWN}


def test_the_summary_says_what_the_manifest_says(fitted: Fitted) -> None:
    saved = json.loads((fitted.folder / "summary.json").read_text())
    manifest = json.loads((fitted.folder / "manifest.json").read_text())
    decisions = [c["decision"] for c in manifest["categories"]]
    assert saved["answers"] == {name: decisions.count(name) for name in saved["answers"]}
    table = fitted.store.table
    val_b = fitted.store.of_split("val_b")
    assert saved["units"]["image"]["natural"]["items"] == val_b.stop - val_b.start
    assert (
        saved["units"]["product"]["natural"]["items"]
        == len(np.unique(table.product_id[val_b]))
        == CLASSES * PER_SPLIT[3]
    )
    unit = saved["units"]["image"]["natural"]
    assert (
        unit["gated"] - unit["stage1"]
        == pytest.approx((unit["fixed"] - unit["broken"]) / unit["items"])
        == unit["gain"]
    )
    assert (
        (fitted.folder / "summary.txt").read_text().startswith(f"stage 2: {CLASSES} confusion sets")
    )


@pytest.mark.parametrize("absent", ["val_a", "val_b"])
def test_a_catalogue_too_small_for_a_split(
    tmp_path: Path, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    counts = [6, 4, 2, 2, 2]
    counts[{"val_a": 2, "val_b": 3}[absent]] = 0
    store = write(tmp_path / "features.h5", make_rows(per_split=tuple(counts)))
    summary = fit(store, tmp_path / "stage2")
    bundle = Bundle.open(tmp_path / "stage2")
    if absent == "val_a":
        assert "val_a has no image" in caplog.text
        assert summary.shift["image"] == {"temperature": 1.0, "strength": 1.0}
        return
    assert bundle.default == POOL and OWN not in bundle.answers.values()
    assert "val_b has no image: stage 2 can't be judged" in summary.text()
    figures = json.loads((tmp_path / "stage2" / "summary.json").read_text())
    for mixes_of_unit in figures["units"].values():
        for row in mixes_of_unit.values():
            assert row.pop("items") == row.pop("fixed") == row.pop("broken") == 0
            assert set(row.values()) == {None}
    assert figures["mendable_share"] is None


@pytest.mark.parametrize(("unit", "absent"), [("product", "image"), ("image", "product")])
def test_a_shift_at_the_end_of_its_range_is_said(
    unit: str, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    ratio = np.zeros(2, np.float32)
    shifts = {unit: Shift(0.25, 0.7, ratio), absent: Shift(1.0, 1.0, ratio)}
    _warn_of_shifts(shifts, 12)
    (record,) = caplog.records
    expected = (
        f"class-mix shift of {unit}s: temperature 0.25 is at the "
        "end of its range, fitted on 12 images of val_a"
    )
    assert record.getMessage() == expected


def test_nothing_held_out_is_an_error(tmp_path: Path) -> None:
    store = write(tmp_path / "features.h5", make_rows(per_split=(6, 0, 0, 2, 2)))
    expected = (
        r"features\.h5: expected images of reserve or val_a, .* "
        r"found \d+ of train, 0 of reserve, 0 of val_a "
    )
    with pytest.raises(ShelfsortError, match=f"{expected}.*; ingest .* the step features again"):
        fit(store, tmp_path / "stage2")


@pytest.mark.parametrize("per_split", [(0, 0, 4, 2, 2), (4, 4, 0, 2, 2)])
def test_nothing_to_compare_with_is_an_error(tmp_path: Path, per_split: tuple[int, ...]) -> None:
    """Neither train nor reserve; or both, but none of their images is readable."""
    rows = make_rows(per_split=per_split)
    errors = dict.fromkeys(np.flatnonzero(rows.table.split < 2).tolist(), "undecodable")
    store = write(tmp_path / "features.h5", rows, errors=errors)
    with pytest.raises(
        ShelfsortError,
        match=r"expected images of train or reserve, .* found 0 of train, 0 of reserve",
    ):
        fit(store, tmp_path / "stage2")


def test_the_planted_problem_is_what_it_says() -> None:
    """The planted problem itself: the head confuses siblings only."""
    rows = make_rows()
    predicted = make_head().log_probs(rows.features).argmax(axis=1)
    assert (predicted // 2 == rows.table.class_index // 2).mean() > 0.95
    assert 0.55 < (predicted == rows.table.class_index).mean() < 0.7


def test_train_rows_are_all_learnt_from(fitted: Fitted) -> None:
    config = CONFIG.model_copy(update={"rows": "train"})
    inputs = prepare_stage2([fitted.store], mixes(fitted.store), taxonomy(), config, 1)
    rows = inputs.picker(config).rows(np.arange(CLASSES)[:2])
    table = fitted.store.table
    images = (table.class_index < 2) & (table.split == SPLITS.index("train"))
    assert len(rows.label) >= images.sum() > 2 * PER_SPLIT[0]


def test_without_the_pool_stage_1_is_what_reclassifiers_start_from(
    fitted: Fitted, tmp_path: Path
) -> None:
    summary = fit(fitted.store, tmp_path, CONFIG.model_copy(update={"pool": False}))
    bundle, images = Bundle.open(tmp_path), images_of(fitted.store, "test")
    assert bundle.pool is None and bundle.default == summary.default == STAGE1
    assert not summary.weights
    result, everywhere = (
        refine(bundle, images, "product"),
        answer_with_all(bundle, images, "product"),
    )
    own = np.isin(result.shifted.argmax(axis=1), [c for c, a in bundle.answers.items() if a == OWN])
    np.testing.assert_array_equal(result.refined, own)
    np.testing.assert_array_equal(everywhere[1][POOL], result.shifted)
    np.testing.assert_array_equal(result.two_stage[~own], result.shifted[~own])
    assert gain(fitted.store, bundle, "product", OWN)[1] > 0.1


def test_the_published_second_stage(fitted: Fitted, tmp_path: Path) -> None:
    """Features alone, of train's rows, everywhere."""
    fit(fitted.store, tmp_path, PUBLISHED)
    bundle = Bundle.open(tmp_path)
    assert bundle.pool is None and not bundle.base_margin
    assert set(bundle.answers.values()) == {OWN}
    assert gain(fitted.store, bundle, "image")[1] > 0.05


@pytest.mark.parametrize("base_margin", [True, False])
def test_the_grid_judges_what_it_trained(
    fitted: Fitted, base_margin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage2_xgb.tune.DEPTHS", (2,))
    monkeypatch.setattr("stage2_xgb.tune.RATES", (0.3,))
    config = CONFIG.model_copy(update={"base_margin": base_margin})
    inputs = prepare_stage2([fitted.store], mixes(fitted.store), taxonomy(), config, 1)
    trials = search(inputs.sets, inputs.picker(config), config, 1)
    assert len(trials) == len(ROUNDS) and trials[0].after > 0.7 * trials[0].items
