"""Products as lists of image files: a folder of photos, or a CSV or Parquet table of paths or URLs.

In a folder a file is a product, and so are files that differ in a number at the end alone: 123.jpg,
123_1.jpg and 123_2.jpg are the photos of product 123. A table has a row a photo: `path` (or `url`,
`image`), the product in `product_id` (or `_id`, `name`; each photo its own product where there is
none), and perhaps its true `category_id`.
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
_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
_FURTHER = re.compile(r"_\d{1,2}$")  # not more digits: IMG_0001 and IMG_0002 are two products
_USUAL_BYTES = 20_000
"""Of a photo whose size is not known, for partitions of about equal size."""

log = logging.getLogger(__name__)

Photos = list[bytes | ImageError]
"""The photos of one product as they are stored; an error where one can't even be read."""


@dataclass(frozen=True)
class PhotoList:
    """A source (source.Source) whose product in row i has the photos paths[starts[i]] ..
    paths[starts[i + 1] - 1].

    `names` holds what the source calls its products, where that are no numbers; their ids are then
    hashes of the names.
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
    """Of each product."""

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
        """Of names, photos, sizes and time stamps; those of photos on a server are left out where a
        table lists them."""
        return self.content

    @cached_property
    def n_images(self) -> np.ndarray:
        """Photos of each product, int32 [N]."""
        return np.diff(self.starts).astype(np.int32)

    @property
    def length(self) -> np.ndarray:
        """Bytes of each product, about, int64 [N]."""
        return self.n_images.astype(np.int64) * _USUAL_BYTES

    @property
    def files(self) -> list[tuple[str, int]]:
        """One local photo of them."""
        here = next(
            (path for path in self.paths if not is_url(path) and os.path.isfile(path)), None
        )
        return [(here, os.path.getsize(here))] if here else []

    def place(self, row: int, position: int) -> tuple[str, int]:
        """The photo; of a product, the first one."""
        return printable(self.paths[int(self.starts[row]) + max(position, 0)]), 0

    def name(self, row: int) -> str | None:
        """The product's name."""
        return self.names[row] if self.names else None

    def read(self, row: int) -> Photos:
        """The files of a product, those on a server at once."""
        return read_files(self.paths[self.starts[row] : self.starts[row + 1]])

    def text(self, row: int) -> str:
        """The product's text, as its first row in the table has it."""
        return self.texts[row]


def read_folder(folder: str) -> PhotoList:
    """Lists the photos below a folder. Raises ShelfsortError where there is none."""
    files = files_below(
        folder if is_url(folder) else os.path.abspath(folder)
    )  # workers have folders of their own
    found = [
        (printable(within), *rest) for within, *rest in files if within.lower().endswith(_SUFFIXES)
    ]
    if not found:
        raise ShelfsortError(
            f"{folder}: expected photos ({' '.join(_SUFFIXES)}) in this folder or below it, found none"
        )
    if others := len(files) - len(found):
        log.warning(
            "%s: passed over %d of %d files; photos are %s",
            folder,
            others,
            len(files),
            " ".join(_SUFFIXES),
        )
    names = [_FURTHER.sub("", os.path.splitext(within)[0]) for within, *_ in found]
    content = fingerprint([[within, size, stamp] for within, _, size, stamp in found])
    return _listed(
        content, names, [path for _, path, *_ in found], [-1] * len(found), [""] * len(found)
    )


def read_table(path: str, text: str | None = None) -> PhotoList:
    """Reads a table of photos; paths in it are relative to its own folder, and column `text` is the
    product's text.

    Raises ShelfsortError where it has no column of photos, or a row doesn't say of which product it
    is.
    """
    table = _open_table(path)
    counts = {
        name: table.column_names.count(name)
        for name in (*PATH_COLUMNS, *ID_COLUMNS, "category_id", text)
    }
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ShelfsortError(
            f"{path}: expected one column {twice}, found {counts[twice]}; remove or rename the others"
        )
    photo = next((name for name in PATH_COLUMNS if name in table.column_names), None)
    if photo is None:
        raise ShelfsortError(
            f"{path}: expected a column {' or '.join(PATH_COLUMNS)}, found {', '.join(table.column_names)}"
        )
    written = [str(value or "") for value in table[photo].to_pylist()]
    names = _names(
        path, table, next((name for name in ID_COLUMNS if name in table.column_names), photo)
    )
    categories = _categories(path, table)
    texts = (
        [str(value or "") for value in table[text].to_pylist()]
        if text in table.column_names
        else [""] * len(names)
    )
    folder = os.path.dirname(path if is_url(path) else os.path.abspath(path))
    paths = [p if is_url(p) or os.path.isabs(p) else f"{folder}/{p}" for p in written]
    content = fingerprint([[_seen(p) for p in paths], names, categories, texts])
    return _listed(content, names, paths, categories, texts)


def _open_table(path: str) -> pyarrow.Table:
    """A table with the ids and paths of a CSV as they are written: as numbers they would lose
    leading zeros or last digits."""
    written = dict.fromkeys((*PATH_COLUMNS, *ID_COLUMNS), pyarrow.string())
    options = pyarrow.csv.ConvertOptions(column_types=written, strings_can_be_null=True)
    with open_file(path) as file:
        try:
            if path.endswith(".parquet"):
                return pyarrow.parquet.read_table(file)
            return pyarrow.csv.read_csv(file, convert_options=options)
        except (pyarrow.ArrowException, OSError) as error:
            raise ShelfsortError(
                f"{path}: not readable as a table: {' '.join(str(error).split())}"
            ) from error


def _names(path: str, table: pyarrow.Table, column: str) -> list[str]:
    """What each row calls its product. Raises ShelfsortError where that is nothing, or a number
    that may have lost digits."""
    names = ["" if value is None else str(value) for value in table[column].to_pylist()]
    if empty := [row for row, name in enumerate(names, 1) if not name.strip()]:
        detail = f"row {empty[0]} (the first has number 1): column {column} is empty or null, expected the photo's product"
        raise ShelfsortError(f"{path}: {detail}; fill it in or remove the row")
    if pyarrow.types.is_floating(kind := table[column].type):
        raise ShelfsortError(
            f"{path}: column {column}: expected integers or text, found {kind}; write the ids as integers"
        )
    return names


def _categories(path: str, table: pyarrow.Table) -> list[int]:
    """The true category id of each row, -1 where there is none. Raises ShelfsortError where one is
    no integer, or too large."""
    if "category_id" not in table.column_names:
        return [-1] * len(table)
    categories = [-1 if label is None else label for label in table["category_id"].to_pylist()]
    if wrong := [
        label for label in categories if type(label) is not int or not -1 <= label < 2**63
    ]:
        raise ShelfsortError(
            f"{path}: column category_id: expected integers from 0 to 2^63 - 1, found {wrong[0]!r}"
        )
    return categories


def _seen(path: str) -> list[str | int]:
    """A photo's path, and its size and stamp where it is a file here."""
    return [
        printable(path),
        *(() if is_url(path) or not os.path.isfile(path) else size_and_stamp(path)),
    ]


def _listed(
    content: str,
    names: Sequence[str],
    paths: Sequence[str],
    categories: Sequence[int],
    texts: Sequence[str],
) -> PhotoList:
    """Groups photos by product, in the order of each product's first photo."""
    photos: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        photos.setdefault(name, []).append(place)
    detail = f"has {{}} photos, expected at most {POSITIONS}"
    rejects = [
        Reject(
            printable(paths[places[0]]),
            0,
            -1,
            -1,
            "too_many_images",
            f"{name} {detail.format(len(places))}",
        )
        for name, places in photos.items()
        if len(places) > POSITIONS
    ]
    photos = {name: places for name, places in photos.items() if len(places) <= POSITIONS}
    ids = _numbers(list(photos))
    starts = np.cumsum([0, *map(len, photos.values())], dtype=np.int64)
    order = [place for places in photos.values() for place in places]
    category_id = np.array([categories[places[0]] for places in photos.values()], dtype=np.int64)
    hashed = np.array(
        [xxhash.xxh3_64_intdigest(name.encode()) & MAX_PRODUCT_ID for name in photos],
        dtype=np.int64,
    )
    return PhotoList(
        content,
        tuple(rejects),
        hashed if ids is None else ids,
        category_id,
        starts,
        tuple(paths[place] for place in order),
        tuple(photos) if ids is None else None,
        tuple(texts[places[0]] for places in photos.values()),
    )


def _numbers(names: list[str]) -> np.ndarray | None:
    """The names as product ids, where all of them are; None otherwise."""
    if not all(
        re.fullmatch(r"0|[1-9]\d{0,14}", name) and int(name) <= MAX_PRODUCT_ID for name in names
    ):
        return None
    return np.array(list(map(int, names)), dtype=np.int64)
