"""Reading files on this machine, or behind any URL that fsspec knows: s3://, gs://, http:// and
others."""

import contextlib
import glob
import gzip
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import xxhash

from catalog.errors import ImageError, ShelfsortError

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""Exceptions that mean the compressed data is damaged, so retrying is useless. Any other may be the
disk's or the server's fault."""
UNREADABLE, UNREACHABLE = "unreadable_file", "unreachable"
"""Reasons of `read_files`: a file that doesn't exist, and one that a retry may bring."""
_STAMPS = ("ETag", "etag", "LastModified", "mtime", "updated", "created", "md5Hash")
"""What file systems call a file's version."""
_TRIES = 3
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_GONE = (404, 410)
"""HTTP: not found, gone."""


class ListedFile(NamedTuple):
    """A file below a folder: its path within the folder, its path or URL, bytes, and version."""

    relative: str
    path: str
    size: int
    stamp: int


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
        raise ShelfsortError(f"{printable(path)}: can't be read: {reason}") from error
    except Exception as error:  # fsspec's file systems pass on what their own libraries raise
        reason = str(error) or type(error).__name__
        raise ShelfsortError(f"{printable(path)}: can't be read: {reason}") from error


def _locate(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path in it."""
    with _explained(url):
        scheme, rest = url.split("://", 1)
        try:
            return fsspec.core.url_to_fs(f"{scheme.lower()}://{rest}")
        except ImportError as error:
            raise ShelfsortError(f"{url}: can't be read: {error}") from error


def size_and_stamp(path: str | Path) -> tuple[int, int]:
    """Bytes of a file, and a number that changes with its content as far as its file system tells
    (mtime in ns for local files)."""
    if not is_url(path):
        with _explained(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
    system, remote = _locate(str(path))
    with _explained(path):
        info = system.info(remote)
    if info.get("size") is None:
        raise ShelfsortError(
            f"{path}: its server doesn't tell its size, so it can't be read in parts; "
            "copy it to a disk first"
        )
    return int(info["size"]), _stamp(info)


def open_file(path: str, buffer: int = -1) -> BinaryIO:
    """Opens a file to read its bytes, decompressed if its name ends in .gz. A local plain file is
    read `buffer` bytes at a time."""
    packed = path.endswith(".gz")
    with _explained(path):
        if not is_url(path):
            return _unpacked(path) if packed else open(path, "rb", buffer)
        system, remote = _locate(path)
        file = system.open(remote, "rb")
        return _unpacked(file) if packed else file


def _unpacked(file: str | BinaryIO) -> BinaryIO:
    return cast("BinaryIO", gzip.open(file, "rb"))


def matching(path: str) -> list[str]:
    """The files that a path or pattern names, sorted; empty if nothing matches."""
    if not is_url(path):
        return [path] if os.path.exists(path) else sorted(glob.glob(path))
    if "*" not in path:
        return [path]
    system, remote = _locate(path)
    with _explained(path):
        return sorted(map(system.unstrip_protocol, system.glob(remote)))


def is_folder(path: str) -> bool:
    """Whether a path or URL is a folder. With http, a folder's URL ends in a slash."""
    if not is_url(path):
        return os.path.isdir(path)
    if path.startswith("http"):
        return path.endswith("/")
    system, remote = _locate(path)
    with _explained(path):
        return system.isdir(remote)


def files_below(folder: str) -> list[ListedFile]:
    """Every file below a folder, sorted by its path."""
    if not is_url(folder):
        paths = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
        return sorted(ListedFile(os.path.relpath(p, folder), p, *_size_if_there(p)) for p in paths)
    system, remote = _locate(folder)
    with _explained(folder):
        listing = system.find(remote, detail=True).items()
    return sorted(
        ListedFile(
            path[len(remote) :].lstrip("/"),
            system.unstrip_protocol(path),
            info.get("size") or 0,
            _stamp(info),
        )
        for path, info in listing
    )


def _size_if_there(path: str) -> tuple[int, int]:
    """As size_and_stamp; zeros for a broken link, which fails when it is read."""
    try:
        return size_and_stamp(path)
    except ShelfsortError:
        return 0, 0


def _stamp(info: dict[str, Any]) -> int:
    """A number for what a file system tells of a file's version."""
    version = repr([str(info[key]) for key in _STAMPS if key in info])
    return xxhash.xxh3_64_intdigest(version.encode()) >> 1


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises ShelfsortError if it can't be read."""
    with open_file(str(path)) as file, _explained(path):
        return file.read()


def read_files(paths: Sequence[str]) -> list[bytes | ImageError]:
    """The bytes of several files, or an error for one that can't be read. Those on one remote file
    system are fetched together."""
    content: dict[str, bytes | ImageError] = {}
    remote: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if is_url(path):
            remote.setdefault(path.split("://")[0].lower(), []).append(path)
            continue
        try:
            content[path] = read_file(path)
        except ShelfsortError as error:
            reason = UNREADABLE if _absent(error.__cause__) else UNREACHABLE
            content[path] = ImageError(reason, str(error))
    for urls in remote.values():
        content |= _read_urls(urls)
    return [content[path] for path in paths]


def _read_urls(urls: list[str]) -> dict[str, bytes | ImageError]:
    """Fetches URLs of one file system together. Retries those that fail for another reason than
    absence."""
    results: dict[str, bytes | Exception] = {}
    missing = urls
    for attempt in range(_TRIES):
        time.sleep(attempt)
        results |= _fetch(missing)
        missing = [url for url in urls if _may_come(results[url])]
        if not missing:
            break
    return {
        url: data if isinstance(data, bytes) else _failed(url, data)
        for url, data in results.items()
    }


def _fetch(urls: list[str]) -> dict[str, bytes | Exception]:
    """The bytes of each URL, or what its file system raises; a URL that no file system understands
    costs itself alone."""
    results: dict[str, bytes | Exception] = {}
    located: dict[Any, dict[str, str]] = {}
    for url in urls:
        try:
            system, path = _locate(url)
            located.setdefault(system, {})[url] = path
        except ShelfsortError as error:
            cause = error.__cause__
            results[url] = cause if isinstance(cause, Exception) else error
    for system, path_of in located.items():
        paths = list(path_of.values())
        try:
            fetched = system.cat(paths, on_error="return")
        except (
            Exception
        ):  # fsspec's file systems raise for all what one of the paths is to blame for
            fetched = {path: _fetch_one(system, path) for path in paths}
        results |= {url: fetched[path] for url, path in path_of.items()}
    return results


def _fetch_one(system: Any, path: str) -> bytes | Exception:
    try:
        return system.cat_file(path)
    except Exception as error:  # as above
        return error


def _may_come(result: bytes | Exception) -> bool:
    """Whether a retry may bring the file."""
    return not isinstance(result, (bytes, ImportError)) and not _absent(result)


def _absent(error: BaseException | None) -> bool:
    """Whether an error says for certain that there is no such file, or that it is no URL."""
    return isinstance(error, (*_ABSENT, ValueError)) or getattr(error, "status", None) in _GONE


def _failed(url: str, error: Exception) -> ImageError:
    text = str(error) or type(error).__name__
    detail = "no such file" if isinstance(error, FileNotFoundError) else text
    reason = UNREADABLE if _absent(error) else UNREACHABLE
    return ImageError(reason, f"{url}: can't be read: {detail}")
