"""Stage 1 and what follows it, if files are missing, unfinished, or in the way."""

from pathlib import Path

import numpy as np
import pytest

from features.writer import FeatureWriter
from pipeline.cli import main
from tests.pipeline.tiny import Tiny, snapshot


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A run of one's own."""
    return tiny.copy(tmp_path / "run")


def test_weights_that_rebuild_would_remove_are_refused(
    tiny: Tiny, capsys: pytest.CaptureFixture
) -> None:
    before, weights = snapshot(tiny.folder), tiny.run.checkpoint
    assert (
        main(
            ["stage1", "--run", str(tiny.folder), "--set", f"stage1.weights={weights}", "--rebuild"]
        )
        == 2
    )
    expected = (
        f"stage1.weights: expected a file outside of {tiny.run.stage1}, which --rebuild removes, "
        f"found {weights}; copy it"
    )
    assert expected in capsys.readouterr().err
    assert snapshot(tiny.folder) == before


@pytest.mark.parametrize("step", ["features", "stage2"])
def test_an_unfinished_stage_1_is_not_extracted_and_the_message_resumes_it(
    copy: Tiny, step: str, capsys: pytest.CaptureFixture
) -> None:
    (copy.run.stage1 / "summary.json").unlink()  # as where it was stopped between two epochs
    if step == "features":
        copy.run.features_path.unlink()
    before, goes_on = (
        snapshot(copy.folder),
        f"the training isn't finished; go on with: shelfsort stage1 --run {copy.folder}\n",
    )
    assert main([step, "--run", str(copy.folder), "--set", "stage2.seed=5"]) == 2
    assert capsys.readouterr().err.endswith(goes_on)
    assert snapshot(copy.folder) == before


@pytest.mark.parametrize(
    ("key", "more"), [("weights", []), ("landmarks", ["--set", "stage1.backbone=vgg16_landmarks"])]
)
def test_a_file_that_a_finished_training_started_from_is_missed_by_name(
    tiny: Tiny, key: str, more: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(
            [
                "stage1",
                "--run",
                str(tiny.folder),
                "--set",
                f"stage1.{key}=gone.pt",
                "--set",
                "views={}",
                *more,
            ]
        )
        == 2
    )
    assert f"stage1.{key}: no such file: gone.pt; expected " in capsys.readouterr().err


def test_rebuilt_features_are_none_that_an_interrupted_extraction_left(copy: Tiny) -> None:
    store = copy.run.features
    before, (images, width) = store.features(slice(0, 64)), (len(store), store.width)
    made_from, computed_with, table, classes = (
        store.made_from,
        store.computed_with,
        store.table,
        len(store.head.bias),
    )
    with FeatureWriter(
        copy.run.features_path, table, width, classes, made_from, computed_with
    ) as writer:
        writer.write(np.full((64, width), 7, dtype=np.float16), {})
    assert main(["features", "--run", str(copy.folder), "--set", "views={}", "--rebuild"]) == 0
    rebuilt = copy.run.features
    assert len(rebuilt) == images
    np.testing.assert_array_equal(rebuilt.features(slice(0, 64)), before)
