"""Tables of products: CSV, TSV, with semicolons, or Parquet; one row per photo, or per product with
a list of photos.

A photo is a path relative to the table, a URL, bytes, or the struct {bytes, path} of Hugging Face.
Columns go by usual names, or by those that `catalog.table` gives. Types are checked before anything
is read.
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from catalog.config import CatalogConfig, SourcesConfig
from catalog.errors import ShelfsortError
from catalog.files import ACCESS, Anchor, ListedFile, Span, is_url, open_file, size_and_stamp
from catalog.sources.containers import picture
from catalog.sources.keys import Key
from catalog.sources.photo_list import PhotoList, grouped, keyed
from catalog.sources.photo_table import About
from catalog.splits import OFFICIAL

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
USUAL = {
    "product": ("product_id", "_id", "id", "sku", "name"),
    "image": ("path", "url", "image", "images", "photo", "photos", "image_url", "file_name"),
    "category": ("category_id", "category", "category_path", "label"),
    "split": ("split",),
    "group": ("group",),
}
"""Names of columns, the first that a table has."""
_ROUNDED = re.compile(r"\d+([.,]\d+)?[Ee]\+?\d+|\d+[.,]0+")
"""An integer after a spreadsheet: 4.00638E+12, 1.0."""


@dataclass(frozen=True)
class _Table:
    """What is read of a table: its columns but for the pictures themselves, and what they mean."""

    path: str
    root: str
    content: pyarrow.Table
    roles: dict[str, str]
    cells: bool
    """Whether photos are in the table itself."""
    counts: list[int] | None
    """Photos in each row, if a row has a list of them and they are in the table."""

    def values(self, role: str) -> list[Any]:
        """The column with this role, None in each row if there is none."""
        if role not in self.roles:
            return [None] * len(self.content)
        return self.content[self.roles[role]].to_pylist()


def read_table(path: str, config: CatalogConfig, access: SourcesConfig = ACCESS) -> PhotoList:
    """Reads a table of products. Raises ShelfsortError if a column is missing, repeated or of
    another type, or a row doesn't name its product."""
    size, stamp = size_and_stamp(path, access)
    table = _open(path, config, access)
    row_keys = _keys(table)
    files: list[ListedFile] = []
    row_of: list[int] = []
    for row, listed in enumerate(_photos(table)):
        for name, photo_path, span in listed:
            version = (0, stamp) if span else _version(photo_path)
            files.append(ListedFile(name, photo_path, *version, span))
            row_of.append(row)
    if row_keys:
        keys: Sequence[Key] = [row_keys[row] for row in row_of]
    else:
        keys = keyed([file.relative for file in files])
    anchors = [Anchor(path if is_url(path) else os.path.abspath(path), stamp, size)]
    about = _about(table, row_of, config)
    return grouped([path], files, keys, about, access=access, anchors=anchors)


def _version(path: str) -> tuple[int | None, int]:
    return (None, 0) if is_url(path) or not os.path.isfile(path) else size_and_stamp(path)


def _about(table: _Table, row_of: Sequence[int], config: CatalogConfig) -> Any:
    """What the table says of a photo's product."""
    columns = {role: table.values(role) for role in ("category", "split", "group", "text")}
    kept = [name for name in config.columns if name in table.content.column_names]
    fields = {name: table.content[name].to_pylist() for name in kept}
    if (category := table.roles.get("category")) is not None:
        _require_categories(table.path, category, columns["category"])

    def about(photo: int) -> About:
        row = row_of[photo]
        text, group = columns["text"][row], columns["group"][row]
        return About(
            columns["category"][row],
            text.strip() if isinstance(text, str) else "",
            _official(table.path, row, columns["split"][row]),
            None if group is None else str(group),
            {name: values[row] for name, values in fields.items()},
        )

    return about


def _official(path: str, row: int, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if (split := OFFICIAL.get(str(value).lower())) is None:
        expected = ", ".join(OFFICIAL)
        raise ShelfsortError(f"{path}: row {row + 1}: split is {value!r}, expected {expected}")
    return split


def _require_categories(path: str, column: str, values: Sequence[Any]) -> None:
    """Raises ShelfsortError if a category is no id, name or path, or a spreadsheet rounded it."""
    for row, value in enumerate(values, 1):
        if isinstance(value, str) and _ROUNDED.fullmatch(value.strip()):
            raise ShelfsortError(_rounded(path, row, column, value))
        number = type(value) is int and -1 <= value < 2**63
        if not (value is None or number or isinstance(value, str)):
            raise ShelfsortError(
                f"{path}: column {column}: expected integers from 0 to 2^63 - 1, or names, "
                f"found {value!r}"
            )


def _rounded(path: str, row: int, column: str, value: str) -> str:
    return (
        f"{path}: row {row} (the first has number 1): column {column} is {value.strip()}, which a "
        "spreadsheet has made of an integer; export the column as text"
    )


def _keys(table: _Table) -> Sequence[Key]:
    """The key of each row; empty if no column names the products. Raises ShelfsortError if one is
    empty, or a number that may have lost digits."""
    if "product" not in table.roles:
        return []
    column, values = table.roles["product"], table.values("product")
    for row, value in enumerate(values, 1):
        if value is None or not str(value).strip():
            raise ShelfsortError(
                f"{table.path}: row {row} (the first has number 1): column {column} is empty or "
                "null, expected the photo's product; fill it in or remove the row"
            )
        if isinstance(value, str) and _ROUNDED.fullmatch(value.strip()):
            raise ShelfsortError(_rounded(table.path, row, column, value))
    return values if isinstance(values[0] if values else "", int) else keyed(values)


def _photos(table: _Table) -> Iterator[list[tuple[str, str, Span | None]]]:
    """Name, path or URL, and place in the table of each photo of each row."""
    column = table.roles["image"]
    if table.cells:
        counts = table.counts or [1] * len(table.content)
        for row, count in enumerate(counts):
            yield [
                (f"{row + 1}/{i}", table.path, Span("cell", row, i, column)) for i in range(count)
            ]
        return
    for value in table.values("image"):
        names = [picture(v, 0) or "" for v in (value if isinstance(value, list) else [value])]
        yield [(name, _place(table.root, name), None) for name in names]


def _place(root: str, name: str) -> str:
    return name if is_url(name) or os.path.isabs(name) else f"{root}/{name}"


def _open(path: str, config: CatalogConfig, access: SourcesConfig) -> _Table:
    root = os.path.dirname(path if is_url(path) else os.path.abspath(path))
    absolute = path if is_url(path) else os.path.abspath(path)
    try:
        if path.lower().endswith(".parquet"):
            return _open_parquet(absolute, root, path, config, access)
        content, roles = _open_csv(path, config, access)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ShelfsortError(f"{path}: not readable as a table: {reason}") from error
    return _Table(path, root, content, roles, cells=False, counts=None)


def _open_parquet(
    absolute: str, root: str, path: str, config: CatalogConfig, access: SourcesConfig
) -> _Table:
    with open_file(path, access=access) as stream:
        file = pyarrow.parquet.ParquetFile(stream)
        schema = file.schema_arrow
        roles = _roles(path, schema.names, config)
        image = schema.field(roles["image"]).type
        _require_types(path, schema, roles)
        element = image.value_type if pyarrow.types.is_list(image) else image
        cells = _is_binary(element) or pyarrow.types.is_struct(element)
        wanted = {*roles.values(), *config.columns} - ({roles["image"]} if cells else set())
        content = file.read(columns=[name for name in schema.names if name in wanted])
        counts = None
        if cells and pyarrow.types.is_list(image):
            counts = []
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=[roles["image"]])[roles["image"]]
                lengths = pyarrow.compute.list_value_length(column)
                counts += [length or 0 for length in lengths.to_pylist()]
        if not content.column_names:  # all of it is pictures
            content = content.append_column("row", [pyarrow.nulls(file.metadata.num_rows)])
    table_path = absolute if cells else path
    return _Table(table_path, root, content, roles, cells, counts)


def _require_types(path: str, schema: pyarrow.Schema, roles: dict[str, str]) -> None:
    """Raises ShelfsortError if the photos or the keys are of a type that can't be either."""
    types = pyarrow.types
    image = schema.field(roles["image"]).type
    element = image.value_type if types.is_list(image) else image
    if not (_is_text(element) or _is_binary(element) or types.is_struct(element)):
        expected = "paths, URLs, bytes, or structs {bytes, path}"
        raise ShelfsortError(f"{path}: column {roles['image']}: expected {expected}, found {image}")
    if (column := roles.get("product")) is not None:
        key = schema.field(column).type
        if not (types.is_integer(key) or _is_text(key)):
            raise ShelfsortError(
                f"{path}: column {column}: expected integers or text, found {key}; "
                "write the ids as integers"
            )


def _is_text(column_type: pyarrow.DataType) -> bool:
    while pyarrow.types.is_dictionary(column_type):
        column_type = column_type.value_type
    return pyarrow.types.is_string(column_type) or pyarrow.types.is_large_string(column_type)


def _is_binary(column_type: pyarrow.DataType) -> bool:
    return pyarrow.types.is_binary(column_type) or pyarrow.types.is_large_binary(column_type)


def _open_csv(
    path: str, config: CatalogConfig, access: SourcesConfig
) -> tuple[pyarrow.Table, dict[str, str]]:
    """A table and its roles. Ids and paths are read as text: numbers would lose leading zeros or
    last digits."""
    names, separator = csv_header(path, access)
    roles = _roles(path, names, config)
    texts = [
        roles[role] for role in ("image", "product", "category", "group", "text") if role in roles
    ]
    return read_csv(path, separator, texts, access), roles


def read_csv(
    path: str, separator: str, texts: Sequence[str], access: SourcesConfig
) -> pyarrow.Table:
    """A CSV, of which the columns `texts` are read as text; what type others have, their values
    say. Raises ArrowException if it is none."""
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(texts, pyarrow.string()), strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    with open_file(path, access=access) as file:
        return pyarrow.csv.read_csv(file, convert_options=options, parse_options=parse)


def csv_header(path: str, access: SourcesConfig) -> tuple[list[str], str]:
    """The names of a CSV's columns, and what separates them. Raises ShelfsortError if it is not
    UTF-8."""
    with open_file(path, access=access) as file:
        line = file.read(2**20).split(b"\n", 1)[0]
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise ShelfsortError(f"{path}: not text in UTF-8 but UTF-16, or no text; save it as UTF-8")
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise ShelfsortError(
            f"{path}: line 1: not text in UTF-8 ({error}); save it as UTF-8"
        ) from error
    separator = max(",;\t", key=lambda mark: len(next(csv.reader([text], delimiter=mark), [])))
    return next(csv.reader([text], delimiter=separator), []), separator


def _roles(path: str, names: Sequence[str], config: CatalogConfig) -> dict[str, str]:
    """The column of each role that the table has. Raises ShelfsortError if one is missing that was
    asked for, or occurs more than once."""
    roles: dict[str, str] = {}
    for role, usual in USUAL.items():
        asked = getattr(config.table, role)
        if asked is not None and asked not in names and role != "category":
            columns = ", ".join(names)
            raise ShelfsortError(f"{path}: expected a column {asked} ({role}), found {columns}")
        column = (
            asked
            if asked in names
            else next((name for name in usual if asked is None and name in names), None)
        )
        if column is not None:
            roles[role] = column
    if config.text is not None and config.text in names:
        roles["text"] = config.text
    if "image" not in roles:
        expected, columns = " or ".join(USUAL["image"]), ", ".join(names)
        raise ShelfsortError(
            f"{path}: expected a column {expected}, found {columns}; name it: --columns image=NAME"
        )
    for name in [*roles.values(), *config.columns]:
        if (count := list(names).count(name)) > 1:
            raise ShelfsortError(
                f"{path}: expected one column {name}, found {count}; remove or rename the others"
            )
    return roles
