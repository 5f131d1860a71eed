"""Every artefact truncated, emptied, with a bit flipped, of another version, of another run, and
missing.

What reads it ends with exit code 2 and one line that names a file of the run and the command that
makes it anew; or, where the damage lies in what nobody reads or what is made again by itself, with
the answer of an undamaged run.
"""

import io
import random
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from catalog.artifacts import read_json, read_sealed, sha256_file, write_json, write_sealed
from catalog.store.reader import Store
from pipeline.cli import main, parser
from pipeline.report.evaluated_run import EvaluatedRun
from pipeline.report.findings import findings_of
from stage2_xgb.bundle import model_name
from tests.pipeline.commands import outcome
from tests.pipeline.tiny import Tiny, documents

READ_BY = {
    "store.sqlite": "evaluate",
    "stage1/best.pt": "predict",
    "stage1/summary.json": "evaluate",
    "features.h5": "evaluate",
    "views/small/features.h5": "evaluate",
    "views/small/stage1/best.pt": "predict",
    "stage2/manifest.json": "evaluate",
    "stage2/shared.npz": "evaluate",
    "taxonomy.json": "report",
    "evaluation/metrics.json": "report",
    "evaluation/items.parquet": "report",
    "evaluation/per_category.parquet": "report",
    "evaluation/confusion.parquet": "report",
}
FLIPS = 8


@pytest.fixture(scope="module")
def photo(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo on disk."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(next(documents(tiny.data / "test.bson"))["imgs"][0]["picture"])
    return path


@pytest.fixture(scope="module")
def copy(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A run to be damaged; each test repairs it."""
    folder = tmp_path_factory.mktemp("damaged") / "my run, ü\nb"
    shutil.copytree(tiny.folder, folder)
    return Tiny(tiny.data, folder)


@pytest.fixture(params=READ_BY)
def artefact(request: pytest.FixtureRequest, copy: Tiny) -> Iterator[Path]:
    """One file of the run, whole again afterwards."""
    path = copy.folder / request.param
    whole = path.read_bytes()
    yield path
    path.unlink(missing_ok=True)
    path.write_bytes(whole)


@pytest.fixture
def refused(
    copy: Tiny, photo: Path, artefact: Path, capsys: pytest.CaptureFixture
) -> Callable[[], bool]:
    """Reads the artefact through the command that does so; False if that succeeded."""
    step = READ_BY[str(artefact.relative_to(copy.folder))]
    options = {"predict": [str(photo)], "evaluate": ["--rebuild"], "report": []}[step]

    def read() -> bool:
        capsys.readouterr()
        code = main([step, "--run", str(copy.folder), *options])
        error = capsys.readouterr().err
        if code:
            assert code == 2 and error.startswith(f"shelfsort {step}: {copy.folder}"), error
            _, command = re.split("; (?:rebuild it|go on) with: shelfsort ", error)
            said = parser().parse_args(shlex.split(command))
            assert said.run == copy.folder, error
            assert said.command in ("ingest", "stage1", "features", "stage2", "evaluate"), error
            assert "Traceback" not in error
        return code == 2

    return read


@pytest.mark.parametrize("fault", ["truncated", "emptied", "missing"])
def test_what_is_not_whole_is_named_with_its_remedy(
    artefact: Path, refused: Callable[[], bool], fault: str
) -> None:
    whole = artefact.read_bytes()
    artefact.unlink()
    if fault != "missing":
        artefact.write_bytes(whole[: len(whole) * 2 // 3] if fault == "truncated" else b"")
    assert refused()


def test_a_flipped_bit_is_named_or_changes_nothing(
    tiny: Tiny, copy: Tiny, artefact: Path, refused: Callable[[], bool]
) -> None:
    whole, rng = artefact.read_bytes(), random.Random(artefact.name)
    noticed = 0
    for _ in range(FLIPS):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        artefact.write_bytes(data)
        if refused():
            noticed += 1
        else:
            assert outcome(copy.folder, "evaluate") == outcome(tiny.folder, "evaluate")
        artefact.write_bytes(whole)
        shutil.copytree(tiny.folder / "evaluation", copy.folder / "evaluation", dirs_exist_ok=True)
    assert noticed or artefact.suffix in (".sqlite", ".h5"), (
        "most of their bytes are photos and features that nobody asked for"
    )


def of_another_version(path: Path) -> None:
    """A file as another version of shelfsort would write it, whole in itself."""
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema'")
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["schema"] = 7
    elif path.suffix == ".pt":
        torch.save(torch.load(path, weights_only=True) | {"schema": 7}, path)
    elif path.name == "manifest.json":
        write_sealed(path, read_sealed(path, "") | {"schema": 7})
    else:
        write_json(path, read_json(path, "") | {"schema": 7})


@pytest.mark.parametrize(
    "artefact",
    ["store.sqlite", "features.h5", "stage1/best.pt", "stage2/manifest.json", "taxonomy.json"],
    indirect=True,
)
def test_another_version_is_named(artefact: Path, refused: Callable[[], bool], copy: Tiny) -> None:
    artefact.write_bytes(artefact.read_bytes())
    of_another_version(artefact)
    assert refused()


def of_another_run(path: Path, other: Store, tiny: Tiny) -> None:
    """The same kind of file, whole, from elsewhere."""
    if path.suffix == ".sqlite":
        shutil.copy(other.path, path)
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["made_from"] = file.attrs["made_from"].replace(
                tiny.run.store.fingerprint, "0123456789abcdef"
            )
    elif path.suffix == ".pt":
        shutil.copy(tiny.run.view("small").checkpoint, path)
    elif path.name == "manifest.json":
        manifest = read_sealed(path, "")
        manifest["made_from"]["views"]["stage1"]["checkpoint"] = "f" * 64
        write_sealed(path, manifest)
    elif path.name == "taxonomy.json":
        write_json(path, other.taxonomy.to_json())
    else:
        shutil.copy(tiny.folder / "evaluation" / "confusion.parquet", path)


@pytest.mark.parametrize(
    "artefact",
    [
        "store.sqlite",
        "features.h5",
        "stage1/best.pt",
        "stage2/manifest.json",
        "taxonomy.json",
        "evaluation/items.parquet",
    ],
    indirect=True,
)
def test_what_is_of_another_run_is_refused(
    tiny: Tiny, artefact: Path, refused: Callable[[], bool], small_store: Store
) -> None:
    of_another_run(artefact, small_store, tiny)
    assert refused()


def test_without_a_booster_the_pool_answers_and_says_so(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tiny.copy(tmp_path / "run")
    files = reclassifiers_everywhere(copy)
    for file in files:
        path = copy.folder / "stage2" / file
        path.write_bytes(path.read_bytes()[:-3])
    assert main(copy.scoring(tmp_path / "out")) == 0
    text, broken = capsys.readouterr().out, read_json(tmp_path / "out" / "_SUCCESS", "")["broken"]
    assert broken and set(broken) <= set(files)
    remedy = f"rebuild it with: shelfsort stage2 --run {copy.folder} --rebuild"
    assert f"stage 2 answered without {', '.join(broken)}; {remedy}" in text


def reclassifiers_everywhere(copy: Tiny) -> list[str]:
    """Has each category answered by a reclassifier of its own, whatever was trained; returns their
    files."""
    path, classes = copy.run.stage2 / "manifest.json", len(copy.run.store.taxonomy)
    manifest, files = read_sealed(path, ""), [model_name(c) for c in range(classes)]
    for file in files:
        (copy.run.stage2 / file).write_bytes(file.encode())
    manifest["files"] |= {file: sha256_file(copy.run.stage2 / file) for file in files}
    manifest["categories"] = [
        {"class_index": c, "members": [c, (c + 1) % classes], "decision": "own"}
        for c in range(classes)
    ]
    write_sealed(path, manifest)
    return files


def test_what_can_be_measured_again_is(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tiny.copy(tmp_path / "run")
    path = copy.folder / "stage2" / "heldout.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    score = copy.scoring(tmp_path / "out")
    assert main([*score, "--min-confidence", "0.5"]) == 2
    assert (
        f"{path}: " in (error := capsys.readouterr().err)
        and "go on with: shelfsort stage2" in error
    )
    assert main(["stage2", "--run", str(copy.folder)]) == 0
    again, before = (dict(np.load(file)) for file in (path, io.BytesIO(whole)))
    assert all(np.array_equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("step", "name"), [("evaluate", "evaluation/items.parquet"), ("stage2", "stage2/heldout.npz")]
)
def test_a_second_stage_with_a_booster_gone_is_not_measured(
    tiny: Tiny, tmp_path: Path, step: str, name: str, capsys: pytest.CaptureFixture
) -> None:
    """What was measured without it would count as current when it is back."""
    copy = tiny.copy(tmp_path / "run")
    booster, table = next(copy.run.stage2.glob("boosters/*")), copy.folder / name
    (copy.run.evaluation / "metrics.json").unlink()
    table.unlink()
    booster.rename(tmp_path / "kept")
    assert main([step, "--run", str(copy.folder)]) == 2 and not table.exists()
    assert f"{booster}: no such file; rebuild it with: shelfsort stage2" in capsys.readouterr().err
    (tmp_path / "kept").rename(booster)
    assert main([step, "--run", str(copy.folder)]) == 0
    assert table.read_bytes() == (tiny.folder / name).read_bytes()


@pytest.mark.parametrize(
    "name", ["report.json", "review.parquet", "hierarchy.parquet", "catalogue.parquet"]
)
def test_findings_of_the_report_are_made_again(copy: Tiny, name: str) -> None:
    found = findings_of(EvaluatedRun(copy.run))
    path = copy.folder / "evaluation" / name
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]):
        path.write_bytes(damaged)
        assert findings_of(EvaluatedRun(copy.run)) == found and path.read_bytes() == whole
    path.unlink()
    assert findings_of(EvaluatedRun(copy.run)) == found and path.read_bytes() == whole
