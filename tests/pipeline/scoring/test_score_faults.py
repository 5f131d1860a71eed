"""What may befall a scoring: damaged files, a full disk, a kill at any moment. The same command
always repairs it."""

import base64
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.model import TwoStageModel
from tests.moments import Moment, kill_at_moment
from tests.pipeline.commands import run, start
from tests.pipeline.score_helpers import (
    KILLS_ONCE,
    contents,
    flip,
    ids,
    on,
    padded_dump,
    poisoned_dump,
    predictions,
    rejects,
    score,
    scorer,
    workers,
)
from tests.pipeline.tiny import Tiny, boosters_answer, write_dump


@pytest.fixture(scope="module")
def scored(
    tiny: Tiny, model: TwoStageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes]]:
    """A dump in several parts, and what scoring it gives."""
    folder = tmp_path_factory.mktemp("score")
    dump = padded_dump(tiny, folder / "test.bson")
    score(scorer(tiny, model), [dump], folder / "out")
    return dump, contents(folder / "out")


FAULTS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_damaged_file_is_made_again(
    tiny: Tiny,
    model: TwoStageModel,
    scored: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    fault: Callable[[Path], object],
) -> None:
    dump, whole = scored
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    for name in (
        "part-00000.parquet",
        "rejects-00001.parquet",
        "part-00002.json",
        "kaggle.csv",
        "rejects-scan.parquet",
    ):
        fault(tmp_path / name)
    score(scorer(tiny, model), [dump], tmp_path)
    assert contents(tmp_path) == whole


def test_parts_of_a_larger_source_do_not_stay(
    tiny: Tiny, model: TwoStageModel, scored: tuple[Path, dict], tmp_path: Path
) -> None:
    dump, whole = scored
    for name in ("part-00077.parquet", "part-00077.json", "rejects-00077.parquet"):
        (tmp_path / name).write_bytes(b"")
    score(scorer(tiny, model), [dump], tmp_path)
    assert contents(tmp_path) == whole


def scoring(tiny: Tiny, dump: Path, out: Path, *more: str) -> list[str]:
    """Arguments that score; the batches are small, so that there is much to be interrupted."""
    return tiny.scoring(out, "--set", "score.batch_size=8", *more, dump=dump)


def command(*arguments: object) -> list[str]:
    """The same as a process of its own."""
    return [sys.executable, "-m", "pipeline", *scoring(*arguments)]


def test_a_full_disk_is_an_error_and_the_same_command_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    dump, out = padded_dump(tiny, tmp_path / "test.bson"), tmp_path / "out, with ümlaut"

    def nearly_full() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))

    failed = run(command(tiny, dump, out), preexec_fn=nearly_full)
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1, failed.stderr
    assert str(out) in failed.stderr and "can't be written: " in failed.stderr
    assert not (out / "_SUCCESS").exists() and not list(out.rglob(".*.tmp"))
    assert run(command(tiny, dump, out)).returncode == 0 and (out / "_SUCCESS").exists()


def test_a_folder_that_cannot_be_written_is_an_error(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert main(tiny.scoring(out)) == 2
    assert f"{out}: can't be written: " in capsys.readouterr().err


def test_the_pool_answers_for_damaged_boosters_until_these_are_back(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own, out = tiny.copy(tmp_path / "run"), tmp_path / "out"
    boosters = boosters_answer(own)
    scoring = ["score", str(tiny.data / "test.bson"), "--run", str(own.folder), "--out"]
    assert main([*scoring, str(tmp_path / "whole")]) == 0
    for booster in boosters:
        flip(booster)
    assert main([*scoring, str(out)]) == 0
    broken = json.loads((out / "_SUCCESS").read_text())["broken"]
    assert broken and set(broken) <= {f"boosters/{booster.name}" for booster in boosters}
    remedy = f"stage 2 answered without {', '.join(broken)}; rebuild it with: shelfsort stage2"
    assert remedy in capsys.readouterr().out
    assert len(predictions(out)) == 150
    for booster in boosters:
        flip(booster)
    assert main([*scoring, str(out)]) == 0 and contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_client_is_killed_and_started_again(tiny: Tiny, tmp_path: Path) -> None:
    dump, out = padded_dump(tiny, tmp_path / "test.bson"), tmp_path / "out"
    assert run(command(tiny, dump, tmp_path / "whole")).returncode == 0
    second = Moment(2, "write_part").command(
        tmp_path / "count", "pipeline", *scoring(tiny, dump, out, "--workers", "2")
    )
    assert kill_at_moment(start(second))
    assert len(list(out.glob("part-*.json"))) == 1 and not (out / "_SUCCESS").exists()
    last = run(command(tiny, dump, out, "--workers", "2"))
    assert last.returncode == 0, last.stderr
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_workers_are_killed_during_a_run(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    some = ids(tiny.data / "test.bson")
    dump = poisoned_dump(tiny, tmp_path / "test.bson", {some[5], some[70], some[140]}, KILLS_ONCE)
    score(scorer(tiny, model), [dump], tmp_path / "whole")
    with workers(2, tmp_path) as client:
        totals = score(on(client, tiny, dump, tmp_path / "out"), [dump], tmp_path / "out")
    assert len(list(tmp_path.glob("*.killed"))) == 3 and totals.products == totals.predictions
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_half_a_dump_is_an_error_until_its_damage_is_accepted(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole, cut, out = tiny.data / "test.bson", tmp_path / "cut.bson", tmp_path / "out"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert main(scoring(tiny, cut, out)) == 2 and not (out / "_SUCCESS").exists()
    error = capsys.readouterr().err
    assert f"{cut}: at byte " in error and "the file ends inside a document" in error
    assert error.rstrip().endswith("--accept-damage") and len(error.splitlines()) == 1
    assert main(scoring(tiny, cut, out, "--accept-damage")) == 0
    assert "rejected products: truncated 1" in capsys.readouterr().out
    assert json.loads((out / "_SUCCESS").read_text())["reasons"] == {"truncated": 1}
    assert len(predictions(out)) > 50


def test_a_source_without_a_usable_photo_is_an_error(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    dump, out = tmp_path / "a.bson", tmp_path / "out"
    write_dump(dump, tiny.data / "test.bson", lambda d: d["_id"] % 9 == 0, base64_pictures)
    assert main(scoring(tiny, dump, out)) == 2 and not (out / "_SUCCESS").exists()
    assert "no_readable_image " in (error := capsys.readouterr().err) and "not_an_image" in error
    assert set(rejects(out)["reason"]) == {"no_readable_image", "not_an_image"}


def base64_pictures(document: dict) -> None:
    for image in document["imgs"]:
        image["picture"] = base64.b64encode(image["picture"])
