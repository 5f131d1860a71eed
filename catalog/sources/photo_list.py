"""Products as lists of photos by reference: what folders, tables and archives are read into.

A photo is a file or URL, a span of an archive, or a cell of a Parquet file; its bytes are read when
they are asked for. `photo_index` keeps the list.
"""

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from catalog.artifacts import fingerprint
from catalog.config import SourcesConfig
from catalog.errors import ImageError
from catalog.fetch import read_files
from catalog.files import ACCESS, Anchor, ListedFile, is_url, printable
from catalog.image_table import POSITIONS
from catalog.sources.categories import CategoryColumn
from catalog.sources.containers import Containers
from catalog.sources.dump_index import Reject
from catalog.sources.keys import Key, Keys, as_keys
from catalog.sources.photo_table import About, AboutTable, PhotoTable

PHOTOS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
"""Suffixes of photos, in any case."""
_USUAL_BYTES = 20_000
"""Assumed size of a photo, for partitions of about equal size."""

Photos = list[bytes | ImageError]
"""The photos of one product as they are stored; an error in place of one that can't be read."""


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
    photos: PhotoTable
    about: AboutTable
    containers: Containers
    anchors: tuple[Anchor, ...] = ()
    """Of what was listed; empty if nothing tells whether it is current."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice) -> "PhotoList":
        first, last, _ = rows.indices(len(self))
        starts = self.starts[first : last + 1]
        return replace(
            self,
            rejects=(),
            anchors=(),
            keys=self.keys.slice(rows),
            category_id=self.category_id[rows],
            digest=self.digest[rows],
            starts=starts - starts[0],
            photos=self.photos.slice(int(starts[0]), int(starts[-1])),
            about=self.about.slice(first, last),
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
        inside = dict.fromkeys(self.photos.paths.take(np.flatnonzero(self.photos.kind)))
        for path in inside or self.photos.paths:
            if not is_url(path) and os.path.isfile(path):
                inside[path] = None
                break
        return [(path, os.path.getsize(path)) for path in inside if not is_url(path)]

    def _photos(self, row: int) -> list[ListedFile]:
        first, last = self.starts[row : row + 2].tolist()
        return [self.photos[photo] for photo in range(first, last)]

    def location(self, row: int, position: int) -> tuple[str, int]:
        """The photo, or the product's first one."""
        photo = self.photos[int(self.starts[row]) + max(position, 0)]
        return printable(photo.path), photo.span.offset if photo.span else 0

    def photo_name(self, row: int, position: int) -> str:
        """The photo's name in the folder, table or archive."""
        return printable(self.photos.names[int(self.starts[row]) + position])

    def read(self, row: int) -> Photos:
        """The photos of a product. Those on one server are fetched together."""
        photos, access = self._photos(row), self.containers.access
        whole = iter(read_files([p.path for p in photos if p.span is None], access))
        return [
            self.containers.read(photo.path, photo.span) if photo.span else next(whole)
            for photo in photos
        ]

    def text(self, row: int) -> str:
        """The product's text."""
        return self.about.text[row]

    def columns(self, row: int, names: Sequence[str]) -> list[Any]:
        """What the source says of a product."""
        return self.about.values(row, names)

    def split(self, row: int) -> str | None:
        """The official split of a product, if the source has splits."""
        return self.about.split(row)

    def group(self, row: int) -> str | None:
        """What keeps a product with others in one split."""
        return self.about.group[row] or None


def grouped(
    roots: list[str],
    files: Sequence[ListedFile],
    keys: Sequence[Key],
    about: Callable[[int], About],
    rejects: Sequence[Reject] = (),
    access: SourcesConfig = ACCESS,
    anchors: Sequence[Anchor] = (),
) -> PhotoList:
    """Groups photos by product, whose `keys` [N] are given for each photo, in the order of each
    product's first photo. `about` says what is known of the product of a photo, by the photo's
    row."""
    number_of: dict[Key, int] = {}
    product = np.array([number_of.setdefault(key, len(number_of)) for key in keys], dtype=np.int64)
    order = np.argsort(product, kind="stable")
    groups = _Groups(list(number_of), order, np.cumsum([0, *np.bincount(product).tolist()]))
    lost = [*rejects, *_too_many(groups, files), *_contradictory(groups, files, about)]
    groups = groups.without({reject.product_id for reject in lost[len(rejects) :]})
    known = [about(row) for row in groups.first.tolist()]
    column = CategoryColumn()
    codes = np.array([column.code(one.category) for one in known], dtype=np.int64)
    category_id, names = column.finish(codes)
    table = PhotoTable.of(files)
    if not np.array_equal(groups.order, np.arange(len(table))):
        table = table.take(groups.order)
    digests = _digests(table, groups.starts, known)
    return PhotoList(
        content=_content(groups, table, digests, len(lost)),
        roots=roots,
        rejects=tuple(lost),
        keys=Keys.of(groups.keys),
        category_id=category_id,
        category_names=names,
        digest=digests,
        starts=groups.starts,
        photos=table,
        about=AboutTable.of(known),
        containers=Containers(access),
        anchors=() if rejects else tuple(anchors),
    )


@dataclass(frozen=True)
class _Groups:
    """Photos by product: the photos of product `keys[i]` are `order[starts[i] : starts[i + 1]]`."""

    keys: list[Key]
    order: np.ndarray
    starts: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Each product's first photo."""
        return self.order[self.starts[:-1]]

    def several(self) -> Iterator[tuple[Key, list[int]]]:
        """Products of more than one photo, and their photos."""
        for group in np.flatnonzero(np.diff(self.starts) > 1).tolist():
            first, last = self.starts[group : group + 2].tolist()
            yield self.keys[group], self.order[first:last].tolist()

    def without(self, lost: Collection[Key]) -> "_Groups":
        """All but some products."""
        if not lost:
            return self
        kept = np.array([key not in lost for key in self.keys], dtype=bool)
        counts = np.diff(self.starts)
        keys = [key for key in self.keys if key not in lost]
        return _Groups(
            keys, self.order[np.repeat(kept, counts)], np.cumsum([0, *counts[kept].tolist()])
        )


def _too_many(groups: _Groups, files: Sequence[ListedFile]) -> Iterator[Reject]:
    for key, rows in groups.several():
        if len(rows) > POSITIONS:
            detail = f"{key} has {len(rows)} photos, expected at most {POSITIONS}"
            path = printable(files[rows[0]].path)
            yield Reject(path, 0, -1, key, "too_many_images", detail)


def _contradictory(
    groups: _Groups, files: Sequence[ListedFile], about: Callable[[int], About]
) -> Iterator[Reject]:
    """Products whose photos are said to be of several categories or splits."""
    for key, rows in groups.several():
        labels = {(str(one.category), one.split) for one in map(about, rows)}
        if len(labels) > 1 and len(rows) <= POSITIONS:
            detail = f"{key} has photos of several categories or splits: {sorted(labels, key=str)}"
            path = printable(files[rows[0]].path)
            yield Reject(path, rows[0], -1, key, "conflicting_product", detail)


def _content(groups: _Groups, photos: PhotoTable, digests: np.ndarray, lost: int) -> str:
    state = xxhash.xxh3_128(digests.tobytes())
    keys = np.repeat(np.arange(len(groups.keys)), np.diff(groups.starts)).tolist()
    for number, name, stamp in zip(keys, photos.names, photos.stamp.tolist(), strict=True):
        state.update(f"{groups.keys[number]}\0{printable(name)}\0{stamp}\n".encode())
    return fingerprint([state.hexdigest(), len(photos), lost])


def _digests(photos: PhotoTable, starts: np.ndarray, known: Sequence[About]) -> np.ndarray:
    """For each product a number that changes if its photos do, or what is said of it; not with the
    time of a copy. uint64 [P]."""
    named = zip(photos.size.tolist(), photos.names, strict=True)
    listed = [printable(name) if size < 0 else size for size, name in named]
    out = np.empty(len(known), dtype=np.uint64)
    for product, (first, last) in enumerate(itertools.pairwise(starts.tolist())):
        one = known[product]
        stated = (str(one.category), one.text, one.split, one.group, one.fields or {})
        text = repr((listed[first:last], stated))
        out[product] = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
    return out


def keyed(names: Sequence[str]) -> Sequence[Key]:
    """Keys of products that a source names by text alone: integers if all are written so."""
    return as_keys([printable(name) for name in names])
