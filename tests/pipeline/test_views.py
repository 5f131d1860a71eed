"""Views that are no networks: what they add to stage 2, from ingest to the predictions of another
dump."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

from catalog.config import CatalogConfig
from catalog.errors import ArtifactError, ConfigError, ShelfsortError
from catalog.image_table import image_ids
from catalog.sources.source import open_source
from catalog.store.schema import content_of
from features.text import TextModel
from pipeline import steps
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, predict_files
from pipeline.scoring.score import score_source
from pipeline.scoring.workers import DaskWorkers
from pipeline.views import file_view, text_view
from tests.pipeline.score_helpers import CONFIG, contents, location, predictions, scorer, workers
from tests.pipeline.scoring.test_workers import hide
from tests.pipeline.tiny import ONE_VIEW, Tiny, documents, make

SETTINGS = (*ONE_VIEW, "catalog.text=title")
TITLE = "views.title={text: tfidf, components: 64}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Products with titles, which nobody reads. Only to be read."""
    return make(tmp_path_factory.mktemp("plain"), SETTINGS, products=1500, titles=True)


def with_view(plain: Tiny, folder: Path, *settings: str) -> Tiny:
    """A copy whose stage 2 looks through another view."""
    copy = plain.copy(folder)
    config = load_config(copy.folder / "config.yaml", settings)
    steps.features(copy.run, config, rebuild=False)
    steps.stage2(copy.run, config, rebuild=True)
    steps.evaluate(copy.run, config, rebuild=True)
    copy.run.save_config(config)
    return copy


@pytest.fixture(scope="module")
def titled(plain: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with a view of the titles. Only to be read."""
    return with_view(plain, tmp_path_factory.mktemp("titled") / "run", TITLE)


@pytest.fixture(scope="module")
def reader(titled: Tiny) -> TwoStageModel:
    """The model that reads titles."""
    return TwoStageModel.open(titled.run, "cpu", "fp32")


def right(tiny: Tiny, unit: str) -> pandas.Series:
    """Which test items the two stages get right, by item."""
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet")
    items = items[items["unit"] == unit].set_index("item_id").sort_index()
    return items["two_stage_class"] == items["class_index"]


@pytest.mark.parametrize("unit", ["image", "product"])
def test_stage_2_gains_by_titles(plain: Tiny, titled: Tiny, unit: str) -> None:
    without, through = right(plain, unit), right(titled, unit)
    assert (without.index == through.index).all()
    fixed, broken = (through & ~without).sum(), (without & ~through).sum()
    assert fixed - broken > 3 * (fixed + broken) ** 0.5 and through.mean() > without.mean() + 0.1


def test_every_image_has_its_products_vector(titled: Tiny) -> None:
    features, store = titled.run.view("title").features, titled.run.store
    vectors = features.features(slice(0, len(features))).astype(np.float32)
    texts = np.array(store.texts(features.table.product_id), dtype=object)
    model = TextModel.open(titled.folder / "views" / "title")
    np.testing.assert_array_equal(vectors, model.features(texts).astype(np.float32))
    length = np.linalg.norm(vectors, axis=1)
    assert 0 < (texts == "").mean() < 0.1 and not length[texts == ""].any()
    np.testing.assert_allclose(length[texts != ""], 1, atol=2e-3)
    assert (features.head.weight == model.head.weight).all() and (features.status == 1).all()


def test_the_fit_reads_titles_of_fitted_train_products_alone(
    plain: Tiny, titled: Tiny, tmp_path: Path
) -> None:
    """A word in all other titles, also of train products whose photos belong to other splits,
    leaves the model as it is."""
    copy = plain.copy(tmp_path / "run")
    with sqlite3.connect(copy.run.store_path) as connection:
        changed = connection.execute(
            """UPDATE products SET text = 'leaked leaked ' || text
               WHERE split != 'train' OR product_id NOT IN
               (SELECT product_id FROM images WHERE status = 'ok')"""
        ).rowcount
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'content'", (content_of(connection),)
        )
    config = load_config(copy.folder / "config.yaml", [TITLE])
    text_view(copy.run.view("title"), config.view("title"), config.stage1.seed, False, print)
    assert changed > 400
    mine, other = (TextModel.open(run.folder / "views" / "title") for run in (copy, titled))
    assert (
        mine.words == other.words
        and (mine.idf == other.idf).all()
        and (mine.head.weight == other.head.weight).all()
    )


def test_damaged_texts_are_refused(plain: Tiny, tmp_path: Path) -> None:
    copy = plain.copy(tmp_path / "run")
    with sqlite3.connect(copy.run.store_path) as connection:
        connection.execute("UPDATE products SET text = text || '!' WHERE product_id = 1")
    config = load_config(copy.folder / "config.yaml", [TITLE])
    with pytest.raises(ArtifactError, match="its rows are not those that ingest wrote"):
        text_view(copy.run.view("title"), config.view("title"), 0, False, print)


def test_a_dump_is_scored_by_its_titles(
    plain: Tiny, titled: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    labels = pandas.read_csv(plain.data / "test_labels.csv").set_index("_id")["category_id"]
    accuracy = []
    for tiny in (plain, titled):
        out = tmp_path / tiny.folder.parent.name
        assert main(tiny.scoring(out, dump=plain.data / "test.bson")) == 0
        found = predictions(out)
        accuracy.append(
            (found["category_id"].to_numpy() == labels[found["product_id"]].to_numpy()).mean()
        )
    assert accuracy[1] > accuracy[0] + 0.1
    nameless = titled.scoring(tmp_path / "none", dump=plain.data / "test.bson")
    assert main([*nameless, "--set", "catalog.text=titel"]) == 2
    assert (
        "none of the first 100 products has a text in 'titel', which view title reads"
        in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A worker process that doesn't see the run."""
    with workers(1, tmp_path_factory.mktemp("workers")) as client:
        yield client


@pytest.mark.slow
def test_a_worker_scores_the_same(
    titled: Tiny, reader: TwoStageModel, client, tmp_path: Path
) -> None:
    source = open_source([titled.data / "test.bson"], tmp_path, CatalogConfig(text="title"))
    client.run(hide, str(titled.folder))
    runs_on = location(titled, reader.runtimes["stage1"])
    for engine, out in ((reader, "here"), (DaskWorkers(client, runs_on, source.files), "there")):
        score_source(scorer(titled, engine), source, tmp_path / out, CONFIG)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_table_has_a_column_of_titles(
    titled: Tiny, reader: TwoStageModel, tmp_path: Path
) -> None:
    rows = []
    for document in list(documents(titled.data / "test.bson"))[:20]:
        for position, image in enumerate(document["imgs"]):
            name = f"{document['_id']}_{position}.jpg"
            (tmp_path / name).write_bytes(image["picture"])
            rows.append(
                {"product_id": document["_id"], "path": name, "title": document.get("title")}
            )
    pandas.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    source = open_source([tmp_path / "t.csv"], tmp_path, CatalogConfig(text="title"))
    assert [source.text(row) for row in range(20)] == [
        d.get("title") for d in documents(titled.data / "test.bson")
    ][:20]
    assert open_source([tmp_path / "t.csv"], tmp_path).fingerprint != source.fingerprint
    assert source[3:5].text(1) == source.text(4)


def test_a_single_product_needs_its_title(
    titled: Tiny, reader: TwoStageModel, tmp_path: Path
) -> None:
    photo = tmp_path / "1.jpg"
    photo.write_bytes(next(documents(titled.data / "test.bson"))["imgs"][0]["picture"])
    with pytest.raises(
        ShelfsortError, match="view title reads the product's text: give it with --text"
    ):
        predict_files(reader, [photo], 3)
    categories = [c.level2 for c in reader.taxonomy.categories]
    level2 = [
        reader.taxonomy[predict_files(reader, [photo], 1, text).classes[0]].level2
        for text in categories
    ]
    assert np.mean([a == b for a, b in zip(level2, categories, strict=True)]) > 0.7


def test_what_cannot_read_texts_says_so(titled: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        ShelfsortError,
        match="view title is no network, but an exported model answers by networks alone; train",
    ):
        export_model(titled.run, tmp_path / "model")
    with pytest.raises(
        ConfigError, match="view title reads the products' texts: name their field in catalog"
    ):
        load_config(None, [TITLE])


def test_another_text_model_is_refused(titled: Tiny, tmp_path: Path) -> None:
    copy = titled.copy(tmp_path / "run")
    part, config = (
        copy.run.view("title"),
        load_config(copy.folder / "config.yaml", ["views.title.components=16"]),
    )
    with pytest.raises(
        ArtifactError,
        match=r"text\.json: made from something else: config\.components was 64, is now 16",
    ):
        steps.features(copy.run, config, rebuild=False)
    text_view(part, config.view("title"), 0, True, print)
    with pytest.raises(ArtifactError, match="view title is another one now: text was"):
        TwoStageModel.open(copy.run)
    part.text_model.write_text(part.text_model.read_text() + " ")
    with pytest.raises(ArtifactError, match=r"features\.h5: made from something else: text was"):
        steps.stage2(copy.run, config, rebuild=True)


def write_vectors(path: Path, image_id: np.ndarray, features: np.ndarray) -> str:
    """Writes a file of vectors; the setting that makes it a view."""
    with h5py.File(path, "w") as file:
        file["image_id"], file["features"] = image_id, features
    return f"views.made={{file: '{path}'}}"


def telling(class_index: np.ndarray, seed: int) -> np.ndarray:
    """Vectors [N, 16] around a centre of each of eight classes."""
    centres = np.random.default_rng(0).normal(size=(8, 16))
    return 0.8 * centres[class_index] + np.random.default_rng(seed).normal(
        size=(len(class_index), 16)
    )


def test_vectors_made_elsewhere_are_a_view(
    plain: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = plain.run.store.images()
    vectors = telling(table.class_index, 1)
    order = np.random.default_rng(2).permutation(len(table))
    setting = write_vectors(tmp_path / "v.h5", table.image_id[order], vectors[order])
    made = with_view(plain, tmp_path / "run", setting)
    features = made.run.view("made").features
    np.testing.assert_array_equal(
        features.features(slice(0, len(table))), vectors.astype(np.float16)
    )
    without, through = right(plain, "image"), right(made, "image")
    assert through.mean() > without.mean() + 0.1
    with pytest.raises(
        ShelfsortError,
        match="view made is a file of vectors, which has none of new photos",
    ):
        TwoStageModel.open(made.run)
    assert score_with_vectors(plain, made, tmp_path, capsys) > 0.1
    write_vectors(tmp_path / "v.h5", table.image_id, vectors + 1)
    with pytest.raises(ArtifactError, match=r"features\.h5: made from something else: file was"):
        steps.features(made.run, load_config(made.folder / "config.yaml"), rebuild=False)


def test_a_file_of_vectors_that_is_not_there_is_refused(plain: Tiny, tmp_path: Path) -> None:
    config = load_config(plain.folder / "config.yaml", ["views.made={file: none.h5}"])
    with pytest.raises(ShelfsortError, match=r"none\.h5: can't be read as HDF5"):
        file_view(plain.run.view("made"), config.view("made"), 0, False, print)


def score_with_vectors(
    plain: Tiny, made: Tiny, folder: Path, capsys: pytest.CaptureFixture
) -> float:
    """Scores the further dump without and with vectors of its images; what these add to the
    accuracy. A file that lacks one, or has others than in training, is refused before anything is
    scored."""
    labels = pandas.read_csv(plain.data / "test_labels.csv").set_index("_id")["category_id"]
    dump = plain.data / "test.bson"
    source = open_source([dump], folder / "index")
    classes = made.run.store.taxonomy.class_index(labels[source.product_id].to_numpy())
    ids = image_ids(source.product_id, source.n_images)
    vectors = telling(np.repeat(classes, source.n_images), 3)

    def command(tiny: Tiny, name: str, *settings: str) -> list[str]:
        return tiny.scoring(folder / name, *settings, dump=dump)

    mistyped = ("--set", "score.vectors={maid: new.h5}")
    for tiny, expected in (
        (plain, "its views are no files of vectors; give none"),
        (made, "expected made"),
    ):
        assert main(command(tiny, "refused", *mistyped)) == 2
        assert (
            f"stage2 has no view maid that is a file of vectors; {expected}"
            in capsys.readouterr().err
        )
    write_vectors(folder / "new.h5", ids, vectors)
    setting = ("--set", f"score.vectors={{made: '{folder / 'new.h5'}'}}")
    assert main(command(plain, "without")) == main(command(made, "with", *setting)) == 0
    capsys.readouterr()
    lacking = f"no vector of image {ids[-1]}"
    for count, length, message in (
        (len(ids) - 1, 16, lacking),
        (len(ids), 5, "length 5, expected 16"),
    ):
        write_vectors(folder / "new.h5", ids[:count], vectors[:count, :length])
        assert main(command(made, "refused", *setting)) == 2
        assert message in capsys.readouterr().err and not list(folder.glob("refused/part*"))
    found = [
        predictions(folder / name).set_index("product_id")["category_id"]
        for name in ("without", "with")
    ]
    before, after = ((answers == labels[answers.index]).mean() for answers in found)
    return after - before


def test_a_view_that_became_another_kind_is_refused(
    plain: Tiny, titled: Tiny, tmp_path: Path
) -> None:
    table = plain.run.store.images()
    setting = write_vectors(tmp_path / "v.h5", table.image_id, np.ones((len(table), 2))).replace(
        "made", "title"
    )
    for kind, view in (("file", setting), ("checkpoint", "views.title={}")):
        copy = titled.copy(tmp_path / kind)
        copy.folder.joinpath("views/title/stage1").mkdir()
        for name in ("best.pt", "summary.json"):
            copy.folder.joinpath("views/title/stage1", name).write_bytes(
                (copy.run.stage1 / name).read_bytes()
            )
        config = load_config(None, [*SETTINGS, view])
        with pytest.raises(ArtifactError, match=f"made from something else: {kind} was None"):
            steps.features(copy.run, config, rebuild=False)
