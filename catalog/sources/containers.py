"""Photos inside of other files: spans of tar and zip archives, cells of Parquet tables."""

import os
import zlib
from typing import Any, BinaryIO

import pyarrow.parquet

from catalog.config import SourcesConfig
from catalog.errors import ImageError, ShelfsortError
from catalog.fetch import TOO_MANY_BYTES, UNREACHABLE, read_files
from catalog.files import ACCESS, UNREADABLE, Span, is_url, open_file


class Containers:
    """Reads photos inside of files, which it keeps open. A copy in another process opens them
    again. Rows of a table in ascending order are read once."""

    def __init__(self, access: SourcesConfig = ACCESS) -> None:
        self.access = access
        self._open: dict[str, BinaryIO] = {}
        self._tables: dict[tuple[str, str], _CellReader] = {}

    def __reduce__(self) -> tuple:
        return Containers, (self.access,)

    def read(self, path: str, span: Span) -> bytes | ImageError:
        """The bytes of a photo, or the error in place of one that can't be read."""
        try:
            return self._cell(path, span) if span.kind == "cell" else self._span(path, span)
        except zlib.error as error:
            return ImageError(UNREADABLE, f"{path}: at byte {span.offset}: {error}")
        except (ShelfsortError, OSError, pyarrow.ArrowException) as error:
            return ImageError(UNREACHABLE, f"{path}: can't be read: {error}")

    def _span(self, path: str, span: Span) -> bytes | ImageError:
        if path not in self._open:
            self._open[path] = open_file(path, access=self.access)
        file, most = self._open[path], self.access.max_bytes
        file.seek(span.offset)
        data = file.read(min(span.length, most + 1))
        if len(data) < min(span.length, most + 1):
            return ImageError(UNREADABLE, f"{path}: ends inside the photo at byte {span.offset}")
        if span.kind == "deflated":
            data = zlib.decompressobj(-15).decompress(data, most + 1)
        if len(data) > most:
            problem = f"has more than {self.access.max_mb} MB (sources.max_mb)"
            return ImageError(TOO_MANY_BYTES, f"{path}: the photo at byte {span.offset} {problem}")
        return data

    def _cell(self, path: str, span: Span) -> bytes | ImageError:
        key = (path, span.column)
        if key not in self._tables:
            self._tables[key] = _CellReader(path, span.column, self.access)
        data = picture(self._tables[key].cell(span.offset), span.length)
        if isinstance(data, bytes):
            return data
        if isinstance(data, str):
            beside = is_url(data) or os.path.isabs(data)
            name = data if beside else f"{os.path.dirname(path)}/{data}"
            return read_files([name], self.access)[0]
        return ImageError(
            "no_picture", f"{path}: row {span.offset + 1}: {span.column} holds no picture"
        )


class _CellReader:
    """One column of a Parquet file, a row group at a time."""

    def __init__(self, path: str, column: str, access: SourcesConfig) -> None:
        self.file = pyarrow.parquet.ParquetFile(open_file(path, access=access))
        self.column = column
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        self.group, self.first, self.rows = -1, 0, pyarrow.chunked_array([], pyarrow.null())

    def cell(self, row: int) -> Any:
        """The value in a row of the whole file."""
        group = next(number for number, end in enumerate(self.ends) if row < end)
        if group != self.group:
            self.rows = self.file.read_row_group(group, columns=[self.column])[self.column]
            self.group, self.first = group, self.ends[group - 1] if group else 0
        return self.rows[row - self.first].as_py()


def picture(value: Any, position: int) -> Any:
    """The picture in a cell: bytes, the struct {bytes, path} of Hugging Face, or a list of either;
    a path or URL if the cell has no bytes; None if it has neither."""
    if isinstance(value, list):
        value = value[position] if position < len(value) else None
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value or None
