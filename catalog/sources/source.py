"""What can be scored, behind one protocol: scoring does not know whether it reads a dump, a folder
of photos or a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from catalog.artifacts import fingerprint
from catalog.errors import ShelfsortError
from catalog.files import is_folder, is_url
from catalog.sources.bson_reader import DumpReader, Product
from catalog.sources.dump_index import DumpIndex, Reject, open_index
from catalog.sources.photo_list import TABLES, Photos, read_folder, read_table


class Source(Protocol):
    """N products to be scored, a row each: `product_id` int64 [N], `category_id` int64 [N] (-1
    where unknown), `n_images` int32 [N], `length` int [N] (bytes, about); and `rejects`, what could
    not become a row. Can be pickled."""

    product_id: np.ndarray
    category_id: np.ndarray
    n_images: np.ndarray
    length: np.ndarray
    rejects: tuple[Reject, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> "Source":
        """Some rows, without rejects: what a worker gets."""

    @property
    def fingerprint(self) -> str:
        """Changes when any product does."""

    @property
    def files(self) -> list[tuple[str, int]]:
        """Local files that whoever scores must see, and their size in bytes."""

    def place(self, row: int, position: int) -> tuple[str, int]:
        """Where a photo (a product, where `position` is -1) stands: file and byte offset, 0 where
        that says nothing."""

    def name(self, row: int) -> str | None:
        """What the source itself calls a product, where that is no number."""

    def read(self, row: int) -> Photos:
        """The photos of a product. Rows in rising order are the fastest. Raises ShelfsortError
        where the source changed."""

    def text(self, row: int) -> str:
        """The text of a product, empty where it has none; next to `read` of the same row it costs
        nothing."""


class Dump:
    """A BSON dump as a source, through its index; `field` of its documents is their text."""

    def __init__(
        self, index: DumpIndex, field: str | None, reader: DumpReader | None = None
    ) -> None:
        self.index, self.field = index, field
        self.product_id, self.category_id, self.n_images = (
            index.product_id,
            index.category_id,
            index.n_images,
        )
        self.length, self.rejects = index.length, index.rejects
        self._reader = reader or DumpReader(index.sources)
        self._last: tuple[int, Product] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Dump":
        return Dump(self.index[rows], self.field, self._reader)

    @property
    def fingerprint(self) -> str:
        """Of the products and their places, and the field that is read."""
        return (
            fingerprint([self.index.fingerprint, self.field])
            if self.field
            else self.index.fingerprint
        )

    @property
    def files(self) -> list[tuple[str, int]]:
        """The files of the dump."""
        return [
            (source.path, source.size) for source in self.index.sources if not is_url(source.path)
        ]

    def place(self, row: int, position: int) -> tuple[str, int]:
        """File and offset of the document."""
        return self.index.sources[int(self.index.source[row])].path, int(self.index.offset[row])

    def name(self, row: int) -> None:
        """A dump's products have numbers only."""

    def read(self, row: int) -> Photos:
        """The pictures of one document; an element of `imgs` without one is an empty photo."""
        return [data or b"" for data in self._product(row).images]

    def text(self, row: int) -> str:
        """The document's text."""
        return self._product(row).text(self.field)

    def _product(self, row: int) -> Product:
        if self._last is None or self._last[0] != row:
            self._last = row, self._reader.product(*self.index.place(row))
        return self._last[1]


def open_source(paths: Sequence[str | Path], index_folder: Path, text: str | None = None) -> Source:
    """The source behind some paths or URLs: dumps, or one folder of photos, or one table (.csv,
    .parquet) that lists photos.

    A dump's index is kept in `index_folder`; `text` names the field, or column, of the products'
    texts. Raises ShelfsortError where there is no such file or it is of no use.
    """
    names = list(map(str, paths))
    special = [name for name in names if name.endswith(TABLES) or is_folder(name)]
    if not special:
        return Dump(open_index(names, index_folder), text)
    if len(names) > 1:
        raise ShelfsortError(
            f"{special[0]}: expected one folder or table alone, or dumps alone, found {len(names)} paths"
        )
    return read_table(names[0], text) if names[0].endswith(TABLES) else read_folder(names[0])
