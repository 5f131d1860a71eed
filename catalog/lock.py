"""The lock of a run directory: one command at a time writes it."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from catalog.artifacts import writing
from catalog.errors import LockedError, ShelfsortError

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems without locks, such as some network mounts."""
_held: set[Path] = set()
"""The locks that this process holds: for the kernel, handles of one process don't exclude each
other."""
os.register_at_fork(after_in_child=_held.clear)  # a child holds none


@contextlib.contextmanager
def run_lock(run: str | Path) -> Iterator[None]:
    """Locks the run directory for one writing command, and removes files that killed ones left half
    written.

    The lock belongs to the process, not to its handle (fcntl, not flock): the kernel releases it
    with the process, even while a freshly forked child still has the handle, so that a dead process
    never blocks. Closing any handle of the file releases it too, so only this function opens it. If
    the file system has no locks, a file with pid and host stands in, and a warning says so.

    Raises LockedError with the holder's pid and host, ShelfsortError if the directory can't be
    written.
    """
    path, name = Path(run).absolute() / "lock", f"pid {os.getpid()} on {socket.gethostname()}"
    with writing(run):
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
    if path in _held:
        raise _locked(run, name)
    with writing(run):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    marker = None
    try:
        marker = _lock(run, path, handle, name)
        _held.add(path)
        os.ftruncate(handle, 0)
        os.pwrite(handle, name.encode(), 0)
        _drop_leftovers(path.parent)
        yield
    finally:
        _held.discard(path)
        os.close(handle)
        if marker:
            marker.unlink(missing_ok=True)


def _lock(run: str | Path, path: Path, handle: int, name: str) -> Path | None:
    """Locks an open file; returns the file that stands in, if its file system has no locks."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        raise _locked(
            run, os.read(handle, 200).decode(errors="replace").strip() or "an unnamed process"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise ShelfsortError(f"{path}: can't be locked: {error}") from error
        return _marked(run, path.with_name("lock.pid"), name)
    return None


def _marked(run: str | Path, marker: Path, name: str) -> Path:
    """Makes the file that stands in for a lock, replacing one that a dead process of this host
    left. Raises LockedError if a living process, or one of another host, has it."""
    for _ in range(2):
        try:
            with open(marker, "x", encoding="utf-8") as file:
                file.write(name)
        except FileExistsError:
            holder = marker.read_text(encoding="utf-8", errors="replace").strip()
            if not _gone(holder, name):
                raise _locked(run, f"{holder or 'an unnamed process'} ({marker})") from None
            marker.unlink(missing_ok=True)
        else:
            log.warning("%s: its file system has no locks; %s stands in for one", run, marker)
            return marker
    raise _locked(run, "an unnamed process")


def _gone(holder: str, name: str) -> bool:
    """Whether the holder `pid N on HOST` was a process of this host and has ended. A holder with
    our own pid is one of before a restart, as in containers: this process doesn't hold the lock."""
    pid, here = holder.removeprefix("pid ").partition(" ")[0], name.partition(" on ")[2]
    if not pid.isdigit() or holder.partition(" on ")[2] != here:
        return False
    return int(pid) == os.getpid() or not _alive(int(pid))


def _locked(run: str | Path, holder: str) -> LockedError:
    return LockedError(f"{run}: {holder} is writing this run; wait for it, or stop it")


def _drop_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that have ended, anywhere below `folder`; a killed
    process can't do so itself."""
    for path in folder.rglob(".*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and (
            int(pid) == os.getpid() or not _alive(int(pid))
        ):  # our own pid: of before a restart, as in containers
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
