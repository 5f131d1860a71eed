"""The words in photos as a view, from the features to the predictions of another dump, with words
that are planted (tests/features/planted_reader.py)."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pandas
import pytest

from catalog.artifacts import read_sealed
from catalog.errors import ArtifactError, ShelfsortError
from features.ocr import READERS
from features.text import TextModel
from pipeline import steps
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, predict_files
from tests.features.planted_reader import PlantedReader, key
from tests.pipeline.tiny import Tiny, documents, snapshot

COVER = "views.cover={ocr: rapidocr, components: 16}"
LANGUAGES = ("Garden", "Jardin", "Garten")


def words_on(tiny: Tiny) -> dict[str, str]:
    """Words for most pictures of both dumps: of its category, in one of three spellings."""
    rng = np.random.default_rng(0)
    labels = pandas.read_csv(tiny.data / "test_labels.csv").set_index("_id")["category_id"]
    words = {}
    for name in ("train", "test"):
        for document in documents(tiny.data / f"{name}.bson"):
            category = document.get("category_id", labels.get(document["_id"]))
            for image in document["imgs"]:
                text = f"{rng.choice(LANGUAGES)}{category} {rng.integers(100)}"
                words[key(image["picture"])] = text if rng.random() < 0.7 else ""
    return words


def with_cover(copy: Tiny) -> Tiny:
    """Its steps from the features on, through the view."""
    config = load_config(copy.folder / "config.yaml", [COVER])
    steps.features(copy.run, config, rebuild=False)
    steps.stage2(copy.run, config, rebuild=True)
    steps.evaluate(copy.run, config, rebuild=True)
    copy.run.save_config(config)
    return copy


@pytest.fixture(scope="module")
def planted(tiny: Tiny) -> PlantedReader:
    """Reads the tiny dumps."""
    return PlantedReader(words_on(tiny))


@pytest.fixture(scope="module", autouse=True)
def installed(planted: PlantedReader) -> object:
    """It is what reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(READERS, "rapidocr", lambda what: planted)
        yield


@pytest.fixture(scope="module")
def covered(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny run with the view. Only to be read."""
    return with_cover(tiny.copy(tmp_path_factory.mktemp("covered") / "run"))


def accuracy(tiny: Tiny) -> float:
    """Of both stages on the test split's images."""
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
    items = items[items["unit"] == "image"]
    return float((items["two_stage_class"] == items["class_index"]).mean())


def test_stage_2_gains_by_the_words(tiny: Tiny, covered: Tiny) -> None:
    assert accuracy(covered) > accuracy(tiny) + 0.1


def test_every_image_has_the_vector_of_its_own_words(covered: Tiny, planted: PlantedReader) -> None:
    features, store = covered.run.view("cover").features, covered.run.store
    pictures = store.read(features.table.image_id)
    texts = [planted.words[key(data)] for data in pictures]
    model = TextModel.open(covered.folder / "views" / "cover")
    vectors = features.features(slice(0, len(features)))
    np.testing.assert_array_equal(vectors, model.features(texts))
    empty = np.array(texts) == ""
    assert 0.2 < empty.mean() < 0.4 and not vectors[empty].any()
    assert model.characters and any(word.startswith("#") for word in model.words)


def test_the_fit_sees_fitted_train_photos_alone(
    tiny: Tiny, covered: Tiny, planted: PlantedReader, tmp_path: Path, monkeypatch
) -> None:
    """A word on all other photos leaves the model as it is."""
    store = tiny.run.store
    table = store.images()
    fitted = store.images("train")
    fitted = set(fitted.image_id[fitted.fit].tolist())
    own = {key(data) for data in store.read(sorted(fitted))}
    words = {
        name: text if name in own else f"leaked {text}" for name, text in planted.words.items()
    }
    monkeypatch.setitem(READERS, "rapidocr", lambda what: PlantedReader(words))
    copy = tiny.copy(tmp_path / "run")
    config = load_config(copy.folder / "config.yaml", [COVER])
    steps.features(copy.run, config, rebuild=False)
    mine, other = (TextModel.open(run.folder / "views" / "cover") for run in (copy, covered))
    assert len(table) - len(fitted) > 100 and mine.words == other.words
    np.testing.assert_array_equal(mine.idf, other.idf)
    np.testing.assert_array_equal(mine.head.weight, other.head.weight)


def test_what_is_read_stays_read(covered: Tiny, planted: PlantedReader, tmp_path: Path) -> None:
    """A step that is current reads nothing, a rebuild makes other vectors of the same words, and
    what was damaged meanwhile is read again."""
    copy, before = covered.copy(tmp_path / "run"), planted.read
    config = load_config(copy.folder / "config.yaml", ["views.cover.components=8"])
    said: list[str] = []
    with pytest.raises(ArtifactError, match=r"config\.components was 16, is now 8"):
        steps.features(copy.run, config, rebuild=False)
    steps.features(copy.run, load_config(copy.folder / "config.yaml"), False, said.append)
    assert said[-1].startswith("features: current") and planted.read == before
    view = copy.run.view("cover")
    (view.folder / "text.json").unlink()
    view.features_path.unlink()
    steps.features(copy.run, config, False, said.append)
    assert planted.read == before and copy.run.view("cover").features.width == 8
    assert "words of 0 pictures read" in said[-2]
    path = view.folder / "words" / "planted-1" / "00000.json"
    path.write_bytes(path.read_bytes()[:99])
    view.features_path.unlink()
    steps.features(copy.run, config, False, said.append)
    assert planted.read == before + 256 and not path.exists()


@pytest.mark.parametrize(("every", "warned"), [(50, True), (2, False)])
def test_hardly_any_words_are_said(
    tiny: Tiny, planted: PlantedReader, tmp_path: Path, monkeypatch, every: int, warned: bool
) -> None:
    names = sorted(planted.words)[::every]
    few = {name: planted.words[name] or "word" for name in names}
    monkeypatch.setitem(READERS, "rapidocr", lambda what: PlantedReader(few))
    copy, said = tiny.copy(tmp_path / "run"), []
    config = load_config(copy.folder / "config.yaml", [COVER])
    steps.features(copy.run, config, False, said.append)
    assert any("better leave the view out" in line for line in said) == warned


def test_words_of_another_reader_are_not_these(
    covered: Tiny, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = PlantedReader({})
    other.name = "planted-2"
    monkeypatch.setitem(READERS, "rapidocr", lambda what: other)
    with pytest.raises(ArtifactError, match="reader was 'planted-1', is now 'planted-2'"):
        steps.features(covered.run, load_config(covered.folder / "config.yaml"), rebuild=False)
    with caplog.at_level(logging.WARNING):
        TwoStageModel.open(covered.run, "cpu", "fp32")
    assert "learnt from words that planted-1 read, now planted-2 reads them" in caplog.text


def test_without_any_words_the_view_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(READERS, "rapidocr", lambda what: PlantedReader({}))
    copy = tiny.copy(tmp_path / "run")
    config = load_config(copy.folder / "config.yaml", [COVER])
    message = r"view cover: 0 of the train split's \d+ texts are not empty.*leave it out"
    with pytest.raises(ShelfsortError, match=message):
        steps.features(copy.run, config, rebuild=False)


def test_a_dump_is_scored_by_its_words(
    tiny: Tiny, covered: Tiny, planted: PlantedReader, tmp_path: Path
) -> None:
    dump = str(tiny.data / "test.bson")
    labels = pandas.read_csv(tiny.data / "test_labels.csv").set_index("_id")["category_id"]
    before, shares = planted.read, []
    for run, name in ((tiny, "without"), (covered, "with")):
        out = tmp_path / name
        assert main(["score", dump, "--run", str(run.folder), "--out", str(out)]) == 0
        found = pandas.concat(map(pandas.read_parquet, sorted(out.glob("part-*.parquet"))))
        shares.append((found["category_id"] == labels[found["product_id"]].to_numpy()).mean())
    pictures = {key(i["picture"]) for d in documents(tiny.data / "test.bson") for i in d["imgs"]}
    assert shares[1] > shares[0] + 0.1
    assert 0 < planted.read - before <= len(pictures)  # none twice


def test_the_stores_own_photos_are_not_read_again(
    covered: Tiny, planted: PlantedReader, tmp_path: Path
) -> None:
    """A product from its photo files gets what its features gave, without a look at them."""
    store, stored = covered.run.store, covered.run.view("cover").features
    rows = np.arange(0, len(stored), 29)
    pictures = store.read(stored.table.image_id[rows])
    model, before = TwoStageModel.open(covered.run, "cpu", "fp32"), planted.read
    computed, *_ = model.features(pictures, stored.table.image_id[rows])
    np.testing.assert_array_equal(computed[-1], stored.features_at(rows))
    assert planted.read == before
    photo = tmp_path / "new.jpg"
    photo.write_bytes(next(documents(covered.data / "test.bson"))["imgs"][0]["picture"])
    assert predict_files(model, [photo], 3).confidences[0] > 0
    assert planted.read == before + 1


def test_it_is_not_exported(covered: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ShelfsortError, match="view cover is no network"):
        export_model(covered.run, tmp_path / "model")


def test_another_model_of_the_words_is_refused(covered: Tiny, tmp_path: Path) -> None:
    copy = covered.copy(tmp_path / "run")
    path = copy.run.view("cover").text_model
    path.write_text(path.read_text() + " ")
    with pytest.raises(ArtifactError, match="view cover is another one now: cover was"):
        TwoStageModel.open(copy.run)
    with pytest.raises(ArtifactError, match=r"features\.h5: made from something else: cover was"):
        steps.stage2(copy.run, load_config(copy.folder / "config.yaml"), rebuild=True)


def test_the_missing_extra_is_named_before_anything_is_done(
    tiny: Tiny, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    if importlib.util.find_spec("rapidocr"):
        pytest.skip("rapidocr is installed")
    from features.ocr import RapidReader

    monkeypatch.setitem(READERS, "rapidocr", RapidReader)
    copy = tiny.copy(tmp_path / "run")
    before = snapshot(copy.folder)
    command = ["features", "--run", str(copy.folder), "--set", "views={cover: {ocr: rapidocr}}"]
    assert main(command) == 2
    assert "view cover needs the package rapidocr; install it with" in capsys.readouterr().err
    assert snapshot(copy.folder) == before


def test_the_vocabulary_says_what_read_the_words(covered: Tiny) -> None:
    made_from = read_sealed(covered.run.view("cover").text_model, "features")["made_from"]
    assert made_from["reader"] == "planted-1" and made_from["config"]["ocr"] == "rapidocr"
