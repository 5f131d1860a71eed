"""Photos from files on this machine or behind URLs, each within a limit of time and of bytes: a
server that hangs, or a body without an end, costs one photo.

On one remote file system several are fetched together. What fails for another reason than absence
is tried again.
"""

import asyncio
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec.asyn

from catalog.config import SourcesConfig
from catalog.errors import ImageError, ShelfsortError
from catalog.files import ACCESS, UNREADABLE, is_url, locate, printable

UNREACHABLE = "unreachable"
"""Reason of a photo that the same command may find another time."""
TOO_MANY_BYTES = "too_many_bytes"
_TRIES = 3
_TOGETHER = 32
"""Requests under way on one file system."""
_CHUNK = 2**16
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_GONE = (404, 410)
"""HTTP: not found, gone."""


class _TooManyBytes(Exception):
    """A photo that is larger than `sources.max_mb`."""


def read_files(paths: Sequence[str], access: SourcesConfig = ACCESS) -> list[bytes | ImageError]:
    """The bytes of several photos, or an error for one that can't be read.

    The reasons of errors: `unreadable_file` (there is none), `unreachable` (a retry may bring it,
    or it took longer than `access.seconds`), `too_many_bytes`.
    """
    results: dict[str, bytes | Exception] = {}
    for path in dict.fromkeys(paths):
        if not is_url(path):
            results[path] = _read_local(path, access)
    results |= _read_urls([path for path in dict.fromkeys(paths) if is_url(path)], access)
    return [
        data if isinstance(data, bytes) else _failed(path, data, access)
        for path, data in ((path, results[path]) for path in paths)
    ]


def require_files(paths: Sequence[str | Path], access: SourcesConfig = ACCESS) -> list[bytes]:
    """The bytes of several photos. Raises ShelfsortError, naming the file, if one can't be read."""
    photos: list[bytes] = []
    for photo in read_files(list(map(str, paths)), access):
        if isinstance(photo, ImageError):
            raise ShelfsortError(photo.detail) from photo
        photos.append(photo)
    return photos


def _read_local(path: str, access: SourcesConfig) -> bytes | Exception:
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            # Opening a FIFO waits for a writer, perhaps for ever.
            return ValueError("it is no file")
        if status.st_size > access.max_bytes:
            return _TooManyBytes()
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        return error


def _read_urls(urls: list[str], access: SourcesConfig) -> dict[str, bytes | Exception]:
    """The bytes of each URL, or what its file system raises."""
    results: dict[str, bytes | Exception] = {}
    missing = urls
    for attempt in range(_TRIES):
        if not missing:
            break
        time.sleep(attempt)
        results |= _fetch(missing, access)
        missing = [url for url in missing if _may_come(results[url])]
    return results


def _fetch(urls: list[str], access: SourcesConfig) -> dict[str, bytes | Exception]:
    """One try. A URL that no file system understands costs itself alone."""
    results: dict[str, bytes | Exception] = {}
    located: dict[Any, dict[str, str]] = {}
    for url in urls:
        try:
            system, path = locate(url, access)
            located.setdefault(system, {})[url] = path
        except ShelfsortError as error:
            cause = error.__cause__
            results[url] = cause if isinstance(cause, Exception) else error
    for system, path_of in located.items():
        fetched = _fetch_from(system, list(path_of.values()), access)
        results |= dict(zip(path_of, fetched, strict=True))
    return results


def _fetch_from(system: Any, paths: list[str], access: SourcesConfig) -> list[bytes | Exception]:
    if not system.async_impl:
        return [_fetch_one(system, path, access) for path in paths]

    async def together() -> list[bytes | Exception]:
        turn = asyncio.Semaphore(_TOGETHER)
        return await asyncio.gather(*(_fetch_async(system, path, access, turn) for path in paths))

    return fsspec.asyn.sync(system.loop, together)


def _fetch_one(system: Any, path: str, access: SourcesConfig) -> bytes | Exception:
    try:
        data: bytes = system.cat_file(path, end=access.max_bytes + 1)
    except Exception as error:  # fsspec's file systems pass on what their own libraries raise
        return error
    return data if len(data) <= access.max_bytes else _TooManyBytes()


async def _fetch_async(
    system: Any, path: str, access: SourcesConfig, turn: asyncio.Semaphore
) -> bytes | Exception:
    read = _http_body if "http" in system.protocol else _object
    async with turn:
        try:
            return await asyncio.wait_for(read(system, path, access.max_bytes), access.seconds)
        except Exception as error:  # as above
            return error


async def _object(system: Any, path: str, most: int) -> bytes:
    data: bytes = await system._cat_file(path, end=most + 1)
    if len(data) > most:
        raise _TooManyBytes
    return data


async def _http_body(system: Any, url: str, most: int) -> bytes:
    """The body of an answer, read no further than `most` bytes, whatever the server says of its
    length."""
    session = await system.set_session()
    async with session.get(system.encode_url(url), **system.kwargs) as response:
        response.raise_for_status()
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > most:
                raise _TooManyBytes
    return bytes(body)


def _may_come(result: bytes | Exception) -> bool:
    """Whether another try may bring the file: not if it took too long already."""
    final = (bytes, ImportError, TimeoutError, _TooManyBytes)
    return not isinstance(result, final) and not _absent(result)


def _absent(error: BaseException | None) -> bool:
    """Whether an error says for certain that there is no such file, or that it is no URL."""
    return isinstance(error, (*_ABSENT, ValueError)) or getattr(error, "status", None) in _GONE


def _failed(path: str, error: Exception, access: SourcesConfig) -> ImageError:
    reason = UNREADABLE if _absent(error) else UNREACHABLE
    detail = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    unnamed = isinstance(error, FileNotFoundError) and not error.strerror
    if unnamed or getattr(error, "status", None) in _GONE:
        detail = "no such file"
    elif isinstance(error, TimeoutError):
        detail = f"it took longer than {access.seconds:g} s (sources.seconds)"
    elif isinstance(error, _TooManyBytes):
        reason = TOO_MANY_BYTES
        detail = f"it has more than {access.max_mb} MB (sources.max_mb)"
    return ImageError(reason, f"{printable(path)}: can't be read: {detail}")
