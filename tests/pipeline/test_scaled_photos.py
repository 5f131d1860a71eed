"""A run whose photos the decoder scales, in training and in answers alike."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.agreement import compared, evaluation, scored, write_test_split
from catalog.errors import ShelfsortError
from catalog.images import decode
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, image_table
from tests.pipeline.tiny import SETTINGS, Tiny, make

SIDE, OTHER = 16, 12


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Photos of 32 pixels at half of their sides, and a view that gets them a little smaller."""
    own = f"views.small={{backbone: resnet18, epochs: 1, image_size: {OTHER}}}"
    size = (f"stage1.image_size={SIDE}", "stage1.decode=scaled", "stage1.epochs=1")
    return make(tmp_path_factory.mktemp("scaled"), (*SETTINGS, *size, own))


def test_answers_are_those_that_were_evaluated(scaled: Tiny, tmp_path: Path) -> None:
    run = scaled.run
    dump = write_test_split(run, tmp_path / "test.bson")
    figures = compared(evaluation(run), scored(run, scaled.config, dump, tmp_path / "out"))
    assert figures["same"] >= 0.98 and figures["within"] >= 0.9, figures


def test_each_view_gets_photos_as_it_learnt_from_them(scaled: Tiny) -> None:
    model = TwoStageModel.open(scaled.run, "cpu", "fp32")
    assert [p.transform.least for p in model.networks.values() if p] == [(SIDE,) * 2, (OTHER,) * 2]
    store, image_id = scaled.run.store, scaled.run.store.images("test").image_id[:20]
    blobs = [*store.read(image_id), b"no photo"]
    table = image_table(np.append(image_id, 1), np.append(image_id, 1))
    found, readable, _, errors = model.features(blobs, table.image_id)
    assert readable.tolist() == [True] * 20 + [False] and list(errors) == [20]
    for view, predictor in zip(found, model.networks.values(), strict=True):
        assert predictor is not None
        photos = [decode(blob, least=predictor.transform.least) for blob in blobs[:20]]
        expected = predictor.features(predictor.transform(photos))
        np.testing.assert_allclose(view.astype(float), expected, rtol=2e-2, atol=2e-2)


def test_the_exported_reader_does_not_scale_and_says_so(scaled: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ShelfsortError, match=r"view stage1 was trained with stage1\.decode=scaled"):
        export_model(scaled.run, tmp_path / "model")
