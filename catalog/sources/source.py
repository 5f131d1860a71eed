"""What products come from, behind one protocol: ingest and scoring don't know whether they read a
dump, a folder of photos or a table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from catalog.artifacts import fingerprint
from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ImageError, ShelfsortError
from catalog.fetch import read_files
from catalog.files import ACCESS, is_folder, is_url
from catalog.sources.archive import ARCHIVES, PACKED, archive_paths, read_archives
from catalog.sources.bson_reader import DumpReader, Product, lookup
from catalog.sources.dump_index import DumpIndex, Reject, open_index
from catalog.sources.folder import read_folder
from catalog.sources.keys import Keys
from catalog.sources.photo_index import open_photos
from catalog.sources.photo_list import Photos
from catalog.sources.plain import plain
from catalog.sources.table import TABLES, read_table

NO_PICTURE = "no_picture"
DEFAULT = CatalogConfig()
_MONGODUMP = (".bson", ".bson.gz", ".metadata.json", ".metadata.json.gz")


class ProductSource(Protocol):
    """N products, one row each. Can be pickled.

    source = open_source(["test.bson"], Path("predictions/dumps"))
    for row in range(len(source)):
        photos = source.read(row)
    """

    @property
    def keys(self) -> Keys:
        """The shop's own keys, and the numbers that stand for them inside."""

    @property
    def product_id(self) -> np.ndarray:
        """The numbers of the keys, int64 [N]."""

    @property
    def category_id(self) -> np.ndarray:
        """int64 [N], or places in `category_names`; -1 if a product has none, -2 if it has
        something that is none. `categories.resolved` makes ids of them."""

    @property
    def category_names(self) -> tuple[str, ...] | None:
        """Names or paths `A > B > C`; None if products have ids of categories."""

    @property
    def n_images(self) -> np.ndarray:
        """int32 [N]"""

    @property
    def length(self) -> np.ndarray:
        """Approximate bytes, int [N]"""

    @property
    def digest(self) -> np.ndarray:
        """uint64 [N], changes if the product does, as far as the source tells."""

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """What could not become a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self:
        """Some rows, without rejects, for a worker."""

    def with_keys(self, keys: Keys) -> Self:
        """The same products under other keys."""

    @property
    def fingerprint(self) -> str:
        """Changes if any product does."""

    @property
    def roots(self) -> list[str]:
        """What was opened: files, or the folder."""

    @property
    def files(self) -> list[tuple[str, int]]:
        """Local files that every worker must be able to read, and their size in bytes."""

    def location(self, row: int, position: int) -> tuple[str, int]:
        """File and byte offset of a photo, or of the product if `position` is -1. The offset is 0
        if each photo is a file."""

    def photo_name(self, row: int, position: int) -> str | None:
        """What the source calls a photo; None if its photos have no names."""

    def read(self, row: int) -> Photos:
        """The photos of a product. Rows in ascending order are the fastest. Raises ShelfsortError
        if the source changed."""

    def text(self, row: int) -> str:
        """The text of a product, empty if it has none. Costs nothing right after `read` of the same
        row."""

    def columns(self, row: int, names: Sequence[str]) -> list[Any]:
        """Fields of a product as `plain` has them, None if it has none of that name; costs as
        `text`."""

    def split(self, row: int) -> str | None:
        """The official split of a product, `train`, `val` or `test`; None without one."""

    def group(self, row: int) -> str | None:
        """What keeps a product with others in one split; None without one."""


class Dump:
    """A BSON dump as a product source, through its index. `field` of its documents is their
    text."""

    def __init__(self, index: DumpIndex, field: str | None, reader: DumpReader) -> None:
        self.index, self.field = index, field
        self.keys, self.product_id = index.keys, index.product_id
        self.category_id, self.category_names = index.category_id, index.category_names
        self.n_images, self.length, self.digest = index.n_images, index.length, index.digest
        self.rejects = index.rejects
        self._reader = reader
        self._last: tuple[int, Product] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Dump":
        return Dump(self.index[rows], self.field, self._reader)

    def with_keys(self, keys: Keys) -> "Dump":
        """The same dump under other keys."""
        index = replace(
            self.index, product_id=keys.numbers, key_texts=keys.texts, key_type=keys.type
        )
        return Dump(index, self.field, self._reader)

    @property
    def fingerprint(self) -> str:
        """Of the products and their offsets, and the field that is read."""
        index = self.index.fingerprint
        return fingerprint([index, self.field]) if self.field else index

    @property
    def roots(self) -> list[str]:
        """The files of the dump."""
        return [file.path for file in self.index.sources]

    @property
    def files(self) -> list[tuple[str, int]]:
        """The local files of the dump."""
        return [(file.path, file.size) for file in self.index.sources if not is_url(file.path)]

    def location(self, row: int, position: int) -> tuple[str, int]:
        """File and offset of the document, which has all photos of the product."""
        del position
        return self.index.sources[int(self.index.source[row])].path, int(self.index.offset[row])

    def photo_name(self, row: int, position: int) -> str | None:
        """The URL or path of a photo that is not in the document itself."""
        picture = self._product(row).images[position]
        return picture if isinstance(picture, str) else None

    def read(self, row: int) -> Photos:
        """The pictures of one document; an element of `imgs` without one gives an error."""
        images = self._product(row).images
        named = [self._path(row, image) for image in images if isinstance(image, str)]
        fetched = iter(read_files(named, self._reader.access) if named else [])
        return [
            next(fetched)
            if isinstance(image, str)
            else self._no_picture()
            if image is None
            else image
            for image in images
        ]

    def _path(self, row: int, picture: str) -> str:
        """A picture that is named: its URL, or its path relative to the dump."""
        if is_url(picture):
            return picture
        return str(Path(self.location(row, -1)[0]).parent / picture)

    def _no_picture(self) -> ImageError:
        fields = self.index.fields
        field_type = "binary field" if fields.picture_is == "bytes" else "text field"
        wanted = f"no {field_type} `{fields.picture}`" if fields.picture else "no picture"
        return ImageError(NO_PICTURE, f"the element of {fields.images} has {wanted}")

    def text(self, row: int) -> str:
        """The document's text."""
        return self._product(row).text(self.field)

    def columns(self, row: int, names: Sequence[str]) -> list[Any]:
        """Fields of the document."""
        fields: Mapping[str, Any] = self._product(row).fields
        return [plain(lookup(fields, name)) for name in names]

    def split(self, row: int) -> None:
        """None: a dump has no official splits."""

    def group(self, row: int) -> None:
        """None: a dump has no groups."""

    def _product(self, row: int) -> Product:
        if self._last is None or self._last[0] != row:
            self._last = row, self._reader.product(*self.index.location(row))
        return self._last[1]


def reject_of(
    source: ProductSource, row: int, reason: str, detail: str, position: int = -1
) -> Reject:
    """The reject of a row's product, or of its photo at `position`."""
    return Reject(*source.location(row, position), position, source.keys[row], reason, detail)


def open_source(
    sources: Sequence[str | Path],
    index_folder: Path,
    config: CatalogConfig = DEFAULT,
    access: SourcesConfig = ACCESS,
) -> ProductSource:
    """Opens paths or URLs: dumps, or one folder of photos, or one table that lists photos.

    The index is kept in `index_folder`. `config` names the fields, or columns, of what products
    have, `access` is how URLs and photos are read. Raises ShelfsortError if a file is missing or
    not usable.
    """
    names = _unfolded(list(map(str, sources)), config.fields.collection)
    if packed := [name for name in names if name.lower().endswith(PACKED)]:
        remedy = "unpack it, or pack it as .tar or .zip"
        raise ShelfsortError(f"{packed[0]}: this archive can't be read at random; {remedy}")
    if all(name.lower().endswith(ARCHIVES) for name in names):
        paths = archive_paths(names)
        read = partial(read_archives, paths, config, access)
        return open_photos(paths, index_folder, config, access, read)
    special = [name for name in names if name.lower().endswith(TABLES) or is_folder(name, access)]
    if not special:
        index = open_index(names, index_folder, config.fields, access)
        return Dump(index, config.text, DumpReader(index.sources, index.fields, access))
    if len(names) > 1:
        expected = "expected one folder, or one table, or dumps alone"
        raise ShelfsortError(f"{special[0]}: {expected}, found {len(names)} paths")
    is_table = names[0].lower().endswith(TABLES)
    read = partial(read_table if is_table else read_folder, names[0], config, access)
    return open_photos(names, index_folder, config, access, read)


def _unfolded(names: Sequence[str], collection: str | None) -> list[str]:
    """The paths, with the file of the collection in the place of a folder that mongodump wrote.
    Raises ShelfsortError if it has several and none is named."""
    unfolded: list[str] = []
    for name in names:
        dumps = [] if is_url(name) or not os.path.isdir(name) else _collections(name)
        chosen = [path for path in dumps if collection in (None, _collection(path))]
        if dumps and len(chosen) != 1:
            collections = ", ".join(map(_collection, dumps))
            expected = f"collection {collection}" if collection else "one collection"
            raise ShelfsortError(
                f"{name}: expected {expected}, found {collections}; "
                "name it: --set catalog.fields.collection=NAME"
            )
        unfolded += [str(chosen[0])] if dumps else [name]
    return unfolded


def _collections(folder: str) -> list[Path]:
    """The dumps of collections in a folder that mongodump wrote, dump/ or dump/DATABASE/: those
    with metadata beside."""
    inside = _entries(folder)
    below = [entry for sub in inside if sub.is_dir() for entry in _entries(sub.path)]
    files = [Path(entry.path) for entry in inside + below if entry.name.endswith(_MONGODUMP)]
    described = {_collection(path) for path in files if ".metadata.json" in path.name}
    dumps = (path for path in files if ".metadata.json" not in path.name)
    return sorted(path for path in dumps if _collection(path) in described)


def _entries(folder: str) -> list[os.DirEntry]:
    """What is in a folder; nothing if it can't be read, which is said when photos are listed."""
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _collection(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".bson").removesuffix(".metadata.json")
