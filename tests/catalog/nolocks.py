"""A file system without locks, as some network mounts are: a library that has flock and fcntl fail,
for processes of their own (LD_PRELOAD)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
static int refuse(void) { errno = atoi(getenv("LOCK_ERRNO")); return -1; }
int flock(int file, int operation) { return refuse(); }
static int other(const char *name, int file, int command, void *argument) {
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK) return refuse();
    return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, name))(file, command, argument);
}
#define REPLACED(name) int name(int file, int command, ...) { \
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest); \
    return other(#name, file, command, argument); }
REPLACED(fcntl)
REPLACED(fcntl64)
"""


def run_without_locks(code: str, folder: Path, error: int) -> subprocess.CompletedProcess:
    """Runs Python code in a process to which every lock fails with this errno. Skips the test if
    there is no C compiler."""
    if not (compiler := shutil.which("cc") or shutil.which("gcc")) or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    source, library = folder / "nolocks.c", folder / "nolocks.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    root = str(Path(__file__).parents[2])
    preload = {"LD_PRELOAD": str(library), "LOCK_ERRNO": str(error), "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | preload,
        capture_output=True,
        text=True,
        timeout=100,
    )
