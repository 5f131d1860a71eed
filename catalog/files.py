"""Files on this machine, or behind any URL that fsspec knows: s3://, gs://, http:// and others.
Only to be read."""

import contextlib
import glob
import gzip
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import xxhash

from catalog.errors import ImageError, ShelfsortError

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""What unpacking a file raises that will not be whole another time. Anything else may be the disk's
or the server's fault."""
_STAMPS = ("ETag", "etag", "LastModified", "mtime", "updated", "created", "md5Hash")
_TRIES = 3
UNREADABLE, UNREACHABLE = "unreadable_file", "unreachable"
"""Reasons of `read_files`: what is not there, and what another try may bring."""
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_GONE = (404, 410)  # HTTP


def is_url(path: str | Path) -> bool:
    """Whether fsspec is to find the file."""
    return "://" in str(path)


def printable(path: str | Path) -> str:
    r"""A path as text that can be written anywhere: bytes of a file's name that are not UTF-8 stand there as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """What a file system raises, as an error that names the file."""
    try:
        yield
    except ShelfsortError:
        raise
    except OSError as error:
        raise ShelfsortError(
            f"{printable(path)}: can't be read: {error.strerror or error or type(error).__name__}"
        ) from error
    except Exception as error:  # a file system of fsspec may raise what its own library does
        raise ShelfsortError(
            f"{printable(path)}: can't be read: {error or type(error).__name__}"
        ) from error


def _locate(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there."""
    with _explained(url):
        try:
            return fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ShelfsortError(f"{url}: can't be read: {error}") from error


def size_and_stamp(path: str | Path) -> tuple[int, int]:
    """Bytes of a file, and a number that changes with its content as far as its file system tells
    (here, mtime in ns)."""
    if not is_url(path):
        with _explained(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
    system, place = _locate(str(path))
    with _explained(path):
        info = system.info(place)
    if info.get("size") is None:
        raise ShelfsortError(
            f"{path}: its server doesn't tell its size, so it can't be read in parts; copy it to a disk first"
        )
    return int(info["size"]), _stamp(info)


def open_file(path: str, buffer: int = -1) -> BinaryIO:
    """Opens a file for reading its bytes, decompressed where it is called .gz; `buffer` bytes at a
    time here."""
    packed = path.endswith(".gz")
    if not is_url(path):
        with _explained(path):
            return gzip.open(path, "rb") if packed else open(path, "rb", buffer)  # type: ignore[return-value]
    system, place = _locate(path)
    with _explained(path):
        file = system.open(place, "rb")
    return gzip.open(file, "rb") if packed else file  # type: ignore[return-value]


def matching(path: str) -> list[str]:
    """The files behind a path or pattern, sorted; none where nothing matches."""
    if not is_url(path):
        return [path] if os.path.exists(path) else sorted(glob.glob(path))
    if "*" not in path:
        return [path]
    system, place = _locate(path)
    with _explained(path):
        return sorted(map(system.unstrip_protocol, system.glob(place)))


def is_folder(path: str) -> bool:
    """Whether a path or URL is a folder; one of http must end in a slash."""
    if not is_url(path):
        return os.path.isdir(path)
    if path.startswith("http"):
        return path.endswith("/")
    system, place = _locate(path)
    with _explained(path):
        return system.isdir(place)


def files_below(folder: str) -> list[tuple[str, str, int, int]]:
    """Every file below a folder, sorted: its path within the folder, its path or URL, size and
    stamp."""
    if not is_url(folder):
        found = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
        return sorted(
            (os.path.relpath(path, folder), path, *size_and_stamp(path)) for path in found
        )
    system, place = _locate(folder)
    with _explained(folder):
        listing = system.find(place, detail=True).items()
    return sorted(
        (p[len(place) :].lstrip("/"), system.unstrip_protocol(p), i.get("size") or 0, _stamp(i))
        for p, i in listing
    )


def _stamp(info: dict[str, Any]) -> int:
    """A number of what a file system tells of a file's version."""
    return (
        xxhash.xxh3_64_intdigest(repr([str(info[key]) for key in _STAMPS if key in info]).encode())
        >> 1
    )


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises ShelfsortError where it can't be read."""
    with open_file(str(path)) as file, _explained(path):
        return file.read()


def read_files(paths: Sequence[str]) -> list[bytes | ImageError]:
    """The bytes of several files, those of one remote file system at once; an error in the place of
    one that can't be read."""
    found: dict[str, bytes | ImageError] = {}
    remote: dict[str, list[str]] = {}
    for path in dict.fromkeys(paths):
        if is_url(path):
            remote.setdefault(path.split("://")[0], []).append(path)
            continue
        try:
            found[path] = read_file(path)
        except ShelfsortError as error:
            found[path] = ImageError(
                UNREADABLE if _absent(error.__cause__) else UNREACHABLE, str(error)
            )
    for urls in remote.values():
        found |= _read_urls(urls)
    return [found[path] for path in paths]


def _read_urls(urls: list[str]) -> dict[str, bytes | ImageError]:
    """URLs of one file system, together; what fails for another reason than absence is tried again."""
    found: dict[str, Any] = {}
    for attempt in range(_TRIES):
        left = [
            url
            for url in urls
            if not isinstance(found.get(url), bytes) and not _absent(found.get(url))
        ]
        if not left:
            break
        if attempt:
            time.sleep(attempt)
        system = _locate(left[0])[0]
        places = {url: system._strip_protocol(url) for url in left}
        with _explained(left[0]):
            content = system.cat(list(places.values()), on_error="return")
        found |= {url: content[place] for url, place in places.items()}
    return {
        url: data if isinstance(data, bytes) else _failed(url, data) for url, data in found.items()
    }


def _absent(error: BaseException | None) -> bool:
    """Whether it says for certain that there is no such file."""
    return isinstance(error, _ABSENT) or getattr(error, "status", None) in _GONE


def _failed(url: str, error: Exception) -> ImageError:
    why = (
        "no such file"
        if isinstance(error, FileNotFoundError)
        else (str(error) or type(error).__name__)
    )
    return ImageError(UNREADABLE if _absent(error) else UNREACHABLE, f"{url}: can't be read: {why}")
