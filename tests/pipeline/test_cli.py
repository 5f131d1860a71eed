"""The command line: exit codes, what is printed, and one command at a time."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import bson
import pandas
import pytest
import torch
from PIL import Image

from catalog.lock import run_lock
from pipeline import steps
from pipeline.cli import COMMANDS, main, parser
from tests.conftest import document
from tests.pipeline.tiny import Tiny, documents, products_of, write_dump

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photo(tiny: Tiny, tmp_path: Path) -> Path:
    """A photo on disk."""
    path = tmp_path / "a photo, with ümlaut.jpg"
    path.write_bytes(next(documents(tiny.data / "test.bson"))["imgs"][0]["picture"])
    return path


def test_every_command_has_help(capsys: pytest.CaptureFixture) -> None:
    (commands,) = (a.choices for a in parser()._actions if a.dest == "command")
    for name in commands:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert f"shelfsort {name}" in text and len(text.splitlines()) > 4


def test_every_command_calls_the_function_of_its_name() -> None:
    (commands,) = (a.choices for a in parser()._actions if a.dest == "command")
    called = {name: sub.get_default("function") for name, sub in commands.items()}
    assert called == {name: command.function for name, command in COMMANDS.items()}
    assert all(function.__name__ == name.replace("-", "_") for name, function in called.items())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--cluster slurm", "expected --workers N or --adapt MIN:MAX"),
        ("--workers 1 --cluster-options x.yaml", "no effect without --cluster"),
        ("--performance-report x.html", "expected --workers N, --adapt MIN:MAX or --scheduler"),
        ("--adapt 1:2 --cluster slurm --cluster-options x.yaml", "x.yaml: can't be read as YAML"),
    ],
)
def test_workers_that_cannot_be(
    tiny: Tiny, words: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tiny.copy(tmp_path / "run")
    copy.run.features_path.unlink()
    assert main(["features", "--run", str(copy.folder), *words.split()]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("words", ["4:2", "0:2", "3", "a:b"])
def test_a_range_of_workers_has_both_ends(words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["features", "--run", "x", "--adapt", words])
    assert f"expected MIN:MAX, such as 1:8, found '{words}'" in capsys.readouterr().err


IN_A_CONTAINER = """
import sys
from functools import partial
from pathlib import Path
from pipeline import cli
cli.cores, cli.quota = (partial(function, Path(sys.argv[1])) for function in (cli.cores, cli.quota))
cli.main(["doctor"])
"""


@pytest.mark.parametrize(("asked", "expected"), [({}, 1), ({"OMP_NUM_THREADS": "64"}, 64)])
def test_threads_follow_a_containers_quota_unless_told_otherwise(
    tmp_path: Path, asked: dict[str, str], expected: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("70000 100000\n")
    environment = {
        name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"
    } | asked
    command = [sys.executable, "-c", IN_A_CONTAINER, tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert f"OMP_NUM_THREADS is {expected}" in done.stdout
    assert asked or "torch uses 1 on " in done.stdout


def test_every_command_can_be_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    main(["config"])
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["stage1"], ["predict", "--run", "x"], ["report", "--run", "x", "--bad"]],
)
def test_wrong_arguments_exit_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: shelfsort" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["config", "--set", "stage1.lrr=1"], "--set: stage1.lrr: unknown key"),
        (
            ["config", "--config", "absent.yaml"],
            "absent.yaml: no such file, and no configuration of that name",
        ),
        (
            ["stage1", "--run", "RUN"],
            "RUN/store.sqlite: no such file; rebuild it with: shelfsort ingest",
        ),
        (["features", "--run", "RUN"], "no such file"),
        (
            ["stage2", "--run", "RUN"],
            "RUN/features.h5: no such file; "
            "rebuild it with: shelfsort features --run 'RUN' --rebuild",
        ),
        (["evaluate", "--run", "RUN"], "RUN/stage2/manifest.json: no such file"),
        (["stage1", "--run", "RUN/typo"], "RUN/typo: no such run; make one with: shelfsort ingest"),
        (["predict", "--run", "RUN", "x.jpg"], "RUN/stage2/manifest.json: no such file"),
        (["score", "--run", "RUN", "--out", "RUN/out", "absent.bson"], "no such file"),
        (["ingest", "--run", "RUN", "--dump", "absent.bson"], "absent.bson: no such file"),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = str(tmp_path / "my run")
    Path(folder).mkdir()
    assert main([argument.replace("RUN", folder) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"shelfsort {arguments[0]}: ") and expected.replace("RUN", folder) in error
    )
    assert "Traceback" not in error and len(error.splitlines()) == 1


def test_a_bug_exits_1_with_a_traceback_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(steps, "evaluate", broken)
    assert main(["evaluate", "--run", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "planted" in error and "This is a bug in shelfsort" in error


@pytest.mark.parametrize(
    ("step", "remedy"),
    [
        ("stage1", "; lower stage1.batch_size, or raise stage1.accumulate"),
        (
            "features",
            "; lower features.batch_size; if a view is being trained, lower stage1.batch_size",
        ),
        ("evaluate", "; free the GPU, or set stage1.device=cpu"),
    ],
)
def test_a_full_gpu_is_no_bug(
    tmp_path: Path, step: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
            "8 GiB.\nMore"
        )

    monkeypatch.setattr(steps, step, full)
    assert main([step, "--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"shelfsort {step}: CUDA out of memory. Tried to allocate 2.00 GiB{remedy}"
    ), error
    assert len(error.splitlines()) == 1


def test_debug_shows_where_a_users_error_came_from(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--debug", "stage2", "--run", str(tmp_path / "none")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_it_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "stage2", stopped)
    folder = tmp_path / "my run"
    folder.mkdir()
    for more in ([], ["--rebuild"], ["--reb"]):
        assert main(["stage2", *more, "--run", str(folder)]) == 130
        assert (
            capsys.readouterr().err == f"\nstopped; go on with: shelfsort stage2 --run '{folder}'\n"
        )


@pytest.mark.parametrize("step", ["stage1", "features", "stage2", "evaluate"])
def test_a_second_command_on_the_same_run_is_refused(
    tmp_path: Path, step: str, capsys: pytest.CaptureFixture
) -> None:
    with run_lock(tmp_path):
        assert main([step, "--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"pid {os.getpid()} on " in error and "is writing this run" in error
    assert main([step, "--run", str(tmp_path)]) == 2  # now for want of its input, not of the lock
    assert "is writing" not in capsys.readouterr().err


def test_config_prints_what_it_would_run_with(capsys: pytest.CaptureFixture) -> None:
    assert main(["config", "--set", "stage1.lr=3e-4"]) == 0
    assert "lr: 0.0003" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, name",
    [
        (["synthetic", "--products", "8", "--categories", "2"], "train.bson"),
        (["synthetic", "--products", "8", "--categories", "2"], "category_names.csv"),
        (["score", "DUMP", "--run", "RUN"], "part-00007.parquet"),
        (["score", "DUMP", "--run", "RUN"], "kaggle.csv"),
    ],
)
def test_a_command_overwrites_nothing_that_it_did_not_make(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("of the shop")
    paths = {"DUMP": str(tiny.data / "test.bson"), "RUN": str(tiny.folder)}
    assert main([*(paths.get(word, word) for word in words), "--out", str(out)]) == 2
    assert f"{out / name}: exists, and was not made by this command" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "of the shop"


def test_synthetic_writes_what_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [
        "synthetic",
        "--out",
        str(tmp_path),
        "--categories",
        "4",
        "--side",
        "16",
        "--products",
    ]
    for products in (16, 24):  # another number, other files
        assert main([*command, str(products)]) == 0
        assert len(list(documents(tmp_path / "train.bson"))) == products
        assert len(list(documents(tmp_path / "test.bson"))) == products // 4
        assert len((tmp_path / "test_labels.csv").read_text().splitlines()) == 1 + products // 4
    kept = (tmp_path / "train.bson").stat().st_mtime_ns
    assert main([*command, "24"]) == 0 and (tmp_path / "train.bson").stat().st_mtime_ns == kept
    labels = [document["category_id"] for document in documents(tmp_path / "train.bson")]
    assert main([*command, "24", "--label-noise", "1"]) == 0
    wrong = [document["category_id"] for document in documents(tmp_path / "train.bson")]
    assert sum(a != b for a, b in zip(labels, wrong, strict=True)) >= 20
    assert (
        main([*command, "3"]) == 2
        and "synthetic products: expected at least one" in capsys.readouterr().err
    )


def test_predict_prints_five_lines_with_names(
    tiny: Tiny, photo: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["predict", "--run", str(tiny.folder), str(photo)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split("%")[0]) for line in lines]
    assert len(lines) == 5 and shares == sorted(shares, reverse=True) and sum(shares) <= 100.5
    ids = {str(i) for i in tiny.run.store.taxonomy.category_ids}
    assert all(line.split()[1] in ids and line.count(" > ") == 2 for line in lines)


def test_predict_leaves_out_what_it_cannot_read(
    tiny: Tiny, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    run = ["predict", "--run", str(tiny.folder)]
    assert main([*run, str(photo), str(bad), "--top", "3"]) == 0
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == 3 and f"left out {bad}" in out.err
    for arguments, expected in (
        ([str(bad)], str(bad)),
        ([str(tmp_path / "none.jpg")], "none.jpg: can't be read: No such file"),
    ):
        assert main([*run, *arguments]) == 2
        assert expected in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*run, str(photo), "--top", "0"])
    assert caught.value.code == 2


def test_as_a_module_from_any_folder(tiny: Tiny, photo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "predict", "--run", str(tiny.folder), str(photo)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and len(found.stdout.splitlines()) == 5, found.stderr


def test_score_and_labels(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "predictions"
    labels = tiny.data / "test_labels.csv"
    command = tiny.scoring(out, "--labels", str(labels))
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "score: 150 products = 150 predictions + 0 rejects" in text
    blank = int(pandas.read_parquet(out / "part-00000.parquet")["blank"].sum())
    assert (
        blank
        and f"top-1 of {150 - blank} labelled products: " in text
        and f"; {blank} more have no photo that can be" in text
    )
    assert (out / "_SUCCESS").exists()
    header, *rows = labels.read_text().splitlines()
    other = tmp_path / "labels.csv"
    for known, code, expected in (
        (rows[:50], 0, "labelled products: "),
        ([], 2, f"{other}: expected labels of the products"),
    ):
        other.write_text("\n".join([header, "999999999,1", *known]))
        assert main([*command[:-1], str(other)]) == code
        said = capsys.readouterr()
        assert expected in said.out + said.err


def test_a_labelled_dump_is_as_accurate_as_evaluate_says(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The test split as a dump with its labels; beside it two products that evaluate doesn't count
    either: all photos of one show nothing, and that of the other can't be read."""
    wanted = products_of(tiny.run, "test")
    count = write_dump(
        tmp_path / "labelled.bson", tiny.data / "train.bson", lambda d: d["_id"] in wanted
    )
    category = int(tiny.run.store.taxonomy.category_ids[0])
    blank = io.BytesIO()
    Image.new("RGB", (32, 32), "white").save(blank, "PNG")
    with open(tmp_path / "labelled.bson", "ab") as file:
        for number, photos in enumerate(([blank.getvalue()] * 2, [b"no picture"])):
            file.write(bson.encode(document(10**9 + number, category, photos)))
    command = tiny.scoring(tmp_path / "out", dump=tmp_path / "labelled.bson")
    assert main(command) == 0
    text = capsys.readouterr().out
    shares = (
        r"stage 1 (\S+)% .* adjusted (\S+)% .* two-stage (\S+)% .*; two-stage over adjusted (\S+) "
    )
    said = re.search(rf"top-1 of (\d+) labelled products: {shares}", text)
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet").query(
        "unit == 'product'"
    )
    items = items[items["item_id"].isin(wanted)]
    assert int(said[1]) == count == len(items)
    right = {
        name: (items[f"{name}_class"] == items["class_index"]).mean()
        for name in ("stage1", "shifted", "two_stage")
    }
    for printed, accuracy in zip(said.groups()[1:4], right.values(), strict=True):
        assert float(printed) == pytest.approx(100 * accuracy, abs=0.06)
    assert float(said[5]) == pytest.approx(100 * (right["two_stage"] - right["shifted"]), abs=0.01)
    assert "; 2 more have no photo that can be read and shows something, and don't count" in text
    found = pandas.read_parquet(tmp_path / "out" / "part-00000.parquet").set_index("product_id")
    assert found["blank"].sum() == 1 and found.loc[10**9, "blank"] and 10**9 + 1 not in found.index
