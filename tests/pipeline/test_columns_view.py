"""Catalogue columns as a view, from ingest to the predictions of another dump."""

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas
import pytest
from PIL import Image

from catalog.artifacts import read_sealed
from catalog.errors import ConfigError, ShelfsortError
from catalog.images import decode
from catalog.synthetic.attributes import ATTRIBUTES
from features.columns import MISSING, ColumnEncoder
from pipeline import steps
from pipeline.cli import main
from pipeline.config import ColumnsView, load_config
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, predict_files
from pipeline.views import columns_view
from tests.pipeline.score_helpers import contents, predictions
from tests.pipeline.tiny import ONE_VIEW, Tiny, documents, make, write_dump

SETTINGS = (*ONE_VIEW, "catalog.columns=[price,material,colour]")
COLUMNS = "views.columns={table: store}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Products with columns, which nobody reads. Only to be read."""
    return make(tmp_path_factory.mktemp("plain"), SETTINGS, products=1200, columns=True)


def with_columns(plain: Tiny, folder: Path, setting: str = COLUMNS) -> Tiny:
    """A copy whose stage 2 reads them."""
    copy = plain.copy(folder)
    config = load_config(copy.folder / "config.yaml", [setting])
    for step in (steps.features, steps.stage2, steps.evaluate):
        step(copy.run, config, rebuild=step is not steps.features)
    copy.run.save_config(config)
    return copy


@pytest.fixture(scope="module")
def columned(plain: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with the view. Only to be read."""
    return with_columns(plain, tmp_path_factory.mktemp("columned") / "run")


@pytest.fixture(scope="module")
def model(columned: Tiny) -> TwoStageModel:
    """The model that reads columns."""
    return TwoStageModel.open(columned.run, "cpu", "fp32", "torch")


@pytest.fixture(scope="module")
def attributes(plain: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The columns of both dumps as a table."""
    path = tmp_path_factory.mktemp("table") / "attributes.csv"
    every = [d for name in ("train", "test") for d in documents(plain.data / f"{name}.bson")]
    rows = [{"_id": d["_id"]} | {name: d.get(name) for name in ATTRIBUTES} for d in every]
    pandas.DataFrame(rows).to_csv(path, index=False)
    return path


def accuracy(tiny: Tiny) -> float:
    """Of both stages on the test split's products."""
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
    items = items[items["unit"] == "product"]
    return float((items["two_stage_class"] == items["class_index"]).mean())


def scored(tiny: Tiny, out: Path, *options: str) -> pandas.DataFrame:
    """The predictions of the test dump."""
    command = tiny.scoring(out)
    assert main([*command, *options]) == 0
    return predictions(out).set_index("product_id")["category_id"]


def right(tiny: Tiny, found: pandas.Series) -> float:
    """Share of the predictions that are right."""
    labels = pandas.read_csv(tiny.data / "test_labels.csv").set_index("_id")["category_id"]
    return float((found == labels[found.index]).mean())


def test_stage_2_gains_by_the_columns(plain: Tiny, columned: Tiny) -> None:
    assert accuracy(columned) > accuracy(plain) + 0.05
    weights = read_sealed(columned.run.stage2 / "manifest.json", "stage2")["columns"]
    assert len(weights["sizes"]) == 3 and weights["categorical"] == [False, True, True]


def test_every_photo_has_its_products_codes(columned: Tiny) -> None:
    store, folder = columned.run.store, columned.run.view("columns")
    encoder, table = ColumnEncoder.open(folder.columns_model), folder.features.table
    codes = folder.features.features(slice(0, len(table)))
    values = store.columns(table.product_id)
    expected = encoder.encode({name: values[name].tolist() for name in encoder.names})
    np.testing.assert_array_equal(codes.astype(np.float32), expected)
    assert encoder.names == ATTRIBUTES and 0.1 < (codes == MISSING).mean() < 0.3


def test_a_table_beside_the_dump_is_as_good(
    plain: Tiny, columned: Tiny, attributes: Path, tmp_path: Path
) -> None:
    copy = plain.copy(tmp_path / "run")
    view = ColumnsView(table=str(attributes), columns=ATTRIBUTES)
    columns_view(copy.run.view("columns"), view, False, print)
    mine, other = (tiny.run.view("columns").features for tiny in (copy, columned))
    np.testing.assert_array_equal(
        mine.features(slice(0, len(mine))), other.features(slice(0, len(other)))
    )
    lines: list[str] = []
    columns_view(copy.run.view("columns"), view, False, lines.append)
    assert "current" in lines[0]


def test_a_dump_is_scored_by_its_columns_or_a_table_of_them(
    plain: Tiny, columned: Tiny, attributes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_dump = scored(columned, tmp_path / "dump")
    by_table = scored(columned, tmp_path / "table", "--set", f"score.table={attributes}")
    assert (by_dump == by_table[by_dump.index]).all()
    assert right(columned, by_dump) > right(plain, scored(plain, tmp_path / "plain")) + 0.05
    part = pandas.read_csv(attributes)
    part[part["_id"] % 2 == 0].to_csv(tmp_path / "half.csv", index=False)
    caplog.clear()
    half = scored(columned, tmp_path / "half", "--set", f"score.table={tmp_path / 'half.csv'}")
    assert "half.csv lacks" in caplog.text
    assert right(columned, half) < right(columned, by_dump)


def test_workers_read_the_columns_too(columned: Tiny, attributes: Path, tmp_path: Path) -> None:
    table = ("--set", f"score.table={attributes}")
    for name, options in (("dump", ()), ("table", table)):
        alone, workers = tmp_path / name, tmp_path / f"{name}-workers"
        scored(columned, alone, *options)
        scored(columned, workers, *options, "--workers", "2")
        assert contents(workers) == contents(alone)


def test_what_has_no_columns_is_answered_from_its_photos(
    plain: Tiny, columned: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def strip(document: dict) -> None:
        for name in ATTRIBUTES:
            document.pop(name, None)

    write_dump(tmp_path / "test.bson", plain.data / "test.bson", lambda d: True, strip)
    command = ["score", str(tmp_path / "test.bson"), "--run", str(columned.folder), "--out"]
    assert main([*command, str(tmp_path / "bare")]) == 0
    assert "none of the first 100 products has a column price or material or" in caplog.text
    bare = predictions(tmp_path / "bare").set_index("product_id")["category_id"]
    other = scored(plain, tmp_path / "plain")
    assert (bare == other[bare.index]).mean() > 0.9


def test_a_table_that_does_not_fit_is_refused(
    plain: Tiny, columned: Tiny, attributes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pandas.DataFrame({"_id": [1], "price": [1.0]}).to_csv(tmp_path / "a.csv", index=False)
    other = pandas.DataFrame({"_id": [10**6], **{name: ["x"] for name in ATTRIBUTES}})
    other.to_csv(tmp_path / "b.csv", index=False)
    for tiny, table, problem in (
        (columned, tmp_path / "a.csv", "expected a column material, found _id, price"),
        (columned, tmp_path / "b.csv", "has none of the 300 products"),
        (plain, attributes, "reads no columns"),
    ):
        dump, out = str(plain.data / "test.bson"), str(tmp_path / "out")
        command = ["score", dump, "--run", str(tiny.folder), "--out", out]
        assert main([*command, "--set", f"score.table={table}"]) == 2
        assert problem in capsys.readouterr().err


def test_one_product_is_predicted_by_its_columns(
    model: TwoStageModel, columned: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    document = next(d for d in documents(columned.data / "test.bson") if set(d) >= {*ATTRIBUTES})
    photo = tmp_path / "1.jpg"
    photo.write_bytes(document["imgs"][0]["picture"])
    given = {name: str(document[name]) for name in ATTRIBUTES}
    bare, full = (predict_files(model, [photo], 8, columns=c) for c in ({}, given))
    assert bare.confidences != full.confidences
    options = [f"--column={name}={value}" for name, value in given.items()]
    assert main(["predict", str(photo), "--run", str(columned.folder), *options]) == 0
    first = capsys.readouterr().out.splitlines()[0].split()
    assert int(first[1]) == model.taxonomy[full.classes[0]].category_id
    for wrong, problem in (
        ({"brand": "x"}, "--column brand: the run reads the columns price, material, colour"),
        ({"price": "cheap"}, "--column price=cheap: expected a number, such as 12.5"),
    ):
        with pytest.raises(ShelfsortError, match=problem):
            predict_files(model, [photo], 1, columns=wrong)


def test_an_exported_model_reads_columns(
    model: TwoStageModel, columned: Tiny, tmp_path: Path
) -> None:
    export_model(columned.run, tmp_path / "model")
    exported = _reader(tmp_path / "model").Model()
    some = list(documents(columned.data / "test.bson"))[:12]
    columns = [{name: d[name] for name in ATTRIBUTES if name in d} for d in some]
    photos = [[Image.fromarray(decode(i["picture"])) for i in d["imgs"]] for d in some]
    off = []
    for given in (columns, [{}] * len(some)):
        answers = exported.predict(photos, columns=given)
        for number, document in enumerate(some):
            files = [tmp_path / f"{number}-{place}.jpg" for place in range(len(document["imgs"]))]
            for path, image in zip(files, document["imgs"], strict=True):
                path.write_bytes(image["picture"])
            texts = {name: str(value) for name, value in given[number].items()}
            found = predict_files(model, files, 1, columns=texts)
            assert answers[number].argmax() == found.classes[0]
            off.append(abs(answers[number].max() - found.confidences[0]))
    # the last bit of a feature may put a product on a tree's other side
    assert np.mean(np.array(off) < 1e-3) > 0.8 and max(off) < 0.05
    with pytest.raises(ValueError, match="columns: expected some of"):
        exported.predict(photos[:1], columns=[{"brand": "x"}])


def _reader(folder: Path) -> ModuleType:
    """reader.py of an exported folder."""
    spec = importlib.util.spec_from_file_location("exported_reader", folder / "reader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_column_that_gives_the_category_away_is_warned_of(
    plain: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"_id": d["_id"], "price": d.get("price"), "shelf": f"shelf {d['category_id']}"}
        for d in documents(plain.data / "train.bson")
    ]
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    copy = plain.copy(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        view = ColumnsView(table=str(tmp_path / "a.csv"))
        columns_view(copy.run.view("columns"), view, False, print)
    (message,) = [r.getMessage() for r in caplog.records if "alone names" in r.getMessage()]
    assert message.startswith("view columns: column shelf alone names the category of 100.0% of")


def test_the_report_names_the_columns(columned: Tiny, tmp_path: Path) -> None:
    copy = columned.copy(tmp_path / "run")
    steps.report(copy.run, [], say=lambda line: None)
    page = (copy.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "<dd>price (number), material (text), colour (text)</dd>" in page


def test_settings_that_can_not_be_are_named(plain: Tiny, tmp_path: Path) -> None:
    for settings, problem in (
        ([COLUMNS], "view columns reads fields of the products: name them in catalog.columns"),
        (
            ["catalog.columns=[a]", "views.c={table: store, columns: [a, b]}"],
            "view c reads b: name them in catalog.columns",
        ),
        (
            ["views={a: {table: x.csv}, b: {table: y.csv}}"],
            "views a and b read columns, expected one such view",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            load_config(None, settings)
    folder = plain.run.view("columns")
    with pytest.raises(ShelfsortError, match="no such file; views"):
        columns_view(folder, ColumnsView(table=str(tmp_path / "none.csv")), False, print)
    pandas.DataFrame({"_id": [10**7], "a": [1]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ShelfsortError, match="has none of the products of"):
        columns_view(folder, ColumnsView(table=str(tmp_path / "a.csv")), False, print)
