"""Products as lists of image files: a folder of photos, or a CSV or Parquet table of paths or URLs.

In a folder each file is a product; files that differ only in a number at the end are one product:
123.jpg, 123_1.jpg and 123_2.jpg are the photos of product 123. A table has one row per photo:
`path` (or `url`, `image`), the product in `product_id` (or `_id`, `name`; without such a column
each photo is its own product), and perhaps its true `category_id`.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import xxhash

from catalog.artifacts import fingerprint
from catalog.errors import ImageError, ShelfsortError
from catalog.files import files_below, is_url, open_file, printable, read_files, size_and_stamp
from catalog.image_table import MAX_PRODUCT_ID, POSITIONS
from catalog.sources.dump_index import Reject

TABLES = (".csv", ".csv.gz", ".parquet")
PATH_COLUMNS, ID_COLUMNS = ("path", "url", "image"), ("product_id", "_id", "name")
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif"),
)
_FURTHER = re.compile(r"_\d{1,2}$")
"""At the end of a further photo's name. No more digits: IMG_0001 and IMG_0002 are two products."""
_USUAL_BYTES = 20_000
"""Assumed size of a photo, for partitions of about equal size."""

log = logging.getLogger(__name__)

Photos = list[bytes | ImageError]
"""The photos of one product as they are stored; an error in place of one that can't be read."""


@dataclass(frozen=True)
class PhotoList:
    """A product source (source.ProductSource) of image files. The photos of the product in row i
    are paths[starts[i] : starts[i + 1]].

    `names` holds what the source calls its products, if these are not all numbers; their ids are
    then hashes of the names.
    """

    content: str
    """Fingerprint of everything that was listed."""
    rejects: tuple[Reject, ...]
    product_id: np.ndarray
    category_id: np.ndarray
    starts: np.ndarray
    paths: tuple[str, ...]
    names: tuple[str, ...] | None
    texts: tuple[str, ...]
    """One per product."""

    def __len__(self) -> int:
        return len(self.product_id)

    def __getitem__(self, rows: slice) -> "PhotoList":
        first, last, _ = rows.indices(len(self))
        starts = self.starts[first : last + 1]
        return replace(
            self,
            rejects=(),
            product_id=self.product_id[rows],
            category_id=self.category_id[rows],
            starts=starts - starts[0],
            paths=self.paths[starts[0] : starts[-1]],
            names=self.names and self.names[rows],
            texts=self.texts[rows],
        )

    @property
    def fingerprint(self) -> str:
        """Of names, photos, sizes and versions, except those of photos on a server that a table
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
        """The first local photo, if any."""
        for path in self.paths:
            if not is_url(path) and os.path.isfile(path):
                return [(path, os.path.getsize(path))]
        return []

    def place(self, row: int, position: int) -> tuple[str, int]:
        """The photo, or the product's first one."""
        return printable(self.paths[int(self.starts[row]) + max(position, 0)]), 0

    def name(self, row: int) -> str | None:
        """The product's name."""
        return self.names[row] if self.names else None

    def read(self, row: int) -> Photos:
        """The files of a product. Those on one server are fetched together."""
        return read_files(self.paths[self.starts[row] : self.starts[row + 1]])

    def text(self, row: int) -> str:
        """The product's text, from its first row in the table."""
        return self.texts[row]


@dataclass(frozen=True)
class _Listing:
    """What was listed, one element per photo: what its product is called, its path or URL, the
    product's true category id (-1 if unknown) and text."""

    names: list[str]
    paths: list[str]
    categories: list[int]
    texts: list[str]


def read_folder(folder: str) -> PhotoList:
    """Lists the photos below a folder. Raises ShelfsortError if there is none."""
    # Absolute paths, as workers have working folders of their own.
    files = files_below(folder if is_url(folder) else os.path.abspath(folder))
    photos = [
        file._replace(relative=printable(file.relative))
        for file in files
        if file.relative.lower().endswith(_SUFFIXES)
    ]
    suffixes = " ".join(_SUFFIXES)
    if not photos:
        raise ShelfsortError(
            f"{folder}: expected photos ({suffixes}) in this folder or below it, found none"
        )
    if others := len(files) - len(photos):
        log.warning(
            "%s: ignored %d of %d files; photos are %s", folder, others, len(files), suffixes
        )
    names = [_FURTHER.sub("", os.path.splitext(photo.relative)[0]) for photo in photos]
    content = fingerprint([[photo.relative, photo.size, photo.stamp] for photo in photos])
    paths = [photo.path for photo in photos]
    return _grouped(content, _Listing(names, paths, [-1] * len(photos), [""] * len(photos)))


def read_table(path: str, text: str | None = None) -> PhotoList:
    """Reads a table of photos. Paths in it are relative to its own folder; column `text` is the
    product's text.

    Raises ShelfsortError if it has no column of photos, or a row doesn't name its product.
    """
    table = _open_table(path)
    _require_unique(path, table, (*PATH_COLUMNS, *ID_COLUMNS, "category_id", text))
    photos = _first_column(table, PATH_COLUMNS)
    if photos is None:
        expected, found = " or ".join(PATH_COLUMNS), ", ".join(table.column_names)
        raise ShelfsortError(f"{path}: expected a column {expected}, found {found}")
    names = _names(path, table, _first_column(table, ID_COLUMNS) or photos)
    categories = _categories(path, table)
    texts = _texts(table, text) if text in table.column_names else [""] * len(names)
    folder = os.path.dirname(path if is_url(path) else os.path.abspath(path))
    paths = [
        photo if is_url(photo) or os.path.isabs(photo) else f"{folder}/{photo}"
        for photo in _texts(table, photos)
    ]
    content = fingerprint([[_version(p) for p in paths], names, categories, texts])
    return _grouped(content, _Listing(names, paths, categories, texts))


def _first_column(table: pyarrow.Table, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in table.column_names), None)


def _require_unique(path: str, table: pyarrow.Table, names: Sequence[str | None]) -> None:
    """Raises ShelfsortError if one of these columns occurs more than once."""
    for name in names:
        if (count := table.column_names.count(name)) > 1:
            raise ShelfsortError(
                f"{path}: expected one column {name}, found {count}; remove or rename the others"
            )


def _texts(table: pyarrow.Table, column: str | None) -> list[str]:
    return [str(value or "") for value in table[column].to_pylist()]


def _open_table(path: str) -> pyarrow.Table:
    """A table. Ids and paths of a CSV are read as text: numbers would lose leading zeros or last
    digits."""
    as_text = dict.fromkeys((*PATH_COLUMNS, *ID_COLUMNS), pyarrow.string())
    options = pyarrow.csv.ConvertOptions(column_types=as_text, strings_can_be_null=True)
    with open_file(path) as file:
        try:
            if path.endswith(".parquet"):
                return pyarrow.parquet.read_table(file)
            return pyarrow.csv.read_csv(file, convert_options=options)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ShelfsortError(f"{path}: not readable as a table: {reason}") from error


def _names(path: str, table: pyarrow.Table, column: str) -> list[str]:
    """What each row calls its product. Raises ShelfsortError if one is empty, or a number that may
    have lost digits."""
    names = ["" if value is None else str(value) for value in table[column].to_pylist()]
    if empty := [row for row, name in enumerate(names, 1) if not name.strip()]:
        raise ShelfsortError(
            f"{path}: row {empty[0]} (the first has number 1): column {column} is empty or null, "
            "expected the photo's product; fill it in or remove the row"
        )
    dtype = table[column].type
    if pyarrow.types.is_floating(dtype):
        raise ShelfsortError(
            f"{path}: column {column}: expected integers or text, found {dtype}; "
            "write the ids as integers"
        )
    return names


def _categories(path: str, table: pyarrow.Table) -> list[int]:
    """The true category id of each row, -1 if there is none. Raises ShelfsortError if one is not an
    integer, or too large."""
    if "category_id" not in table.column_names:
        return [-1] * len(table)
    categories = [-1 if label is None else label for label in table["category_id"].to_pylist()]
    for label in categories:
        if type(label) is not int or not -1 <= label < 2**63:
            raise ShelfsortError(
                f"{path}: column category_id: expected integers from 0 to 2^63 - 1, found {label!r}"
            )
    return categories


def _version(path: str) -> list[str | int]:
    """A photo's path, and its size and stamp if it is a local file."""
    if is_url(path) or not os.path.isfile(path):
        return [printable(path)]
    return [printable(path), *size_and_stamp(path)]


def _grouped(content: str, listing: _Listing) -> PhotoList:
    """Groups photos by product, in the order of each product's first photo."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(listing.names):
        rows_of.setdefault(name, []).append(row)
    rejects = []
    for name in [name for name, rows in rows_of.items() if len(rows) > POSITIONS]:
        rows = rows_of.pop(name)
        detail = f"{name} has {len(rows)} photos, expected at most {POSITIONS}"
        first_photo = printable(listing.paths[rows[0]])
        rejects.append(Reject(first_photo, 0, -1, -1, "too_many_images", detail))
    names, first = tuple(rows_of), [rows[0] for rows in rows_of.values()]
    numbers = _numbers(names)
    return PhotoList(
        content=content,
        rejects=tuple(rejects),
        product_id=_hashes(names) if numbers is None else numbers,
        category_id=np.array([listing.categories[row] for row in first], dtype=np.int64),
        starts=np.cumsum([0, *map(len, rows_of.values())], dtype=np.int64),
        paths=tuple(listing.paths[row] for rows in rows_of.values() for row in rows),
        names=names if numbers is None else None,
        texts=tuple(listing.texts[row] for row in first),
    )


def _numbers(names: Sequence[str]) -> np.ndarray | None:
    """The names as product ids, int64; None unless all of them are."""
    for name in names:
        if not re.fullmatch(r"0|[1-9]\d{0,14}", name) or int(name) > MAX_PRODUCT_ID:
            return None
    return np.array(list(map(int, names)), dtype=np.int64)


def _hashes(names: Sequence[str]) -> np.ndarray:
    """Product ids, int64, of names that are no numbers."""
    hashes = [xxhash.xxh3_64_intdigest(name.encode()) & MAX_PRODUCT_ID for name in names]
    return np.array(hashes, dtype=np.int64)
