"""Scoring on dask workers: the same files as in one process, whatever dies on the way."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import ShelfsortError
from catalog.sources.source import open_source
from pipeline.cluster.client import connect
from pipeline.config import ScoreConfig
from pipeline.model import TwoStageModel
from pipeline.scoring.lanes import Task
from pipeline.scoring.parts import Part
from pipeline.scoring.score import Totals
from pipeline.scoring.workers import DaskWorkers, SentModel
from tests.pipeline.score_helpers import (
    CONFIG,
    assert_the_others_stand,
    contents,
    features,
    flip,
    ids,
    location,
    on,
    padded_dump,
    poisoned_dump,
    predictions,
    rejects,
    score,
    scorer,
    workers,
)
from tests.pipeline.tiny import Tiny, boosters_answer


@pytest.fixture(scope="module")
def scored(
    tiny: Tiny, model: TwoStageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Totals]:
    """A dump in several parts, scored in this process, and the totals. Only to be read."""
    folder = tmp_path_factory.mktemp("score")
    dump = padded_dump(tiny, folder / "test.bson")
    return dump, folder / "out", score(scorer(tiny, model), [dump], folder / "out")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Two worker processes; the limits of their threads don't stay in this process's
    environment."""
    before = {name for name in os.environ if name.endswith("_NUM_THREADS")}
    with workers(2, tmp_path_factory.mktemp("workers")) as client:
        yield client
    assert {name for name in os.environ if name.endswith("_NUM_THREADS")} == before


def test_two_workers_write_the_same_files(
    tiny: Tiny, client, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, alone, totals = scored
    assert score(on(client, tiny, dump, tmp_path), [dump], tmp_path) == totals
    assert contents(tmp_path) == contents(alone)
    assert len(list(alone.glob("part-*.parquet"))) >= 3


def test_adapting_workers_write_the_same_files_though_one_is_killed(
    tiny: Tiny, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, alone, totals = scored
    with connect(None, None, adapt=(1, 2)) as client:
        workers_engine = on(client, tiny, dump, tmp_path)
        killed = []

        def engine(tasks: Iterable[Task], config: ScoreConfig) -> Iterator[Part]:
            for part in workers_engine.engine(tasks, config):
                if not killed:
                    killed.append(next(iter(client.run(os.getpid).values())))
                    os.kill(killed[0], signal.SIGKILL)
                yield part

        assert score(replace(workers_engine, engine=engine), [dump], tmp_path) == totals
    assert killed and contents(tmp_path) == contents(alone)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_products_that_kill_workers_stand_alone_in_the_rejects(
    tiny: Tiny, model: TwoStageModel, client, tmp_path: Path
) -> None:
    some = ids(tiny.data / "test.bson")
    poison = {some[3], some[60]}
    dump = poisoned_dump(tiny, tmp_path / "poisoned.bson", poison)
    config = CONFIG.model_copy(update={"features": True})
    quiet = score(
        scorer(tiny, model), [dump], tmp_path / "quiet", config
    )  # here the pictures do no harm
    totals = score(on(client, tiny, dump, tmp_path / "out"), [dump], tmp_path / "out", config)
    assert quiet.predictions == quiet.products == totals.products
    assert (totals.predictions, totals.rejected_products) == (quiet.products - 2, 2)
    found = rejects(tmp_path / "out")
    whole = found[found["position"] == -1]
    assert set(whole["product_id"]) == poison and set(whole["reason"]) == {"kills_worker"}
    frames = [
        (predictions(tmp_path / name), features(tmp_path / name)) for name in ("quiet", "out")
    ]
    assert_the_others_stand(*frames, without=poison)


def test_a_model_that_no_worker_sees_is_sent(
    tiny: Tiny,
    client,
    scored: tuple[Path, Path, Totals],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dump, alone, totals = scored
    copy = tiny.copy(tmp_path / "run")
    client.run(hide, str(tmp_path / "run"))
    assert score(on(client, copy, dump, tmp_path / "out"), [dump], tmp_path / "out") == totals
    assert contents(tmp_path / "out") == contents(alone)


def test_a_worker_that_lives_on_reads_a_mended_stage_2(
    tiny: Tiny, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, _, totals = scored
    copy, out = tiny.copy(tmp_path / "run"), tmp_path / "out"
    boosters = boosters_answer(copy)
    with workers(1, tmp_path) as client:  # none that has been sent the whole model
        by = on(client, copy, dump, out)
        for booster in boosters:
            flip(booster)
        assert score(by, [dump], out).broken
        for booster in boosters:
            flip(booster)
        assert score(by, [dump], out) == totals
        again = tmp_path / "again"
        score(on(client, copy, dump, again), [dump], again)
    assert contents(out) == contents(again)


def test_a_worker_that_comes_later_and_does_not_see_the_model_is_sent_it(
    tiny: Tiny, scored: tuple[Path, Path, Totals], tmp_path: Path
) -> None:
    dump, alone, totals = scored
    with workers(1, tmp_path) as client:
        by = on(client, tiny, dump, tmp_path / "out")  # all see it now
        client.run(hide, str(tiny.folder))
        assert score(by, [dump], tmp_path / "out") == totals
    assert contents(tmp_path / "out") == contents(alone)


def hide(folder: str) -> None:
    """In a worker: as if a folder were on another machine."""
    from pipeline.scoring.workers import ModelLocation

    visible = ModelLocation.visible
    ModelLocation.visible = lambda location: location.folder != folder and visible(location)


def test_a_dump_that_a_worker_does_not_see_is_an_error(tiny: Tiny, client, tmp_path: Path) -> None:
    dump = padded_dump(tiny, tmp_path / "a.bson")
    source = open_source([dump], tmp_path)
    dump.rename(tmp_path / "b.bson")
    with pytest.raises(
        ShelfsortError,
        match=r"a\.bson: worker tcp://.* sees no such file of the same size; put it on a disk",
    ):
        DaskWorkers(client, location(tiny), source.files)


def test_no_scheduler_is_an_error() -> None:
    with pytest.raises(
        ShelfsortError,
        match=r"tcp://127\.0\.0\.1:9: expected a dask scheduler with a worker, found none",
    ):
        with connect(None, "tcp://127.0.0.1:9"):
            pass


def test_the_sent_model_holds_no_more_than_it_needs(tiny: Tiny) -> None:
    assert len(SentModel(location(tiny)).content) < 3 * sum(
        p.stat().st_size for p in tiny.folder.rglob("best.pt")
    )


def test_a_bug_in_a_worker_is_an_error_here(tiny: Tiny, client, tmp_path: Path) -> None:
    """Also one whose traceback is too deep to travel."""
    dump = padded_dump(tiny, tmp_path / "test.bson")
    by = on(client, tiny, dump, tmp_path)
    client.run(break_reading)
    try:
        with pytest.raises(RuntimeError, match=r"part \d on worker tcp://(.|\n)*RecursionError"):
            score(by, [dump], tmp_path)
    finally:
        client.run(mend_reading)


def break_reading() -> None:
    """In a worker: a bug."""
    from pipeline.scoring.lanes import Task

    def endless(task: Task, row: int) -> list[bytes]:
        return endless(task, row)

    Task.sound, Task.photos = Task.photos, endless


def mend_reading() -> None:
    """In a worker: takes the bug out again."""
    from pipeline.scoring.lanes import Task

    Task.photos = Task.sound
