"""Writing through a memory map onto a disk that is too small is an error; it used to end the
process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SAID = """
import sys
from collections.abc import Callable
from pathlib import Path
from catalog.errors import ShelfsortError
folder = Path(sys.argv[1])

def said(call: Callable[[], object]) -> None:
    try:
        call()
    except ShelfsortError as error:
        print(error, list(folder.iterdir()))
"""
_HEAD_PHASE = """
from stage1_cnn.processes import SINGLE_PROCESS, Processes
from stage1_cnn.training.inputs import _allocate
for processes in (SINGLE_PROCESS, Processes(size=2)):
    said(lambda: _allocate(20000, 2048, folder, processes).fill(1))
"""
_INDEX = """
from features.similar import build
from features.store import FeatureStore
from tests.features.rows import make_rows
make_rows(30000).write(folder.with_name("features.h5"), batch=4096)
said(lambda: build(folder, FeatureStore(folder.with_name("features.h5"))))
"""


@pytest.mark.parametrize(
    ("script", "kilobytes", "name", "times"),
    [(_HEAD_PHASE, 8192, "", 2), (_INDEX, 128, "/codes.npy", 1)],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, script: str, kilobytes: int, name: str, times: int
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    apart, mount = ["unshare", "-rm", "sh", "-c"], f'mount -t tmpfs -o size={kilobytes}k tmpfs "$0"'
    if subprocess.run([*apart, mount, str(folder)], capture_output=True).returncode:
        pytest.skip("this system allows no disk of one's own")
    command = [
        *apart,
        f'{mount} && exec "$@"',
        str(folder),
        sys.executable,
        "-c",
        _SAID + script,
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == f"{folder}{name}: can't be written: [Errno 28] No space left on device []\n" * times
    )
