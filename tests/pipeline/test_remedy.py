"""What an error about an artefact prints can be pasted: whole, quoted, and about the right run."""

import shlex
from pathlib import Path

import pytest

from catalog.errors import ArtifactError
from catalog.store.reader import Store
from pipeline.cli import parser
from pipeline.remedy import with_remedy

RUN = "my runs/a"


def printed(error: ArtifactError, command: str) -> str:
    """What the command line prints of an error that `command` met."""
    words = shlex.split(command)
    return with_remedy(error, parser().parse_args(words), words)


@pytest.mark.parametrize(
    ("place", "step", "running", "expected"),
    [
        ("features.h5", "features", "stage2", "shelfsort features --run '{run}' --rebuild"),
        ("stage1/best.pt", "stage1", "predict a.jpg", "shelfsort stage1 --run '{run}' --rebuild"),
        (
            "stage1/summary.json",
            "stage1",
            "stage1 --set stage1.lr=1 --rebuild",
            "shelfsort stage1 --set stage1.lr=1 --run '{run}' --rebuild",
        ),
        (
            "views/small/stage1/best.pt",
            "stage1",
            "score b.bson --out c",
            "shelfsort features --run '{run}' --rebuild",
        ),
        (
            "similar/codes.npy",
            "similar",
            "similar 'my photo.jpg'",
            "shelfsort similar 'my photo.jpg' --run '{run}' --rebuild",
        ),
        (
            "features.h5",
            "features",
            "stage2 --config 'my own.yaml' --set features.precision=bf16 --set stage2.published=1",
            "shelfsort features --run '{run}' --config 'my own.yaml' "
            "--set features.precision=bf16 --rebuild",
        ),
        (
            "similar/features.h5",
            "features",
            "similar a.jpg",
            "shelfsort similar a.jpg --run '{run}' --rebuild",
        ),
        (
            "compare/small/seed-1/stage1/last.pt",
            "stage1",
            "compare a.yaml b.yaml",
            "rm -r '{run}/compare/small/seed-1' && shelfsort compare a.yaml b.yaml --run '{run}'",
        ),
        (
            "tune/stage1/heads/all/last.pt",
            "stage1",
            "tune stage1",
            "rm -r '{run}/tune/stage1/heads/all' && shelfsort tune stage1 --run '{run}'",
        ),
        (
            "../../out of it/part-00000.json",
            "score",
            "score b.bson --out 'out of it'",
            "rm -r 'out of it' && shelfsort score b.bson --out 'out of it' --run '{run}'",
        ),
        (
            "store.sqlite",
            "ingest",
            "ingest --dump 'a b.bson'",
            "shelfsort ingest --dump 'a b.bson' --run '{run}' --rebuild",
        ),
        (
            "store.sqlite",
            "ingest",
            "evaluate",
            "shelfsort ingest --run '{run}' --dump FILE --categories CSV --rebuild",
        ),
    ],
)
def test_the_command_is_whole(place: str, step: str, running: str, expected: str) -> None:
    path = Path(RUN) / place
    text = printed(ArtifactError(path, "damaged", step), f"{running} --run '{RUN}'")
    assert text == f"{path}: damaged; rebuild it with: {expected.format(run=RUN)}"


def test_what_is_unfinished_is_not_begun_anew() -> None:
    error = ArtifactError(Path(RUN) / "stage1" / "summary.json", "none", "stage1", resume=True)
    assert printed(error, f"stage1 --rebuild --run '{RUN}'").endswith(
        f"none; go on with: shelfsort stage1 --run '{RUN}'"
    )
    assert printed(error, f"features --run '{RUN}'").endswith(
        f"none; go on with: shelfsort stage1 --run '{RUN}'"
    )


def test_a_scoring_that_may_go_on_keeps_its_parts() -> None:
    error = ArtifactError(RUN, "not seen by a worker", "score", resume=True)
    assert printed(error, f"score b.bson --out c --run '{RUN}'").endswith(
        f"worker; go on with: shelfsort score b.bson --out c --run '{RUN}'"
    )


def test_of_several_runs_it_is_the_one_with_the_file() -> None:
    error = ArtifactError(Path("runs/b/evaluation/metrics.json"), "damaged", "evaluate")
    assert printed(error, "report runs/a runs/b").endswith(
        "rebuild it with: shelfsort evaluate --run runs/b --rebuild"
    )
    assert printed(error, "plot confusion runs/b").endswith("evaluate --run runs/b --rebuild")


def test_a_store_that_can_be_read_names_its_dump(small_store: Store) -> None:
    folder = small_store.path.parent
    error = ArtifactError(folder / "taxonomy.json", "damaged", "ingest")
    [dump] = small_store.dump_sources()
    assert printed(error, f"report {folder}").endswith(
        f"shelfsort ingest --run {folder} --dump {dump} --categories CSV --rebuild"
    )


def test_of_processes_of_torchrun_it_is_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    error = ArtifactError(Path("a/stage1/summary.json"), "of other settings", "stage1")
    assert printed(error, "stage1 --run-folder a").endswith(
        "torchrun --nproc-per-node=2 --no-python shelfsort stage1 --run-folder a --rebuild"
    )
