"""Reading files on this machine, or behind any URL that fsspec knows: s3://, gs://, http:// and
others."""

import contextlib
import glob
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import fsspec
import xxhash

from catalog.config import SourcesConfig
from catalog.errors import ShelfsortError

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""Exceptions that mean the compressed data is damaged, so retrying is useless. Any other may be the
disk's or the server's fault."""
UNREADABLE = "unreadable_file"
"""Reason of a reject: a file that doesn't exist, or is none."""
UNREADABLE_FOLDER = "unreadable_folder"
_STAMPS = ("ETag", "etag", "LastModified", "mtime", "updated", "created", "md5Hash")
"""What file systems call a file's version."""
ACCESS = SourcesConfig()
"""How URLs are opened that nothing more is known of."""


class Span(NamedTuple):
    """Where a photo is in its file: a span of bytes, `stored` or `deflated`; or, of a Parquet
    `cell`, the number of its row in `offset` and its place in the row's list in `length`."""

    kind: Literal["stored", "deflated", "cell"]
    offset: int
    length: int
    column: str = ""


class ListedFile(NamedTuple):
    """A photo as a folder, archive or table lists it: its path within it; its path or URL, or that
    of the file that it is in; bytes and version, if they are known; and where in that file."""

    relative: str
    path: str
    size: int | None = None
    stamp: int = 0
    span: Span | None = None


class LostFile(NamedTuple):
    """Something below a folder that can't be read: its path, and why."""

    path: str
    reason: str
    detail: str


class Anchor(NamedTuple):
    """What tells whether a listing is current: a file with its version and bytes, or a folder with
    its time and number of entries."""

    path: str
    stamp: int
    size: int


class Listing(NamedTuple):
    """What is below a folder: files, sorted by their paths; what can't be read; and the folders
    themselves, if they can tell whether the listing is current."""

    files: list[ListedFile]
    lost: list[LostFile]
    folders: list[Anchor]


def is_url(path: str | Path) -> bool:
    """Whether fsspec has to find the file."""
    return "://" in str(path)


def printable(path: str | Path) -> str:
    r"""A path as text that can be written anywhere: bytes that are not UTF-8 appear as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turns what a file system raises into a ShelfsortError that names the file."""
    try:
        yield
    except ShelfsortError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if isinstance(error, FileNotFoundError) and is_url(path):
            reason = "not found, or its server wants a key (sources.headers)"
        raise ShelfsortError(f"{printable(path)}: can't be read: {reason}") from error
    except Exception as error:  # fsspec's file systems pass on what their own libraries raise
        reason = str(error) or type(error).__name__
        raise ShelfsortError(f"{printable(path)}: can't be read: {reason}") from error


def locate(url: str, access: SourcesConfig = ACCESS) -> tuple[Any, str]:
    """The file system of a URL, and its path in it."""
    with _explained(url):
        scheme, path = url.split("://", 1)
        with_headers = access.headers and scheme.lower() in ("http", "https")
        options = {"headers": dict(access.headers)} if with_headers else {}
        try:
            return fsspec.core.url_to_fs(f"{scheme.lower()}://{path}", **options)
        except ImportError as error:
            raise ShelfsortError(f"{url}: can't be read: {error}") from error


def size_and_stamp(path: str | Path, access: SourcesConfig = ACCESS) -> tuple[int, int]:
    """Bytes of a file, and a number that changes with its content as far as its file system tells
    (mtime in ns for local files)."""
    if not is_url(path):
        with _explained(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
    system, remote = locate(str(path), access)
    with _explained(path):
        info = system.info(remote)
    if info.get("size") is None:
        raise ShelfsortError(
            f"{path}: its server doesn't tell its size, so it can't be read in parts; "
            "copy it to a disk first"
        )
    return int(info["size"]), _stamp(info)


def open_file(path: str, buffer: int = -1, access: SourcesConfig = ACCESS) -> BinaryIO:
    """Opens a file to read its bytes, decompressed if its name ends in .gz. A local plain file is
    read `buffer` bytes at a time."""
    packed = path.lower().endswith(".gz")
    with _explained(path):
        if not is_url(path):
            return _unpacked(path) if packed else open(path, "rb", buffer)
        system, remote = locate(path, access)
        file = system.open(remote, "rb")
        return _unpacked(file) if packed else file


def _unpacked(file: str | BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.open(file, "rb"))


def matching(path: str, access: SourcesConfig = ACCESS) -> list[str]:
    """The files that a path or pattern names, sorted; empty if nothing matches."""
    if not is_url(path):
        return [path] if os.path.exists(path) else sorted(glob.glob(path))
    if "*" not in path:
        return [path]
    system, remote = locate(path, access)
    with _explained(path):
        return sorted(map(system.unstrip_protocol, system.glob(remote)))


def is_folder(path: str, access: SourcesConfig = ACCESS) -> bool:
    """Whether a path or URL is a folder. With http, a folder's URL ends in a slash."""
    if not is_url(path):
        return os.path.isdir(path)
    if path.startswith("http"):
        return path.endswith("/")
    system, remote = locate(path, access)
    with _explained(path):
        return system.isdir(remote)


def files_below(folder: str, access: SourcesConfig = ACCESS) -> Listing:
    """Every file below a folder. Symbolic links are followed, a folder is entered once; what is no
    file (a FIFO, a socket) is lost."""
    if not is_url(folder):
        return _local_files(folder)
    system, remote = locate(folder, access)
    with _explained(folder):
        listing = system.find(remote, detail=True).items()
    files = (
        ListedFile(
            path[len(remote) :].lstrip("/"),
            system.unstrip_protocol(path),
            info.get("size") or 0,
            _stamp(info),
        )
        for path, info in listing
    )
    return Listing(sorted(files), [], [])


def _local_files(folder: str) -> Listing:
    listing = Listing([], [], [])
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                count = 0
                for count, entry in enumerate(entries, 1):  # noqa: B007
                    _sort_entry(entry, folder, listing, waiting)
            listing.folders.append(Anchor(current, status.st_mtime_ns, count))
        except OSError as error:
            reason = error.strerror or str(error)
            listing.lost.append(LostFile(current, UNREADABLE_FOLDER, reason))
    listing.files.sort()
    listing.lost.sort()
    return listing


def _sort_entry(entry: os.DirEntry, folder: str, listing: Listing, waiting: list[str]) -> None:
    """Puts one entry of a folder where it belongs; hidden ones are left out."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return
    try:
        if entry.is_dir():
            waiting.append(entry.path)
            return
        status = entry.stat()
    except OSError as error:
        listing.lost.append(LostFile(entry.path, UNREADABLE, error.strerror or str(error)))
        return
    if stat.S_ISREG(status.st_mode):
        relative = entry.path[len(folder) :].lstrip("/")
        listing.files.append(ListedFile(relative, entry.path, status.st_size, status.st_mtime_ns))
    else:
        listing.lost.append(LostFile(entry.path, UNREADABLE, "it is no file"))


def _stamp(info: dict[str, Any]) -> int:
    """A number for what a file system tells of a file's version."""
    version = repr([str(info[key]) for key in _STAMPS if key in info])
    return xxhash.xxh3_64_intdigest(version.encode()) >> 1


def read_file(path: str | Path, access: SourcesConfig = ACCESS) -> bytes:
    """The bytes of a file. Raises ShelfsortError if it can't be read."""
    with open_file(str(path), access=access) as file, _explained(path):
        return file.read()
