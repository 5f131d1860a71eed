"""What products come from, behind one protocol: scoring doesn't know whether it reads a dump, a
folder of photos or a table."""

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


class ProductSource(Protocol):
    """N products, one row each. Can be pickled.

    source = open_source(["test.bson"], Path("predictions/dumps"))
    for row in range(len(source)):
        photos = source.read(row)
    """

    @property
    def product_id(self) -> np.ndarray:
        """int64 [N]"""

    @property
    def category_id(self) -> np.ndarray:
        """int64 [N], -1 if unknown"""

    @property
    def n_images(self) -> np.ndarray:
        """int32 [N]"""

    @property
    def length(self) -> np.ndarray:
        """Approximate bytes, int [N]"""

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """What could not become a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> "ProductSource":
        """Some rows, without rejects, for a worker."""

    @property
    def fingerprint(self) -> str:
        """Changes if any product does."""

    @property
    def files(self) -> list[tuple[str, int]]:
        """Local files that every worker must be able to read, and their size in bytes."""

    def place(self, row: int, position: int) -> tuple[str, int]:
        """File and byte offset of a photo, or of the product if `position` is -1. The offset is 0
        if each photo is a file."""

    def name(self, row: int) -> str | None:
        """What the source itself calls a product, if that is not its number."""

    def read(self, row: int) -> Photos:
        """The photos of a product. Rows in ascending order are the fastest. Raises ShelfsortError
        if the source changed."""

    def text(self, row: int) -> str:
        """The text of a product, empty if it has none. Costs nothing right after `read` of the same
        row."""


class Dump:
    """A BSON dump as a product source, through its index. `field` of its documents is their
    text."""

    def __init__(
        self, index: DumpIndex, field: str | None, reader: DumpReader | None = None
    ) -> None:
        self.index, self.field = index, field
        self.product_id, self.category_id = index.product_id, index.category_id
        self.n_images, self.length = index.n_images, index.length
        self.rejects = index.rejects
        self._reader = reader or DumpReader(index.sources)
        self._last: tuple[int, Product] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Dump":
        return Dump(self.index[rows], self.field, self._reader)

    @property
    def fingerprint(self) -> str:
        """Of the products and their offsets, and the field that is read."""
        index = self.index.fingerprint
        return fingerprint([index, self.field]) if self.field else index

    @property
    def files(self) -> list[tuple[str, int]]:
        """The local files of the dump."""
        return [(file.path, file.size) for file in self.index.sources if not is_url(file.path)]

    def place(self, row: int, position: int) -> tuple[str, int]:
        """File and offset of the document, which has all photos of the product."""
        del position
        return self.index.sources[int(self.index.source[row])].path, int(self.index.offset[row])

    def name(self, row: int) -> None:
        """None: a dump's products have numbers alone."""

    def read(self, row: int) -> Photos:
        """The pictures of one document; an element of `imgs` without one gives an empty photo."""
        return [data or b"" for data in self._product(row).images]

    def text(self, row: int) -> str:
        """The document's text."""
        return self._product(row).text(self.field)

    def _product(self, row: int) -> Product:
        if self._last is None or self._last[0] != row:
            self._last = row, self._reader.product(*self.index.location(row))
        return self._last[1]


def open_source(
    paths: Sequence[str | Path], index_folder: Path, text: str | None = None
) -> ProductSource:
    """Opens paths or URLs: dumps, or one folder of photos, or one table (.csv, .parquet) that lists
    photos.

    A dump's index is kept in `index_folder`. `text` names the field, or column, of the products'
    texts. Raises ShelfsortError if a file is missing or not usable.
    """
    names = list(map(str, paths))
    special = [name for name in names if name.endswith(TABLES) or is_folder(name)]
    if not special:
        return Dump(open_index(names, index_folder), text)
    if len(names) > 1:
        expected = "expected one folder, or one table, or dumps alone"
        raise ShelfsortError(f"{special[0]}: {expected}, found {len(names)} paths")
    return read_table(names[0], text) if names[0].endswith(TABLES) else read_folder(names[0])
