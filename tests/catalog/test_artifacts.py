"""Files are whole or absent, whatever happens while they are written; a run has one writer at a
time."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog.artifacts import (
    atomic_path,
    differences,
    fingerprint,
    read_json,
    read_sealed,
    require_same,
    run_lock,
    sha256_file,
    write_json,
    write_sealed,
    write_text,
)
from catalog.errors import ArtifactError, LockedError, ShelfsortError

ROOT = Path(__file__).parents[2]


def python(script: str, *arguments: object, **options: object) -> subprocess.Popen:
    """Another process of this project."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def result(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def test_a_written_file_is_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "ä\nb.txt"
    write_text(target, "first")
    write_text(target, "zweiter €")
    assert target.read_bytes() == "zweiter €".encode()
    assert os.listdir(target.parent) == [target.name]


def test_the_umask_decides_on_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    expected = ShelfsortError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:  # noqa: PT012
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{target}: can't be written: ")


def test_nothing_is_published_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ShelfsortError, match="can't be written"), atomic_path(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShelfsortError, match=r"file/a\.txt: can't be written"):
        write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(ShelfsortError, match="can't be written"):
        write_text(tmp_path, "x")  # a folder of that name


DISK_FULL = """
    import resource, signal, sys
    from catalog.artifacts import write_text
    from catalog.errors import ShelfsortError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        write_text(sys.argv[1], "x" * 1_000_000)
    except ShelfsortError as error:
        print(error)
"""


@pytest.mark.parametrize("before", [None, "old"])
def test_a_full_disk_leaves_no_torn_file(tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "a.txt"
    if before:
        target.write_text(before)
    message = result(python(DISK_FULL, target))
    assert message.startswith(f"{target}: can't be written: ")
    assert "File too large" in message
    assert os.listdir(tmp_path) == (["a.txt"] if before else [])
    assert not before or target.read_text() == before


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    process = python(
        """
        import os, signal, sys
        from catalog.artifacts import atomic_path
        with atomic_path(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        target,
    )
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_what_killed_writers_left_goes_with_the_next_command(tmp_path: Path) -> None:
    gone = python("pass")
    result(gone)
    for name in (
        f".a.txt.{gone.pid}.tmp",
        f"stage2/boosters/.b.ubj.{gone.pid}.tmp",
        f".c.{os.getppid()}.tmp",
        ".d.tmp",
        "e.tmp",
    ):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with run_lock(tmp_path / "run"):
        left = {path.name for path in (tmp_path / "run").rglob("*.tmp")}
    assert left == {
        f".c.{os.getppid()}.tmp",
        ".d.tmp",
        "e.tmp",
    }  # of a process that lives, and what is not ours


def test_sealed_json_notices_every_change(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"schema": 2, "share": 0.25})
    assert read_sealed(path, "REBUILD", 2) == {"schema": 2, "share": 0.25}
    for old, new, problem in (
        ("0.25", "0.35", "its fingerprint is not its own"),
        ('"schema": 2', '"schema": 3', "of schema 3, expected 2"),
        ("fingerprint", "fingerprinu", "has no fingerprint"),
    ):
        whole = path.read_text()
        path.write_text(whole.replace(old, new))
        with pytest.raises(ArtifactError, match=rf"a\.json: {problem}.*rebuild it with: REBUILD"):
            read_sealed(path, "REBUILD", 2)
        path.write_text(whole)


def test_json_round_trip_and_what_json_has_not(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, True], "nested": {"a": "<script>"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "shelfsort x") == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json", "shelfsort x") == value


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"\0" * 100])
def test_missing_and_damaged_json_names_file_and_command(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(path, "shelfsort ingest")
    assert str(caught.value).startswith(
        f"{path}: {'no such file' if content is None else 'not readable as JSON'}"
    )
    assert str(caught.value).endswith("rebuild it with: shelfsort ingest")


def test_fingerprints_are_of_the_value_and_stay() -> None:
    expected = hashlib.sha256('{"a":null,"b":[1,"é"]}'.encode()).hexdigest()[:16]
    assert (
        fingerprint({"b": [1, "é"], "a": None})
        == fingerprint({"a": None, "b": [1, "é"]})
        == expected
    )
    assert len({fingerprint(v) for v in (1, 1.5, "1", [1], {"1": 1}, None, True, [])}) == 8


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_of_fingerprints_twelve_digits_are_named() -> None:
    found = differences(
        {"checkpoint": "a" * 64, "name": "b" * 20 + "z"}, {"checkpoint": "c" * 64, "name": "d"}
    )
    assert found == [
        f"checkpoint was '{'c' * 12}', is now '{'a' * 12}'",
        f"name was 'd', is now '{'b' * 20}z'",
    ]


def test_differences_are_named_by_their_keys() -> None:
    old = {
        "schema": 1,
        "settings": {"seed": 0, "caps": {"train": None, "test": 5}},
        "gone": 1,
        "same": [1],
    }
    new = {
        "schema": 1,
        "settings": {"seed": 0, "caps": {"train": 300, "test": 5}},
        "same": [1],
        "added": {"a": 1},
    }
    assert differences(new, old) == [
        "added was None, is now {'a': 1}",
        "gone was 1, is now None",
        "settings.caps.train was None, is now 300",
    ]
    require_same("x", old, json.loads(json.dumps(old)), "shelfsort y")
    with pytest.raises(
        ArtifactError,
        match=r"x: made from something else: .*train was None.*; rebuild it with: shelfsort y",
    ):
        require_same("x", new, old, "shelfsort y")


HOLDER = """
    import ctypes, os, sys, time
    from catalog.artifacts import run_lock
    with run_lock(sys.argv[1]):
        child = "locked"
        if sys.argv[2:] == ["fork"]:
            child = os.fork()
        if sys.argv[2:] == ["clone"]:  # as a forked one is before any of Python's hooks has run in it
            child = ctypes.PyDLL(None).fork()
        if sys.argv[2:] == ["spawn"]:
            import subprocess
            child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False).pid
        if child:
            print(child, flush=True)
        time.sleep(60)
"""


@contextmanager
def holder(run: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process that holds the lock, and what it says: "locked", or the pid of its child."""
    process = python(HOLDER, run, *arguments)
    said = process.stdout.readline().strip()
    try:
        yield process, said
    finally:
        process.kill()
        if said.isdigit():
            os.kill(int(said), signal.SIGKILL)
        process.communicate()


def test_the_second_writer_is_refused_with_the_first_ones_pid_and_host(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as (process, said):
        assert said == "locked"
        with pytest.raises(
            LockedError, match=f"pid {process.pid} on {socket.gethostname()} is writing this run"
        ):
            with run_lock(tmp_path / "run"):
                pytest.fail("two writers")
        process.kill()  # dies without a word
        process.wait()
        with run_lock(tmp_path / "run"):
            assert (
                tmp_path / "run" / "lock"
            ).read_text() == f"pid {os.getpid()} on {socket.gethostname()}"
    with (
        run_lock(tmp_path / "run"),
        pytest.raises(LockedError, match=f"pid {os.getpid()} "),
        run_lock(tmp_path / "run"),
    ):
        pytest.fail("two writers in one process")


@pytest.mark.parametrize("kind", ["fork", "clone", "spawn"])
def test_children_that_outlive_their_parent_do_not_hold_the_lock(tmp_path: Path, kind: str) -> None:
    with holder(tmp_path, kind) as (process, child):
        with pytest.raises(LockedError), run_lock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # still there
        with run_lock(tmp_path):
            pass


def refused(run: Path) -> bool:
    """Whether another process is refused, with this one's pid."""
    second = python(
        "import sys; from catalog.artifacts import run_lock\nwith run_lock(sys.argv[1]): pass", run
    )
    _, error = second.communicate(timeout=120)
    return second.returncode != 0 and f"LockedError: {run}: pid {os.getpid()} on " in error


@pytest.mark.parametrize(
    "leave", [lambda lock: os._exit(0), lambda lock: lock.__exit__(None, None, None)]
)
def test_a_forked_child_neither_holds_nor_ends_its_parents_lock(
    tmp_path: Path, leave: Callable[[object], object]
) -> None:
    with (lock := run_lock(tmp_path)):
        child = os.fork()
        if child == 0:
            try:
                with run_lock(tmp_path):
                    os._exit(3)
            except LockedError as error:
                if f"pid {os.getppid()} on " in str(error):
                    leave(lock)
                    os._exit(0)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0)[1] == 0
        assert refused(tmp_path)


def test_one_folder_by_two_names_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run"):
        with (
            pytest.raises(LockedError, match=f"link: pid {os.getpid()} on "),
            run_lock(tmp_path / "link"),
        ):
            pytest.fail("two writers in one process")
        assert refused(tmp_path / "run"), "the attempt let go of the lock"


def test_a_run_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ShelfsortError, match="file/run: can't be written"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
    (tmp_path / "lock").mkdir()
    with pytest.raises(ShelfsortError, match="can't be written"), run_lock(tmp_path):
        pass
