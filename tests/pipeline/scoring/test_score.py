"""Batch scoring: every product is accounted for, whatever the dump holds; finished parts are kept,
damaged ones made again."""

import csv
import json
from pathlib import Path

import bson
import h5py
import numpy as np
import pandas
import pytest

from catalog.artifacts import read_sealed, write_sealed
from catalog.errors import ArtifactError
from catalog.sources.source import open_source
from pipeline import steps
from pipeline.model import TwoStageModel
from pipeline.scoring.lanes import Lanes, Task
from pipeline.scoring.predictions import Decider
from pipeline.scoring.score import Totals
from stage2_xgb.dataset import Views
from tests.pipeline.score_helpers import (
    CONFIG,
    FALLBACK,
    Frames,
    assert_the_others_stand,
    flip,
    padded_dump,
    predictions,
    rejects,
    score,
    scorer,
)
from tests.pipeline.tiny import Tiny, documents, products_of, same, write_dump


@pytest.fixture(scope="module")
def scored(
    tiny: Tiny, model: TwoStageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Totals]:
    """A dump in several parts, its predictions, and the totals. Only to be read."""
    folder = tmp_path_factory.mktemp("score")
    dump, out = padded_dump(tiny, folder / "test.bson"), folder / "out"
    return dump, out, score(scorer(tiny, model), [dump], out, CONFIG)


def test_every_product_has_a_prediction(tiny: Tiny, scored: tuple[Path, Path, Totals]) -> None:
    dump, out, totals = scored
    table, ids = predictions(out), [d["_id"] for d in documents(dump)]
    assert table["product_id"].tolist() == ids
    assert (totals.products, totals.predictions, totals.rejected_products) == (150, 150, 0)
    assert len(list(out.glob("part-*.parquet"))) >= 3
    left_out = rejects(out).set_index("product_id")["reason"]
    assert set(left_out) <= {"blank"} and totals.images == table["n_images"].sum()
    assert table["n_images"].tolist() == [
        len(d["imgs"]) - (left_out.index == d["_id"]).sum() for d in documents(dump)
    ]
    taxonomy = tiny.run.store.taxonomy
    index = taxonomy.class_index(table["category_id"].to_numpy())
    for level in ("level1", "level2", "level3"):
        assert table[level].tolist() == [getattr(taxonomy[i], level) for i in index]
    top = np.array(table["top_category_id"].tolist())
    confidence = np.array(table["top_confidence"].tolist())
    assert top.shape == (150, 5) and (np.diff(confidence, axis=1) <= 0).all()
    np.testing.assert_array_equal(top[:, 0], table["category_id"])
    np.testing.assert_array_equal(confidence[:, 0], table["confidence"].astype(float))
    success = json.loads((out / "_SUCCESS").read_text())
    assert success["products"] == success["predictions"] == 150


def test_it_beats_chance(tiny: Tiny, scored: tuple[Path, Path, Totals]) -> None:
    labels = pandas.read_csv(tiny.data / "test_labels.csv").set_index("_id")["category_id"]
    table = predictions(scored[1])
    assert same(table["category_id"], labels[table["product_id"]]) > 0.3


def test_a_second_call_skips_finished_parts_and_remakes_damaged_ones(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, whole, totals = scored
    out = tmp_path / "out"
    score(scorer(tiny, model), [dump], out, CONFIG)

    def times() -> dict[str, int]:
        return {
            p.name: p.stat().st_mtime_ns
            for p in out.glob("*-0*")
            if p.match("part-*.json") or not p.match("part-*")
        }

    before = times()
    assert score(scorer(tiny, model), [dump], out, CONFIG) == totals and times() == before
    flip(out / "opinions-00001.parquet")
    flip(out / "part-00003.parquet")  # is decided again anyway
    (out / "rejects-00000.parquet").unlink()
    sidecar = out / "part-00002.json"
    sidecar.write_text(sidecar.read_text().replace('"predictions": ', '"predictions": 1'))
    damaged = times()
    assert score(scorer(tiny, model), [dump], out, CONFIG) == totals
    after = times()
    changed = {
        name.split(".")[0].split("-")[1] for name in after if after[name] != damaged.get(name)
    }
    assert changed == {"00000", "00001", "00002"}
    assert all(
        after[name] == before[name] for name in after if name.split(".")[0].endswith("00003")
    )
    pandas.testing.assert_frame_equal(predictions(out), predictions(whole))


def test_an_unfinished_scoring_goes_on(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, whole, totals = scored
    for name in (
        "opinions-00000.parquet",
        "rejects-00000.parquet",
        "part-00000.json",
        "opinions-00001.parquet",
    ):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    assert score(scorer(tiny, model), [dump], tmp_path, CONFIG) == totals
    pandas.testing.assert_frame_equal(predictions(tmp_path), predictions(whole))


@pytest.mark.parametrize("changed", ["checkpoint", "stage2"])
def test_parts_of_another_model_are_refused(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, Path, Totals], changed: str
) -> None:
    dump, out, _ = scored
    with pytest.raises(
        ArtifactError,
        match=rf"part-00000\.json: made from something else: {changed} was '.', is now 'new'",
    ):
        score(scorer(tiny, model, **{changed: "new"}), [dump], out, CONFIG)
    score(scorer(tiny, model), [dump], out, CONFIG)  # what was there is still good


def test_parts_of_another_dump_are_refused(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    write_dump(tmp_path / "other.bson", tiny.data / "test.bson", lambda d: d["_id"] % 2 == 0)
    with pytest.raises(ArtifactError, match="made from something else: dump was"):
        score(scorer(tiny, model), [tmp_path / "other.bson"], scored[1], CONFIG)
    score(scorer(tiny, model), [scored[0]], scored[1], CONFIG)


def test_bad_documents_and_images_are_counted_and_named(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    good = [d for d in documents(tiny.data / "test.bson") if len(d["imgs"]) == 2][:6]
    picture = good[0]["imgs"][0]["picture"]
    corrupt = bytearray(bson.encode({"_id": 900_001, "imgs": [{"picture": picture}]}))
    corrupt[4] = 0x7F  # a type that BSON has not
    planted = [
        *good,
        bytes(corrupt),
        {"_id": 900_002, "imgs": []},
        {"_id": 1.5, "imgs": [{"picture": picture}]},
        {"_id": 900_003, "imgs": [{"picture": b"text"}, {"picture": b""}, {}]},
        {"_id": 900_004, "imgs": [{"picture": picture[:40]}, {"picture": picture}]},
        {"_id": good[0]["_id"], "imgs": good[1]["imgs"]},
        {"_id": 900_005, "imgs": [{"picture": picture}]},
    ]
    dump, out = tmp_path / "bad.bson", tmp_path / "out"
    dump.write_bytes(
        b"".join(d if isinstance(d, bytes) else bson.encode(d) for d in planted)
        + b"\x50\x00\x00\x00cut"
    )
    totals = score(scorer(tiny, model), [dump], out, CONFIG)
    found, answers = rejects(out), predictions(out)
    assert (
        totals.products == len(planted) + 1
        and totals.products == totals.predictions + totals.rejected_products
    )
    assert sorted(answers["product_id"]) == sorted([d["_id"] for d in good] + [900_004, 900_005])
    assert answers.set_index("product_id")["n_images"].loc[[900_004, 900_005]].tolist() == [1, 1]
    whole = found[found["position"] == -1]
    assert len(whole) == totals.rejected_products == 6
    reasons = dict(zip(whole["product_id"], whole["reason"], strict=True))
    assert (
        reasons[900_003] == "no_readable_image"
        and reasons[good[0]["_id"]] == "duplicate_product"
        and reasons[900_002] == "no_images"
    )
    assert {"corrupt", "bad_product_id", "truncated"} <= set(whole["reason"])
    assert totals.reasons == whole["reason"].value_counts().to_dict()
    single = found[found["position"] >= 0]
    assert sorted(zip(single["product_id"], single["position"], strict=True)) == [
        (900_003, 0),
        (900_003, 1),
        (900_003, 2),
        (900_004, 0),
    ]
    assert totals.rejected_images == 4 and single["detail"].str.len().gt(0).all()
    with open(out / "kaggle.csv", newline="") as file:
        header, *rows = csv.reader(file)
    kaggle = {int(a): int(b) for a, b in rows}
    assert header == ["_id", "category_id"] and len(kaggle) == len(rows)  # every product once
    assert set(kaggle) == {d["_id"] for d in good} | {900_002, 900_003, 900_004, 900_005}
    assert kaggle[900_003] == kaggle[900_002] == FALLBACK
    assert kaggle[900_004] == answers.set_index("product_id").loc[900_004, "category_id"]


def test_labels_in_the_dump_change_nothing(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    ids = [d["_id"] for d in documents(tiny.data / "train.bson")][:40]

    def hide(document: dict) -> None:
        document["category_id"] = 7

    found = []
    for name, change in (
        ("labelled", lambda d: None),
        ("wrong", hide),
        ("hidden", lambda d: d.pop("category_id")),
    ):
        write_dump(
            tmp_path / f"{name}.bson", tiny.data / "train.bson", lambda d: d["_id"] in ids, change
        )
        score(scorer(tiny, model), [tmp_path / f"{name}.bson"], tmp_path / name, CONFIG)
        found.append(predictions(tmp_path / name))
    pandas.testing.assert_frame_equal(found[0], found[1])
    pandas.testing.assert_frame_equal(found[0], found[2])


@pytest.mark.parametrize("split", ["test", "train"])
def test_scoring_gives_what_the_stored_features_give(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path, split: str
) -> None:
    """A dump with the products of a split, those in the neighbour bank among them."""
    run, out = tiny.run, tmp_path / "out"
    wanted = products_of(run, split)
    count = write_dump(
        tmp_path / "dump.bson", tiny.data / "train.bson", lambda d: d["_id"] in wanted
    )
    totals = score(scorer(tiny, model), [tmp_path / "dump.bson"], out, CONFIG)
    table = predictions(out).set_index("product_id")
    assert totals.predictions == count == len(wanted)
    assert totals.known_images == totals.images  # all of them stand in the store
    (images,) = Views([run.view(name).features for name in ("stage1", "small")]).blocks(
        split, fit_only=False
    )
    answered = model.answer(images, "product")
    pooled = answered.pooled
    use = np.isin(pooled.product_id, list(wanted))
    result = answered.two_stage[use]
    table = table.loc[pooled.product_id[use]]
    assert same(model.taxonomy.category_ids[result.argmax(axis=1)], table["category_id"]) >= 0.98
    assert np.quantile(np.abs(np.exp(result.max(axis=1)) - table["confidence"]), 0.98) < 0.01
    if split == "test":
        items = (
            pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
            .query("unit == 'product'")
            .set_index("item_id")
        )
        items = items.loc[table.index]
        assert (
            same(model.taxonomy.category_ids[items["two_stage_class"]], table["category_id"])
            >= 0.98
        )
        assert same(items["refined"], table["answered_by"] != "stage1") >= 0.98


def test_another_device_is_said_with_its_agreement(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tiny.copy(tmp_path / "run")
    run, config, dump = copy.run, copy.config, str(copy.data / "test.bson")
    steps.score(run, config, [dump], tmp_path / "same")
    assert not caplog.text
    with h5py.File(run.features_path, "r+") as file:
        made = json.loads(file.attrs["computed_with"]) | {"device": "NVIDIA H100"}
        file.attrs["computed_with"] = json.dumps(made)
    manifest = read_sealed(run.stage2 / "manifest.json", "")
    manifest["made_from"]["computed_with"]["stage1"] = made
    write_sealed(run.stage2 / "manifest.json", manifest)
    steps.score(run, config, [dump], tmp_path / "other")
    assert (
        "(device was 'NVIDIA H100', is now 'cpu'): of " in caplog.text
        and "get the same category" in caplog.text
    )


def test_features_of_the_products(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, plain, totals = scored
    config = CONFIG.model_copy(update={"features": True})
    with pytest.raises(ArtifactError, match="features was False, is now True"):
        score(scorer(tiny, model), [dump], plain, config)
    score(scorer(tiny, model), [dump], plain, CONFIG)
    assert score(scorer(tiny, model), [dump], tmp_path, config) == totals
    table, found = (
        predictions(tmp_path),
        pandas.concat(map(pandas.read_parquet, sorted(tmp_path.glob("features-*.parquet")))),
    )
    pandas.testing.assert_frame_equal(table, predictions(plain))
    assert found["product_id"].tolist() == table["product_id"].tolist()
    single = np.array([len(d["imgs"]) == 1 for d in documents(dump)])
    images = [d["imgs"][0]["picture"] for d in documents(dump) if len(d["imgs"]) == 1]
    expected = model.features(images, np.arange(len(images)))[0][0].astype(np.float32)
    np.testing.assert_allclose(
        np.stack(found["features"].to_numpy()[single]), expected, rtol=2e-3, atol=1e-3
    )
    damaged = tmp_path / "features-00001.parquet"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1])
    assert (
        score(scorer(tiny, model), [dump], tmp_path, config) == totals
        and damaged.read_bytes() == good
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_that_are_left_out_leave_the_others_as_they_were(
    tiny: Tiny, tmp_path: Path, precision: str
) -> None:
    """Those that killed their workers, as pipeline.scoring.workers has them."""
    source = open_source([tiny.data / "test.bson"], tmp_path)
    engine, repeated = (
        Lanes(TwoStageModel.open(tiny.run, "cpu", precision), 1),
        np.zeros(len(source), dtype=bool),
    )
    config = CONFIG.model_copy(update={"features": True})
    even = np.ones(len(tiny.run.store.taxonomy))
    decider = Decider(tiny.run.store.taxonomy, even, even)

    def answers(deadly: set[int]) -> Frames:
        part = next(engine([Task(0, source, repeated, ~repeated, frozenset(deadly))], config))
        return decider.predictions(part.opinions, 5).to_pandas(), part.features.to_pandas()

    whole = answers(set())
    for deadly in ({0}, {3, 60}, set(range(10, 20)), set(range(0, 150, 3))):
        assert_the_others_stand(whole, answers(deadly), without=source.product_id[list(deadly)])
