"""The one reader of CSV files that users write: category names, labels, corrections, priors,
landmarks. Strict, because a CSV that is read wrongly loses rows silently: every fault is an error
that names file and line.

UTF-8, with or without a byte-order mark; the separator is a comma, a semicolon or a tab, by the
header. A row is a line, has as many fields as the header, and is skipped if it is blank.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalog.errors import ShelfsortError
from catalog.filetypes import HEAD, file_type

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


class CsvFile:
    """A CSV file, read row by row. Faults raise `error`, and name the `key` of the configuration
    that the path stands in, if there is one.

    names = CsvFile(path, TaxonomyError)
    for category_id, level1 in names.rows(["category_id", "category_level1"]):
        if not category_id.isdigit():
            raise names.fault("category_id is no number")
    """

    def __init__(
        self, path: str | Path, error: type[ShelfsortError] = ShelfsortError, key: str = ""
    ) -> None:
        self.path, self.error, self.line = Path(path), error, 0
        self.name = f"{key}: {path}" if key else str(path)

    def fault(self, problem: str) -> ShelfsortError:
        """The error of the row that was read last."""
        return self.error(f"{self.name}: line {self.line}: {problem}")

    def rows(self, columns: Sequence[str | tuple[str, ...]]) -> Iterator[list[str]]:
        """The fields of these columns of each row, stripped, in this order. A tuple is one column
        that has several names."""
        wanted = [(column,) if isinstance(column, str) else column for column in columns]
        lines = self._text().split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        self.line = 1
        separator, positions, width = self._header(lines[0] if lines else "", wanted)
        reader = csv.reader(lines[1:], delimiter=separator, strict=True)
        for self.line in range(2, len(lines) + 1):
            fields = self._record(reader)
            if not any(field.strip() for field in fields) and len(fields) != width:
                continue
            if len(fields) != width:
                name = _SEPARATORS[separator]
                raise self.fault(
                    f"found {len(fields)} fields, expected {width} as in the header; "
                    f"a field with a {name} in it must stand in double quotes"
                )
            yield [fields[position].strip() for position in positions]

    def names(self) -> list[str]:
        """The names of all columns, by the separator that finds most."""
        line = self._text().partition("\n")[0]
        return max((_split(line, separator) for separator in _SEPARATORS), key=len)

    def _record(self, reader: Iterator[list[str]]) -> list[str]:
        """The next row. Raises if it doesn't end with its line."""
        try:
            fields = next(reader)
            ends = reader.line_num == self.line - 1  # type: ignore[attr-defined]
        except csv.Error as error:
            raise self.fault(f"not CSV: {error}; is a double quote not closed?") from error
        if not ends:
            raise self.fault("a field goes on in the next line; is a double quote not closed?")
        return fields

    def _header(self, line: str, wanted: Sequence[tuple[str, ...]]) -> tuple[str, list[int], int]:
        """The separator, the positions of the wanted columns, and the number of all columns."""
        headers = {separator: _split(line, separator) for separator in _SEPARATORS}
        for separator, names in headers.items():
            if not all(any(name in names for name in column) for column in wanted):
                continue
            columns = [next(name for name in column if name in names) for column in wanted]
            if repeated := [name for name in columns if names.count(name) > 1]:
                raise self.fault(f"column {repeated[0]} occurs twice")
            return separator, [names.index(name) for name in columns], len(names)
        names = max(headers.values(), key=len)
        missing = next(c for c in wanted if not any(name in names for name in c))
        expected = ", ".join(" or ".join(column) for column in wanted)
        raise self.fault(
            f"column {' or '.join(missing)} is missing; "
            f"expected {_shortened(expected)}, found {_shortened(', '.join(names))}"
        )

    def _text(self) -> str:
        """The whole file, lines ending in "\\n"."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise self.error(f"{self.name}: can't be read: {error.strerror}") from error
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:HEAD]:
            is_a = file_type(data[:HEAD]) or "UTF-16 or no text"
            raise self.error(f"{self.name}: the file is {is_a}, expected CSV; save it as CSV UTF-8")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.line = data[: error.start].count(b"\n") + 1
            bad_byte = f"byte 0x{data[error.start]:02x} is not UTF-8"
            raise self.fault(
                f"{bad_byte}; the file may be Latin-1, save it as CSV UTF-8"
            ) from error
        return text.replace("\r\n", "\n").replace("\r", "\n")


def whole_number(text: str, largest: int) -> int:
    """The integer from 0 to `largest` that a field holds. Raises ValueError on any other text, such
    as 1.0, or 4.00638E+12, from which a spreadsheet has dropped digits."""
    if not (text.isascii() and text.isdigit()):
        lost = "; a spreadsheet has rounded it" if "E+" in text.upper() else ""
        raise ValueError(f"expected an integer, found {_shortened(text)!r}{lost}")
    if int(text[:20]) > largest:
        raise ValueError(f"{text[:20]} is not from 0 to {largest}")
    return int(text)


def _split(line: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
