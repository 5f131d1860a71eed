"""A features.h5 that the system refuses to open is no damaged one: nothing says to rebuild it, and
nothing removes it."""

import contextlib
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import ArtifactError, ShelfsortError
from features.store import FeatureStore
from features.vectors import VectorFile
from features.writer import FeatureWriter
from tests.catalog.nolocks import run_without_locks
from tests.catalog.processes import as_nobody
from tests.features.rows import CLASSES, COMPUTED_WITH, MADE_FROM, WIDTH, Made


@pytest.fixture
def path(made: Made, tmp_path: Path) -> Path:
    made.write(tmp_path / "features.h5")
    return tmp_path / "features.h5"


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """As by a notebook: another process has the file open to write."""
    code = f"import h5py\nwith h5py.File({str(path)!r}, 'r+'): print('open', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as notebook:
        assert notebook.stdout.readline() == b"open\n"
        yield
        notebook.communicate(b"\n", timeout=60)


def test_a_file_that_a_notebook_holds_is_not_damaged(path: Path) -> None:
    with held(path):
        with pytest.raises(ShelfsortError, match="can't be opened: another program") as caught:
            len(FeatureStore(path))
        assert not isinstance(caught.value, ArtifactError)
    assert len(FeatureStore(path))


def test_an_unfinished_file_that_is_held_stays(made: Made, path: Path) -> None:
    partial = path.rename(path.with_name("features.h5.partial"))
    before = partial.read_bytes()
    arguments = (path, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH)
    with held(partial), pytest.raises(ShelfsortError, match="another program"):
        FeatureWriter(*arguments)
    assert partial.read_bytes() == before


def test_a_file_stays_until_its_successor_can_be_written(made: Made, path: Path) -> None:
    before = path.read_bytes()
    path.with_name("features.h5.partial").mkdir()  # where the successor would be begun
    arguments = (path, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH)
    with pytest.raises(ShelfsortError, match="can't be written"):
        FeatureWriter(*arguments)
    assert path.read_bytes() == before
    path.with_name("features.h5.partial").rmdir()
    with FeatureWriter(*arguments):
        assert not path.exists()


def test_a_file_without_permission_is_not_damaged(path: Path) -> None:
    path.chmod(0)

    def read() -> None:
        with pytest.raises(ShelfsortError, match="can't be opened: no permission") as caught:
            len(FeatureStore(Path(path.name)))
        assert not isinstance(caught.value, ArtifactError)

    as_nobody(path.parent, read)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_read_and_written(path: Path, error: int) -> None:
    code = """
from features.hdf5 import open_hdf5
from features.store import FeatureStore
print(len(FeatureStore("features.h5")))
with open_hdf5("new.h5", "w") as file:
    file["image_id"], file["features"] = [3], [[1.0]]
"""
    done = run_without_locks(code, path.parent, error)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(FeatureStore(path))
    with VectorFile(path.with_name("new.h5")) as vectors:
        assert vectors.width == 1
