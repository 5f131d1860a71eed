"""The only inference path: files, dumps and the stored features give the same answer."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from catalog.errors import ArtifactError, ShelfsortError
from pipeline import steps
from pipeline.model import TwoStageModel, image_table, predict_files, top_classes
from stage2_xgb.dataset import Views
from stage2_xgb.items import pool
from tests.conftest import document, write_bson
from tests.pipeline.score_helpers import predictions, rejects, score, scorer
from tests.pipeline.tiny import Tiny, documents, products_of, same, write_dump


@pytest.fixture
def photos(tiny: Tiny, tmp_path: Path) -> list[Path]:
    """The photos of one product with several."""
    product = next(d for d in documents(tiny.data / "test.bson") if len(d["imgs"]) >= 3)
    paths = [tmp_path / f"{i}.jpg" for i in range(len(product["imgs"]))]
    for path, image in zip(paths, product["imgs"], strict=True):
        path.write_bytes(image["picture"])
    return paths


def test_top_classes() -> None:
    log_probs = np.log(np.array([[0.1, 0.4, 0.4, 0.1], [0.7, 0.1, 0.1, 0.1]], np.float32))
    classes, confidences = top_classes(log_probs, 3)
    assert classes.tolist() == [[1, 2, 0], [0, 1, 2]]  # equal ones by class index
    np.testing.assert_allclose(confidences, [[0.4, 0.4, 0.1], [0.7, 0.1, 0.1]], rtol=1e-6)
    assert top_classes(log_probs, 9)[0].shape == (2, 4)


def test_a_products_photos_are_pooled(model: TwoStageModel, photos: list[Path]) -> None:
    answer = predict_files(model, photos, 8)
    alone = [predict_files(model, [path], 8) for path in photos]
    assert sum(answer.confidences) == pytest.approx(1, abs=1e-4) and not answer.unreadable
    assert len({tuple(a.confidences) for a in alone}) == len(photos)
    table = image_table(np.arange(len(photos)), np.full(len(photos), -1))
    images, _, _ = model.read([path.read_bytes() for path in photos], table, batch_size=2)
    assert len(pool(images)) == 1
    mean = np.mean([x.astype(np.float64) for x in images.log_probs], axis=0)
    assert answer.stage1_class == mean.argmax()


def test_the_stored_features_are_what_the_network_gives(tiny: Tiny, model: TwoStageModel) -> None:
    (stored,) = Views([tiny.run.view(name).features for name in ("stage1", "small")]).blocks(
        "test", fit_only=False
    )
    store = tiny.run.store
    table = store.images("test")
    read, errors, blank = model.read(store.read(table.image_id), table, batch_size=13)
    assert not errors and not blank.any()
    np.testing.assert_array_equal(read.item_id, stored.item_id)
    for unit in ("image", "product"):
        mine, theirs = model.answer(read, unit).two_stage, model.answer(stored, unit).two_stage
        assert same(mine.argmax(axis=1), theirs.argmax(axis=1)) >= 0.98
        assert (
            np.quantile(np.abs(np.exp(mine) - np.exp(theirs)).max(axis=1), 0.97) < 0.01
        )  # other batches round otherwise


def test_blank_photos_do_not_count_beside_others(
    tiny: Tiny, model: TwoStageModel, photos: list[Path], tmp_path: Path
) -> None:
    blank = tmp_path / "white.png"
    Image.new("RGB", (32, 32), "white").save(blank)
    expected, found = predict_files(model, photos, 8), predict_files(model, [blank, *photos], 8)
    assert found.unreadable == {
        str(blank): "blank: shows nothing, and the product has other photos"
    }
    assert found.classes == expected.classes
    np.testing.assert_allclose(found.confidences, expected.confidences, atol=1e-3)
    assert not predict_files(model, [blank, blank], 8).unreadable  # there is nothing better
    write_bson(
        tmp_path / "d.bson",
        [document(1, images=[blank.read_bytes(), *(path.read_bytes() for path in photos)])],
    )
    score(scorer(tiny, model), [tmp_path / "d.bson"], tmp_path)
    assert rejects(tmp_path)[["position", "reason"]].to_numpy().tolist() == [[0, "blank"]]
    assert predictions(tmp_path)["n_images"].tolist() == [len(photos)]


def test_blank_photos_count_where_the_data_had_them(
    tiny: Tiny, photos: list[Path], tmp_path: Path
) -> None:
    own, blank = tiny.copy(tmp_path / "run"), tmp_path / "white.png"
    Image.new("RGB", (32, 32), "white").save(blank)
    with closing(sqlite3.connect(own.folder / "store.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE meta SET value = json_set(value, '$.drop_blank', json('false')) "
            "WHERE key = 'settings'"
        )
    with pytest.raises(ArtifactError, match=r"drop_blank was None, is now False"):
        steps.stage2(own.run, own.config, rebuild=False)
    steps.stage2(own.run, own.config, rebuild=True)
    assert not predict_files(
        TwoStageModel.open(own.run, "cpu", "fp32"), [blank, *photos], 8
    ).unreadable


def test_unreadable_files_are_left_out(
    model: TwoStageModel, photos: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(photos[0].read_bytes()[:30])
    answer = predict_files(model, [bad, *photos], 3)
    assert list(answer.unreadable) == [str(bad)]
    assert answer.classes == predict_files(model, photos, 3).classes
    with pytest.raises(ShelfsortError, match=r"bad\.jpg: "):
        predict_files(model, [bad], 3)
    with pytest.raises(ShelfsortError, match=r"none\.jpg: can't be read: No such file"):
        predict_files(model, [tmp_path / "none.jpg"], 3)
    with pytest.raises(ShelfsortError, match="can't be read: Is a directory"):
        predict_files(model, [tmp_path], 3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_product_id_changes_no_answer(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path, split: str
) -> None:
    """The same photos under their own ids, under those of other products of the bank, and without:
    one answer, as the id of another shop's product means nothing."""
    own = sorted(products_of(tiny.run, split))[:40]
    others = dict(zip(own, sorted(products_of(tiny.run, "train"))[-len(own) :], strict=True))

    def rename(document: dict) -> None:
        document["_id"] = others[document["_id"]]

    answers = []
    for name, change in (("own", lambda d: None), ("others", rename)):
        write_dump(
            tmp_path / f"{name}.bson", tiny.data / "train.bson", lambda d: d["_id"] in own, change
        )
        score(scorer(tiny, model), [tmp_path / f"{name}.bson"], tmp_path / name)
        answers.append(predictions(tmp_path / name).drop(columns="product_id"))
    pandas.testing.assert_frame_equal(*answers)
    without = []
    for product in documents(tmp_path / "own.bson"):
        paths = [tmp_path / f"{place}.jpg" for place in range(len(product["imgs"]))]
        for path, image in zip(paths, product["imgs"], strict=True):
            path.write_bytes(image["picture"])
        without.append(predict_files(model, paths, 1))
    assert (
        same(
            answers[0]["category_id"], model.taxonomy.category_ids[[a.classes[0] for a in without]]
        )
        >= 0.95
    )
    apart = answers[0]["confidence"] - np.array([a.confidences[0] for a in without])
    # other batches round differently, and features of hardly trained networks are nearly constant,
    # so that discriminants weigh their last bits; 289 products of real photos: at most 5e-5 apart
    assert np.quantile(np.abs(apart), 0.9) < 1e-2


def test_a_model_of_other_parts_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "run")
    best = copy.folder / "views" / "small" / "stage1" / "best.pt"
    best.unlink()
    with pytest.raises(ArtifactError, match=r"best\.pt: no such file"):
        TwoStageModel.open(copy.run)
    best.write_bytes((tiny.folder / "stage1" / "best.pt").read_bytes())
    with pytest.raises(
        ArtifactError,
        match=r"stage2: view small is another one now: checkpoint was .*step stage2",
    ):
        TwoStageModel.open(copy.run)
