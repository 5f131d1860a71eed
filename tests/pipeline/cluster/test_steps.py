"""Ingest, features and stage 2 on dask workers make what they make in one process."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import joblib
import numpy as np
import pytest
from dask.sizeof import sizeof

from catalog.artifacts import read_json
from catalog.errors import ShelfsortError
from catalog.synthetic.dump import SyntheticSpec
from features.cover import PictureTexts, read_here, read_pictures
from features.ocr import RapidReader
from pipeline import steps
from pipeline.cluster.steps import extraction, reading, training
from pipeline.config import load_config
from pipeline.demo import write_synthetic
from pipeline.run_folder import RunFolder
from pipeline.second_stage import class_mixes
from stage2_xgb.inputs import prepare_stage2
from stage2_xgb.train_reclassifier import RowPicker
from tests.pipeline.score_helpers import workers
from tests.pipeline.tiny import Tiny


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Two worker processes, whose working directory is another."""
    folder = tmp_path_factory.mktemp("workers")
    with workers(2, folder) as client:
        client.run(os.chdir, str(folder))
        yield client


def test_every_step_makes_the_same(
    tiny: Tiny, client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tiny.copy(Path("run"))
    run, config = copy.run, copy.config
    for path in (run.store_path, run.features_path, run.view("small").features_path):
        path.unlink()
    shutil.rmtree(run.stage2)
    options = {"rebuild": False, "say": lambda _: None, "workers": lambda: _lent(client)}
    steps.ingest(
        run, config, [str(tiny.data / "train.bson")], tiny.data / "category_names.csv", **options
    )
    assert RunFolder(run.folder).store.fingerprint == tiny.run.store.fingerprint
    steps.features(run, config, **options)
    for name in ("stage1", "small"):
        with (
            h5py.File(run.view(name).features_path) as ours,
            h5py.File(tiny.run.view(name).features_path) as theirs,
        ):
            np.testing.assert_array_equal(ours["features"][:], theirs["features"][:])
            assert ours.attrs["complete"] and (ours["status"][:] == theirs["status"][:]).all()
    steps.stage2(run, config, **options)
    ours, theirs = (read_json(r.stage2 / "manifest.json", "") for r in (run, tiny.run))
    assert ours["files"] == theirs["files"] and ours["categories"] == theirs["categories"]


def test_words_are_read_there_as_here(client, tmp_path: Path) -> None:
    """And a worker with another reader than the client's is named."""
    pytest.importorskip("rapidocr", reason="needs the extra `ocr`: pip install 'shelfsort[ocr]'")
    reader, data = RapidReader("a test"), tmp_path / "data"
    write_synthetic(data, SyntheticSpec(categories=12, products=48, side=180, covers=True))
    run, dump = RunFolder(tmp_path / "run"), [str(data / "train.bson")]
    steps.ingest(run, load_config(None), dump, data / "category_names.csv", rebuild=False)
    found = []
    for name in ("here", "there"):
        texts = PictureTexts(tmp_path / name, reader.name)
        read = read_here(run.store, reader, 1) if name == "here" else None
        blocks = read or reading(client, run.store, reader)
        assert read_pictures(run.store, texts, blocks, block=8) == len(texts) > 8
        found.append(dict(texts))
    assert found[0] == found[1] and any(found[0].values())
    reader.name = "rapidocr-0"
    with pytest.raises(ShelfsortError, match="workers that read by rapidocr-0, found rapidocr-"):
        list(reading(client, run.store, reader)(iter([[1]])))


def test_what_reclassifiers_are_trained_on_is_sent_once(
    tiny: Tiny, client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tiny.run, tiny.config
    stores = [run.view(name).features for name in config.view_names]
    inputs = prepare_stage2(stores, class_mixes(run), run.store.taxonomy, config.stage2, 1)
    picker = inputs.picker(config.stage2)
    assert sizeof(picker) == pytest.approx(len(pickle.dumps(picker)), rel=0.1)
    sets, pickled = [np.array([c, c + 1]) for c in range(7)], []
    monkeypatch.setattr(
        RowPicker, "__getstate__", lambda self: pickled.append(1) or vars(self), raising=False
    )
    with training(client, run):
        rows = joblib.Parallel()(joblib.delayed(count)(picker, members) for members in sets)
    assert rows == [count(picker, members) for members in sets] and len(pickled) == 1


def count(picker: RowPicker, members: np.ndarray) -> int:
    """In a worker: the rows of a set."""
    return len(picker.rows(members).label)


class _lent:
    """A client that stays open afterwards."""

    def __init__(self, client) -> None:
        self.client = client

    def __enter__(self):
        return self.client

    def __exit__(self, *_: object) -> None:
        pass


def test_a_run_that_a_worker_does_not_see_is_an_error(tiny: Tiny, client, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "run")
    client.run(hide, str(copy.folder))
    with pytest.raises(ShelfsortError, match=r"store\.sqlite: worker .* sees no such file"):
        extraction(client, copy.run, 32, "cpu", "fp32")


def hide(folder: str) -> None:
    """In a worker: as if a folder were on another machine."""
    from pipeline.cluster import client as cluster

    missing = cluster.missing_files

    def missing_files(files: list[tuple[str, int]]) -> list[str]:
        return [path for path, _ in files if path.startswith(folder)] or missing(files)

    cluster.missing_files = missing_files
