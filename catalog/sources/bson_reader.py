"""Products of BSON dumps: plain or gzip files, in sequence or at random through a saved index.

A dump is one or several files of BSON documents `{_id, category_id?, imgs: [{picture}]}`, or with
fields of other names (config.Fields), perhaps with a text. Reading is a chain of small generators.
An error policy says what happens to a document that can't be read: `raise_error`, or any function
that takes a DumpError, such as a list's append. A corrupt document inside a valid length frame
costs that document alone; a bad length ends its file, and what came before is kept.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import UUID

import bson
import xxhash
from bson import ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

from catalog.config import Fields, SourcesConfig
from catalog.errors import DumpError, ShelfsortError
from catalog.files import ACCESS, DAMAGED, is_url, matching, open_file, size_and_stamp
from catalog.image_table import POSITIONS
from catalog.sources.categories import whole_number
from catalog.sources.keys import Key
from catalog.sources.mongo_archive import MAGIC, archived

MIN_DOCUMENT, MAX_DOCUMENT = 5, 256 * 2**20
_PIECE = 2**20
_BUFFER = 2**18
"""The fastest of 8 kB to 4 MB."""
_KEYS = (ObjectId, UUID)
# Fields that nobody uses must never cost a product: odd text and dates out of range are accepted.
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    uuid_representation=UuidRepresentation.STANDARD,
)
DEFAULT = Fields()

OnError = Callable[[DumpError], None]


class DumpFile(NamedTuple):
    """One file of a dump, as it was when the dump was opened. `path` may be a URL; its version then
    takes the place of the time."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path, access: SourcesConfig = ACCESS) -> "DumpFile":
        """Describes the file at `path`."""
        absolute = str(path) if is_url(path) else os.path.abspath(path)
        return cls(absolute, *size_and_stamp(path, access))

    def require_unchanged(self, offset: int, access: SourcesConfig = ACCESS) -> None:
        """Raises DumpError if the file, read to this offset, changed since it was described."""
        if DumpFile.of(self.path, access) != self:
            detail = (
                "the file changed while it was read; run the same command again when it is complete"
            )
            raise DumpError(self.path, offset, "changed", detail, fatal=True)

    def open(self, buffer: int = -1, access: SourcesConfig = ACCESS) -> BinaryIO:
        """Opens the file to read its decompressed bytes, `buffer` at a time; -1 suits random
        access."""
        return open_file(self.path, buffer, access)


class Document(NamedTuple):
    """The bytes of one document: file and offset."""

    source: str
    offset: int
    data: bytes


class Location(NamedTuple):
    """Where a document is: the number of its file, offset and length in bytes, and xxh3_64 of its
    bytes."""

    source: int
    offset: int
    length: int
    digest: int


class Product(NamedTuple):
    """One product. `category` is whatever the document has as its category, None if nothing.
    `images` holds a picture's bytes, or its URL or path; None for an element without a picture."""

    key: Key
    category: object
    images: tuple[bytes | str | None, ...]
    fields: Mapping[str, Any] = {}
    """All fields of the document."""

    def text(self, field: str | None) -> str:
        """A field of the document; empty if it has none, or it isn't a text."""
        value = None if field is None else lookup(self.fields, field)
        return value.strip() if isinstance(value, str) else ""


def lookup(fields: Mapping[str, Any], name: str) -> Any:
    """The field of this name, or a nested one, if the name has dots; None if there is none."""
    if name in fields or "." not in name:
        return fields.get(name)
    value: Any = fields
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def raise_error(error: DumpError) -> None:
    """The error policy that stops at the first fault."""
    raise error


def expand(paths: Iterable[str | Path], access: SourcesConfig = ACCESS) -> list[DumpFile]:
    """The files that paths and patterns name, each once, sorted within a pattern. Raises
    ShelfsortError if one matches nothing."""
    files: dict[str, DumpFile] = {}
    for path in map(str, paths):
        if not (matches := matching(path, access)):
            raise ShelfsortError(f"{path}: no such file, and no file matches it as a pattern")
        for match in matches:
            file = DumpFile.of(match, access)
            files.setdefault(file.path, file)
    if not files:
        raise ShelfsortError("no dump given, expected at least one BSON file")
    return list(files.values())


def documents(
    source: DumpFile,
    on_error: OnError = raise_error,
    collection: str | None = None,
    access: SourcesConfig = ACCESS,
) -> Iterator[Document]:
    """Splits one file into documents by their length prefixes; of an archive of mongodump, takes
    those of a collection. A bad length or a truncation ends the file.

    Raises DumpError, whatever the policy, if the disk or the server failed or the file changed
    while it was read: a retry may find the rest.
    """
    offset, fault = 0, None
    with source.open(_BUFFER, access) as stream:
        frames = _frames(stream, source.path, collection)
        while fault is None:
            try:
                at, data = next(frames, (offset, b""))
            except DumpError as error:
                fault = error
            except ShelfsortError:
                raise
            except DAMAGED as error:
                detail = f"decompression failed at this point: {error}"
                fault = DumpError(source.path, offset, "unreadable", detail, fatal=True)
            except Exception as error:  # fsspec's file systems pass on what their libraries raise
                detail = (
                    f"reading failed at this point: {error or type(error).__name__}; "
                    "run the same command again when the file can be read"
                )
                raise DumpError(source.path, offset, "unreachable", detail, fatal=True) from error
            else:
                if not data:
                    break
                yield Document(source.path, at, data)
                offset = at + len(data)
    source.require_unchanged(offset, access)
    if fault is not None:
        on_error(fault)


def _frames(stream: BinaryIO, path: str, collection: str | None) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each document of a file. Raises DumpError at the first fault, and
    ShelfsortError if the file is of another kind."""
    head, offset = stream.read(4), 0
    if head == MAGIC:
        yield from archived(stream, path, _frame, collection)
        return
    if head.lstrip()[:1] in (b"{", b"[") and head.isascii() and head.count(b"\0") == 0:
        raise ShelfsortError(
            f"{path}: JSON, expected BSON; mongoexport writes JSON, mongodump BSON: "
            "mongodump --collection=NAME"
        )
    while data := _frame(stream, path, offset, head):
        yield offset, data
        offset += len(data)
        head = stream.read(4)


def _frame(stream: BinaryIO, path: str, offset: int, head: bytes) -> bytes:
    """The bytes of the document whose first four are `head`, b"" at the end of the file. Allocates
    no more than the file holds."""
    if len(head) < 4:
        if not head:
            return b""
        detail = f"the file ends in a length prefix, expected 4 bytes, found {len(head)}"
        raise DumpError(path, offset, "truncated", detail, fatal=True)
    length = int.from_bytes(head, "little", signed=True)
    if not MIN_DOCUMENT <= length <= MAX_DOCUMENT:
        detail = f"document length {length}, expected {MIN_DOCUMENT} to {MAX_DOCUMENT}"
        raise DumpError(path, offset, "bad_length", detail, fatal=True)
    data = head + stream.read(length - 4) if length <= _PIECE else _large(stream, head, length)
    if len(data) < length:
        detail = f"the file ends inside a document, expected {length} bytes, found {len(data)}"
        raise DumpError(path, offset, "truncated", detail, fatal=True)
    return data


def _large(stream: BinaryIO, head: bytes, length: int) -> bytes:
    pieces, missing = [head], length - len(head)
    while missing and (piece := stream.read(min(missing, _PIECE))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def parse(document: Document, names: Fields = DEFAULT) -> Product:
    """The product in a document. Raises DumpError, with the offset and what was found, if it isn't
    one."""
    fields = _decoded(document)
    key = _key(lookup(fields, names.id))
    if key is None:
        detail = f"{names.id} is {_show(fields, names.id)}, expected an integer, text, or an id"
        raise _fault(document, "bad_product_id", detail)
    images = lookup(fields, names.images)
    if not isinstance(images, list) or not images:
        shown = _show(fields, names.images)
        detail = f"{names.images} is {shown}, expected a list of at least one image"
        raise _fault(document, "no_images", detail, key)
    if len(images) > POSITIONS:
        detail = f"{names.images} has {len(images)} elements, expected at most {POSITIONS}"
        raise _fault(document, "too_many_images", detail, key)
    pictures = tuple([_picture(image, names) for image in images])
    return Product(key, lookup(fields, names.category), pictures, fields)


def _decoded(document: Document) -> dict[str, Any]:
    try:
        return bson.decode(document.data, _CODEC)
    except (
        bson.errors.BSONError,
        ValueError,
        OverflowError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
    ) as error:
        problem = f"not a BSON document: {error or type(error).__name__}"
        raise _fault(document, "corrupt", problem) from error


def _fault(document: Document, reason: str, detail: str, product_id: Key = -1) -> DumpError:
    return DumpError(document.source, document.offset, reason, detail, product_id=product_id)


def _key(value: object) -> Key | None:
    """A product's key; None if it is none."""
    if isinstance(value, str) and value.strip():
        return value
    return str(value) if isinstance(value, _KEYS) else whole_number(value)


def _picture(image: object, names: Fields) -> bytes | str | None:
    """The bytes of an element's picture, or its URL or path where these are asked for; a subclass
    of bytes, such as other BSON subtypes have, is made plain."""
    picture = image
    if names.picture is not None:
        picture = lookup(image, names.picture) if isinstance(image, dict) else None
    if names.picture_is == "path":
        return picture if isinstance(picture, str) and picture.strip() else None
    if isinstance(picture, UUID):  # bytes that were declared as one
        return picture.bytes
    return bytes(picture) if isinstance(picture, bytes) else None


def _show(fields: dict, name: str) -> str:
    value = lookup(fields, name)
    if value is None and name not in fields:
        return "missing"
    text = "null" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "..."


def products(
    paths: Iterable[str | Path], on_error: OnError = raise_error, names: Fields = DEFAULT
) -> Iterator[Product]:
    """All products of a dump, in sequence."""
    for source in expand(paths):
        for document in documents(source, on_error, names.collection):
            try:
                product = parse(document, names)
            except DumpError as error:
                on_error(error)
                continue
            yield product


class DumpReader:
    """Reads documents at known offsets, in any order. Reading a gzip file forwards takes one pass;
    going back rewinds it.

    Use as a context manager, one reader per process or thread. A copy in another process opens the
    files again.
    """

    def __init__(
        self,
        sources: Sequence[DumpFile],
        names: Fields = DEFAULT,
        access: SourcesConfig = ACCESS,
    ) -> None:
        self.sources, self.names, self.access = sources, names, access
        self._open: dict[int, BinaryIO] = {}

    def __reduce__(self) -> tuple:
        return DumpReader, (self.sources, self.names, self.access)

    def __enter__(self) -> "DumpReader":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._open.values():
            stream.close()
        self._open.clear()

    def product(self, source: int, offset: int, length: int, digest: int) -> Product:
        """The product that the index has at this offset. Raises DumpError if the file no longer
        holds what was indexed."""
        stream = self._open.get(source)
        if stream is None:
            stream = self._open[source] = self.sources[source].open(access=self.access)
        path = self.sources[source].path
        try:
            stream.seek(offset)
            data = stream.read(length)
        except Exception as error:  # as in `documents`
            detail = f"reading failed: {error or type(error).__name__}"
            raise DumpError(path, offset, "unreadable", detail, fatal=True) from error
        if xxhash.xxh3_64_intdigest(data) != digest:
            detail = "not the document that was indexed; the file changed since"
            raise DumpError(path, offset, "changed", detail, fatal=True)
        return parse(Document(path, offset, data), self.names)
