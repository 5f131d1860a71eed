"""Files are whole or absent, whatever happens while they are written."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from catalog.artifacts import (
    atomic_path,
    differences,
    fingerprint,
    read_json,
    read_sealed,
    require_same,
    sha256_file,
    write_json,
    write_sealed,
    write_text,
)
from catalog.errors import ArtifactError, ShelfsortError
from tests.catalog.processes import python, result


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


def test_sealed_json_notices_every_change(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"schema": 2, "share": 0.25})
    assert read_sealed(path, "stage2", 2) == {"schema": 2, "share": 0.25}
    for old, new, problem in (
        ("0.25", "0.35", "its content doesn't match its fingerprint"),
        ('"schema": 2', '"schema": 3', "of schema 3, expected 2"),
        ("fingerprint", "fingerprinu", "has no fingerprint"),
    ):
        whole = path.read_text()
        path.write_text(whole.replace(old, new))
        with pytest.raises(ArtifactError, match=rf"a\.json: {problem}.*made by step stage2"):
            read_sealed(path, "stage2", 2)
        path.write_text(whole)


def test_json_round_trip_and_what_json_has_not(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, True], "nested": {"a": "<script>"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "evaluate") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json", "evaluate") == value


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"\0" * 100])
def test_missing_and_damaged_json_names_file_and_command(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(path, "ingest")
    assert str(caught.value).startswith(
        f"{path}: {'no such file' if content is None else 'not readable as JSON'}"
    )
    assert str(caught.value).endswith("(made by step ingest)")


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
    require_same("x", old, json.loads(json.dumps(old)), "features")
    with pytest.raises(
        ArtifactError,
        match=r"x: made from something else: .*train was None.* \(made by step features\)",
    ):
        require_same("x", new, old, "features")
