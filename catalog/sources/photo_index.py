"""The index of a folder, table or archive: its list of photos, kept, and used again while it is
current.

Current means: the same settings; the files that were read have their size and time; the folders
have their time and number of entries; and the photos themselves, if they are files, have their size
and time. Of more than a hundred thousand photos so many are asked, evenly spread: a photo that is
replaced in place, in a catalogue of a million, may go unnoticed, one that is added or removed may
not. A folder behind a URL has no such times, and one with files that can't be read may have them
another time without a sign: both are listed each time.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.arrays import PackedTexts, read_npz, write_npz
from catalog.artifacts import fingerprint
from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ArtifactError, ShelfsortError
from catalog.files import Anchor, is_url, printable, size_and_stamp
from catalog.sources.containers import Containers
from catalog.sources.dump_index import Reject
from catalog.sources.keys import Keys
from catalog.sources.photo_list import PhotoList
from catalog.sources.photo_table import AboutTable, PhotoTable

log = logging.getLogger(__name__)

SCHEMA = 1
_SHAPING = {"text", "columns", "table", "max_joined", "product_folders"}
"""Keys of the configuration that say how a source is listed."""
_ASKED = 100_000


def open_photos(
    names: Sequence[str],
    folder: Path,
    config: CatalogConfig,
    access: SourcesConfig,
    read: Callable[[], PhotoList],
) -> PhotoList:
    """The saved list of photos of a source if it is current; otherwise reads the source and saves
    its list in `folder`."""
    absolute = [name if is_url(name) else os.path.abspath(name) for name in names]
    first = Path(absolute[0]).name[:40]  # a name may have 255 bytes in all
    path = folder / f"{first}-{fingerprint(list(map(printable, absolute)))}.photos.npz"
    settings = config.model_dump(mode="json", include=_SHAPING)
    if path.exists():
        try:
            if (saved := load(path, settings, access)) is not None:
                return saved
        except ArtifactError as error:
            log.warning("%s: %s; the source is listed again", path, error.problem)
    photos = read()
    if photos.anchors:
        save(path, photos, settings)
    return photos


def save(path: Path, photos: PhotoList, settings: dict[str, Any]) -> None:
    """Writes a list of photos, as it was read with these settings, as an npz without objects,
    atomically."""
    header = {
        "schema": SCHEMA,
        "settings": settings,
        "content": photos.content,
        "roots": photos.roots,
        "rejects": [vars(reject) for reject in photos.rejects],
        "key_type": photos.keys.type,
        "category_names": photos.category_names,
    }
    arrays = {
        "product_id": photos.keys.numbers,
        "category_id": photos.category_id,
        "digest": photos.digest,
        "starts": photos.starts,
        "anchor_stamp": np.array([anchor.stamp for anchor in photos.anchors], dtype=np.int64),
        "anchor_size": np.array([anchor.size for anchor in photos.anchors], dtype=np.int64),
        **PackedTexts.of(anchor.path for anchor in photos.anchors).arrays("anchor_path"),
        **photos.photos.arrays("photos"),
        **photos.about.arrays("about"),
    }
    if photos.keys.texts is not None:
        arrays |= PackedTexts.of(photos.keys.texts).arrays("key_texts")
    write_npz(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)


def load(path: Path, settings: dict[str, Any], access: SourcesConfig) -> PhotoList | None:
    """A saved list, None if it isn't current. Raises ArtifactError if it is damaged or of another
    schema."""
    arrays = read_npz(path, "ingest")
    try:
        header = json.loads(arrays["header"].tobytes())
        if header["schema"] != SCHEMA:
            raise ValueError(f"index of schema {header['schema']}, expected {SCHEMA}")
        stamps = arrays["anchor_stamp"].tolist(), arrays["anchor_size"].tolist()
        paths = PackedTexts.from_arrays("anchor_path", arrays)
        anchors = tuple(map(Anchor, paths, *stamps))
        photos = PhotoTable.from_arrays("photos", arrays)
        if header["settings"] != settings or not _is_current(anchors, photos, access):
            return None
        packed = "key_texts" in arrays
        texts = tuple(PackedTexts.from_arrays("key_texts", arrays)) if packed else None
        names = header["category_names"]
        return PhotoList(
            content=header["content"],
            roots=header["roots"],
            rejects=tuple(Reject(**reject) for reject in header["rejects"]),
            keys=Keys(arrays["product_id"], texts, header["key_type"]),
            category_id=arrays["category_id"],
            category_names=None if names is None else tuple(names),
            digest=arrays["digest"],
            starts=arrays["starts"],
            photos=photos,
            about=AboutTable.from_arrays("about", arrays),
            containers=Containers(access),
            anchors=anchors,
        )
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not readable as an index of photos ({error})"
        raise ArtifactError(path, problem, "ingest") from error


def _is_current(anchors: Sequence[Anchor], photos: PhotoTable, access: SourcesConfig) -> bool:
    try:
        for anchor in anchors:
            if os.path.isdir(anchor.path):
                status = os.stat(anchor.path)
                state = status.st_mtime_ns, len(os.listdir(anchor.path))
            else:
                size, stamp = size_and_stamp(anchor.path, access)
                state = stamp, size
            if state != (anchor.stamp, anchor.size):
                return False
    except (OSError, ShelfsortError):
        return False
    files = np.flatnonzero(photos.kind == 0)
    spread = np.unique(np.linspace(0, max(len(files) - 1, 0), _ASKED).astype(np.int64))
    return all(_as_listed(photos, row) for row in files[spread[: len(files)]].tolist())


def _as_listed(photos: PhotoTable, row: int) -> bool:
    """Whether the file of a photo is as it was; one that was missing must still be missing."""
    path, expected = photos.paths[row], (int(photos.size[row]), int(photos.stamp[row]))
    if is_url(path):
        return True
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return expected == (-1, 0)
    return (status.st_size, status.st_mtime_ns) == expected
