"""Other processes of this project, for tests of what happens between them."""

import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path

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


def as_nobody(folder: Path, function: Callable[[], None]) -> None:
    """Runs a function in a folder, in a process without root's power to open everything."""
    folder.chmod(0o755)
    if not (child := os.fork()):
        try:
            os.chdir(folder)
            if not os.getuid():
                os.setuid(65534)
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
