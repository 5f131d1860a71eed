"""Photos in .tar and .zip archives: folders that were packed, or samples of WebDataset.

In an archive, paths mean what they do in a folder. A sample of WebDataset is `NAME.jpg` with
`NAME.json` (product_id, category_id or category, further columns) or `NAME.cls` (the category)
beside it; several shards are one source. Photos are read from the archive where they lie.
"""

import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ShelfsortError
from catalog.files import ACCESS, Anchor, ListedFile, Span, is_url, matching, size_and_stamp
from catalog.sources.folder import is_hidden, listed
from catalog.sources.photo_list import PHOTOS, PhotoList, grouped
from catalog.sources.photo_table import About
from catalog.sources.table import USUAL

ARCHIVES = (".tar", ".zip")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
"""Archives that can't be read at random."""
_BESIDE = (".json", ".cls")
_LOCAL_HEADER = 30
"""Bytes of a zip's local header, before name and extra field."""


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    file: ListedFile
    data: bytes | None
    """The bytes, of what stands beside photos."""


def archive_paths(names: Sequence[str]) -> list[str]:
    """The archives that paths and patterns name, as absolute paths. Raises ShelfsortError if one
    matches nothing, or is a URL."""
    return [os.path.abspath(path) for name in names for path in _local(name)]


def read_archives(
    paths: Sequence[str], config: CatalogConfig, access: SourcesConfig = ACCESS
) -> PhotoList:
    """Lists the photos in archives. Raises ShelfsortError if there is none, or an archive is
    damaged."""
    anchors = [Anchor(path, *reversed(size_and_stamp(path))) for path in paths]
    members = [member for path in paths for member in _members(path)]
    photos = [m.file for m in members if m.file.relative.lower().endswith(PHOTOS)]
    if not photos:
        raise ShelfsortError(f"{paths[0]}: expected photos in this archive, found none")
    beside: dict[tuple[str, str], dict[str, Any]] = {}
    for member in members:
        if member.data is not None:
            stem, suffix = os.path.splitext(member.file.relative)
            metadata = _metadata(member.file, suffix.lower(), member.data)
            beside.setdefault((member.file.path, stem), {}).update(metadata)
    unnamed = listed(paths[0], list(paths), photos, config, access=access, anchors=anchors)
    if not beside:
        return unnamed
    return _samples(unnamed, beside, config)


def _local(name: str) -> list[str]:
    if is_url(name):
        raise ShelfsortError(f"{name}: archives are read from a disk alone; copy it there first")
    if not (paths := matching(name)):
        raise ShelfsortError(f"{name}: no such file, and no file matches it as a pattern")
    return paths


def _metadata(file: ListedFile, suffix: str, data: bytes) -> dict[str, Any]:
    """What a file beside a photo says of it."""
    text = data.decode("utf-8", "replace").strip()
    if suffix == ".cls":
        return {"cls": int(text) if text.isascii() and text.isdecimal() else text}
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ShelfsortError(f"{file.path}: {file.relative}: not JSON: {error}") from error
    return metadata if isinstance(metadata, dict) else {}


def _samples(
    unnamed: PhotoList, beside: dict[tuple[str, str], dict[str, Any]], config: CatalogConfig
) -> PhotoList:
    """The same photos by what stands beside them: keys, categories, texts and columns."""
    photos = [unnamed.photos[row] for row in range(len(unnamed.photos))]
    metadata = [
        beside.get((photo.path, os.path.splitext(photo.relative)[0]), {}) for photo in photos
    ]
    names = (*_asked(config.table.product), *USUAL["product"])
    rows = np.repeat(np.arange(len(unnamed)), unnamed.n_images).tolist()
    keys = [_first(one, names, unnamed.keys[row]) for one, row in zip(metadata, rows, strict=True)]
    order = sorted(
        range(len(metadata)), key=lambda i: (str(keys[i]), metadata[i].get("position", 0))
    )

    def about(row: int) -> About:
        one = metadata[order[row]]
        categories = (*_asked(config.table.category), *USUAL["category"], "cls")
        text = one.get(config.text) if config.text else None
        return About(
            _first(one, categories, None),
            text.strip() if isinstance(text, str) else "",
            fields={name: one[name] for name in config.columns if name in one},
        )

    return grouped(
        unnamed.roots,
        [photos[row] for row in order],
        [keys[row] for row in order],
        about,
        unnamed.rejects,
        unnamed.containers.access,
        unnamed.anchors,
    )


def _asked(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def _first(metadata: dict[str, Any], names: Sequence[str], otherwise: Any) -> Any:
    return next((metadata[name] for name in names if metadata.get(name) is not None), otherwise)


def _members(path: str) -> Iterator[_Member]:
    """The photos of an archive, and the files beside them, in its order."""
    try:
        yield from _of_zip(path) if path.lower().endswith(".zip") else _of_tar(path)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ShelfsortError(f"{path}: not readable as an archive: {error}") from error


def _of_tar(path: str) -> Iterator[_Member]:
    stamp = size_and_stamp(path)[1]
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and not is_hidden(name):
                data = archive.extractfile(member) if name.lower().endswith(_BESIDE) else None
                span = Span("stored", member.offset_data, member.size)
                file = ListedFile(name, path, member.size, stamp, span)
                yield _Member(file, data.read() if data else None)


def _of_zip(path: str) -> Iterator[_Member]:
    stamp = size_and_stamp(path)[1]
    kinds = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as stream:
        for member in archive.infolist():
            if member.is_dir() or is_hidden(member.filename):
                continue
            if member.flag_bits & 1 or member.compress_type not in kinds:
                problem = "encrypted, or packed in another way than stored or deflated"
                raise ShelfsortError(f"{path}: {member.filename}: {problem}; pack it again")
            stream.seek(member.header_offset)
            head = stream.read(_LOCAL_HEADER)
            named = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            start = member.header_offset + _LOCAL_HEADER + named
            span = Span(kinds[member.compress_type], start, member.compress_size)  # type: ignore[arg-type]
            data = archive.read(member) if member.filename.lower().endswith(_BESIDE) else None
            yield _Member(ListedFile(member.filename, path, member.file_size, stamp, span), data)
