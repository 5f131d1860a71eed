"""Products as lists of photos by reference: what folders, tables and archives are read into.

A photo is a file or URL, a span of an archive, or a cell of a Parquet file; its bytes are read when
they are asked for. On disk: nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from catalog.artifacts import fingerprint
from catalog.config import SourcesConfig
from catalog.errors import ImageError
from catalog.fetch import read_files
from catalog.files import ACCESS, Span, is_url, printable
from catalog.image_table import POSITIONS
from catalog.sources.categories import CategoryColumn
from catalog.sources.containers import Containers
from catalog.sources.dump_index import Reject
from catalog.sources.keys import Key, Keys, as_keys

PHOTOS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
"""Suffixes of photos, in any case."""
_USUAL_BYTES = 20_000
"""Assumed size of a photo, for partitions of about equal size."""

Photos = list[bytes | ImageError]
"""The photos of one product as they are stored; an error in place of one that can't be read."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo as it was listed: its product's key; its name; its path or URL, or the file that it
    is in, and where in it; its bytes and version, if they are known."""

    key: Key
    name: str
    path: str
    size: int | None = None
    stamp: int = 0
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What a source says of a product beside its photos, by its first row."""

    category: object = None
    text: str = ""
    split: str | None = None
    group: str | None = None
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PhotoList:
    """A product source (source.ProductSource) of photos by reference. The photos of the product in
    row i are `photos[starts[i] : starts[i + 1]]`."""

    content: str
    """Fingerprint of everything that was listed."""
    roots: list[str]
    rejects: tuple[Reject, ...]
    keys: Keys
    category_id: np.ndarray
    category_names: tuple[str, ...] | None
    digest: np.ndarray
    starts: np.ndarray
    photos: tuple[Photo, ...]
    about: tuple[About, ...]
    containers: Containers

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> "PhotoList":
        first, last, _ = rows.indices(len(self))
        starts = self.starts[first : last + 1]
        return replace(
            self,
            rejects=(),
            keys=self.keys.slice(rows),
            category_id=self.category_id[rows],
            digest=self.digest[rows],
            starts=starts - starts[0],
            photos=self.photos[starts[0] : starts[-1]],
            about=self.about[rows],
        )

    def with_keys(self, keys: Keys) -> "PhotoList":
        """The same products under other keys."""
        return replace(self, keys=keys)

    @property
    def product_id(self) -> np.ndarray:
        """The numbers of the keys, int64 [N]."""
        return self.keys.numbers

    @property
    def fingerprint(self) -> str:
        """Of keys, photos, sizes and versions, except those of photos on a server that a table
        lists."""
        return self.content

    @cached_property
    def n_images(self) -> np.ndarray:
        """Photos of each product, int32 [N]."""
        return np.diff(self.starts).astype(np.int32)

    @property
    def length(self) -> np.ndarray:
        """Approximate bytes of each product, int64 [N]."""
        return self.n_images.astype(np.int64) * _USUAL_BYTES

    @property
    def files(self) -> list[tuple[str, int]]:
        """The archives and tables that photos are in, and else the first local photo, if any."""
        inside = dict.fromkeys(photo.path for photo in self.photos if photo.span)
        for path in inside or [photo.path for photo in self.photos]:
            if not is_url(path) and os.path.isfile(path):
                inside[path] = None
                break
        return [(path, os.path.getsize(path)) for path in inside if not is_url(path)]

    def place(self, row: int, position: int) -> tuple[str, int]:
        """The photo, or the product's first one."""
        photo = self.photos[int(self.starts[row]) + max(position, 0)]
        return printable(photo.path), photo.span.offset if photo.span else 0

    def photo_name(self, row: int, position: int) -> str:
        """The photo's name in the folder, table or archive."""
        return printable(self.photos[int(self.starts[row]) + position].name)

    def read(self, row: int) -> Photos:
        """The photos of a product. Those on one server are fetched together."""
        photos = self.photos[self.starts[row] : self.starts[row + 1]]
        whole = iter(read_files([p.path for p in photos if p.span is None], self.containers.access))
        return [
            self.containers.read(photo.path, photo.span) if photo.span else next(whole)
            for photo in photos
        ]

    def text(self, row: int) -> str:
        """The product's text."""
        return self.about[row].text

    def columns(self, row: int, names: Sequence[str]) -> list[Any]:
        """What the source says of a product."""
        fields = self.about[row].fields or {}
        return [fields.get(name) for name in names]

    def split(self, row: int) -> str | None:
        """The official split of a product, if the source has splits."""
        return self.about[row].split

    def group(self, row: int) -> str | None:
        """What keeps a product with others in one split."""
        return self.about[row].group


def grouped(
    roots: list[str],
    photos: Sequence[Photo],
    about: Callable[[int], About],
    rejects: Sequence[Reject] = (),
    access: SourcesConfig = ACCESS,
) -> PhotoList:
    """Groups photos by product, in the order of each product's first photo. `about` says what is
    known of the product of a photo, by the photo's row."""
    rows_of: dict[Key, list[int]] = {}
    for row, photo in enumerate(photos):
        rows_of.setdefault(photo.key, []).append(row)
    lost = list(rejects)
    for key in [key for key, rows in rows_of.items() if len(rows) > POSITIONS]:
        rows = rows_of.pop(key)
        detail = f"{key} has {len(rows)} photos, expected at most {POSITIONS}"
        lost.append(Reject(printable(photos[rows[0]].path), 0, -1, key, "too_many_images", detail))
    lost += _contradictory(rows_of, photos, about)
    known = [about(rows[0]) for rows in rows_of.values()]
    column = CategoryColumn()
    codes = np.array([column.code(one.category) for one in known], dtype=np.int64)
    category_id, names = column.finish(codes)
    ordered = tuple(photos[row] for rows in rows_of.values() for row in rows)
    starts = np.cumsum([0, *map(len, rows_of.values())], dtype=np.int64)
    digest = [
        _digest(ordered[first:last], one)
        for first, last, one in zip(starts[:-1].tolist(), starts[1:].tolist(), known, strict=True)
    ]
    digests = np.array(digest, dtype=np.uint64)
    keys = list(rows_of)
    state = xxhash.xxh3_128(digests.tobytes())
    for photo in ordered:
        state.update(f"{photo.key}\0{printable(photo.name)}\0{photo.stamp}\n".encode())
    content = fingerprint([state.hexdigest(), starts.tolist()[-1], len(lost)])
    return PhotoList(
        content=content,
        roots=roots,
        rejects=tuple(lost),
        keys=Keys.of(keys),
        category_id=category_id,
        category_names=names,
        digest=digests,
        starts=starts,
        photos=ordered,
        about=tuple(known),
        containers=Containers(access),
    )


def _contradictory(
    rows_of: dict[Key, list[int]], photos: Sequence[Photo], about: Callable[[int], About]
) -> list[Reject]:
    """Removes products whose photos are said to be of several categories or splits."""
    lost = []
    for key, rows in list(rows_of.items()):
        said = {(str(one.category), one.split) for one in map(about, rows)} if rows[1:] else set()
        if len(said) > 1:
            del rows_of[key]
            detail = f"{key} has photos of several categories or splits: {sorted(said, key=str)}"
            place = printable(photos[rows[0]].path)
            lost.append(Reject(place, rows[0], -1, key, "conflicting_product", detail))
    return lost


def _digest(photos: Sequence[Photo], about: About) -> int:
    """Changes if the photos of a product do, or what is said of it; not with the time of a copy."""
    listed = [printable(photo.name) if photo.size is None else photo.size for photo in photos]
    said = (str(about.category), about.text, about.split, about.group, about.fields or {})
    return xxhash.xxh3_64_intdigest(repr((listed, said)).encode("utf-8", "surrogatepass"))


def keyed(names: Sequence[str]) -> Sequence[Key]:
    """Keys of products that a source names by text alone: integers if all are written so."""
    return as_keys([printable(name) for name in names])
