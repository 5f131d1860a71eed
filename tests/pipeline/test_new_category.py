"""`add-category` on the tiny run: scoring, predictions and evaluation know the category and say
that it is an experiment, until stage 2 is trained again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from tests.pipeline.score_helpers import predictions
from tests.pipeline.tiny import Tiny

NAME = "New > Noise > Static"


@pytest.fixture(scope="module")
def mine(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A copy of the tiny run, to be changed."""
    return tiny.copy(tmp_path_factory.mktemp("mine") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, like nothing that is drawn; and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_from_photos_to_answers_and_back(
    mine: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = ["--run", str(mine.folder)]
    new = int(mine.run.store.taxonomy.category_ids.max()) + 1
    assert main(["add-category", *run, "--photos", str(photos), "--name", NAME]) == 0
    said = capsys.readouterr().out
    assert f"add-category: {new} {NAME} from 7 photos" in said and "notes.txt" in said
    assert "known categories treated as new" in said
    assert main(["predict", *run, str(photos / "0.png"), "--top", "9"]) == 0
    assert f"{new}  New > Noise > Static" in capsys.readouterr().out
    out = tmp_path / "out"
    dump = str(mine.data / "test.bson")
    assert main(["score", dump, *run, "--out", str(out), "--promise", "0.5"]) == 0
    said, found = capsys.readouterr().out, predictions(out)
    count = int((found["category_id"] == new).sum())
    assert f"added without a training, an experiment that no rule accepts: Static {count}" in said
    assert not found["accepted"][found["category_id"] == new].any()
    assert json.loads((out / "summary.json").read_text())["counts"]["added"] == {str(new): count}
    assert main(["evaluate", *run]) == 2  # made without it
    assert "--rebuild" in capsys.readouterr().err
    assert main(["evaluate", *run, "--rebuild"]) == 0
    assert "added without a training: Static; test has no product" in capsys.readouterr().out
    assert main(["add-category", *run, "--photos", str(photos), "--name", NAME]) == 2
    assert f"is category {new} already" in capsys.readouterr().err
    assert main(["stage2", *run, "--rebuild"]) == 0
    assert f"stage2: categories {new}, added without a training" in capsys.readouterr().out
    assert not list((mine.folder / "stage2").glob("added/*"))


@pytest.mark.parametrize(
    ("name", "problem"), [("", "expected a name"), (" > ", "expected a name"), (NAME, "no-such")]
)
def test_what_cannot_be_added(
    tiny: Tiny, tmp_path: Path, name: str, problem: str, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "no-such"
    command = ["add-category", "--run", str(tiny.folder), "--photos", str(folder), "--name", name]
    assert main(command) == 2
    assert problem in capsys.readouterr().err
