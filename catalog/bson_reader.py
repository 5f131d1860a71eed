"""Products of Cdiscount-style BSON dumps: plain or gzip files, in sequence or at random through a saved index.

A dump is one or several files of BSON documents `{_id, category_id?, imgs: [{picture}]}`. Reading is a chain of small
generators; what happens to a document that can't be read is decided by the policy passed in: `raise_error`, or any
function that takes a DumpError (a list's append quarantines). A corrupt document inside a good length frame costs that
document alone; a bad length ends its file, and what came before is kept.
"""

import glob
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import bson
import xxhash
from bson.codec_options import CodecOptions, DatetimeConversion

from catalog.errors import DumpError, ShelfsortError

MIN_DOCUMENT, MAX_DOCUMENT = 5, 256 * 2**20
MAX_POSITIONS = 2**14
MAX_PRODUCT_ID = 2**49 - 1
_PIECE = 2**20
# Fields we don't use must never cost a product: odd text and dates out of range are let through.
_CODEC = CodecOptions(unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_MS)

OnError = Callable[[DumpError], None]


class Source(NamedTuple):
    """One file of a dump, as it was when the dump was opened."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> "Source":
        """Describes the file at `path`."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise ShelfsortError(f"{path}: can't be read: {error.strerror}") from error
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)

    def open(self) -> BinaryIO:
        """Opens the file for reading, decompressed."""
        return gzip.open(self.path, "rb") if self.path.endswith(".gz") else open(self.path, "rb")  # noqa: SIM115


class Document(NamedTuple):
    """The bytes of one document and where they stand."""

    source: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Product:
    """One product. `images` holds None where an element of `imgs` has no picture; `category_id` is -1 in a test dump."""

    product_id: int
    category_id: int
    images: tuple[bytes | None, ...]


def raise_error(error: DumpError) -> None:
    """The policy that stops at the first fault."""
    raise error


def expand(paths: Iterable[str | Path]) -> list[Source]:
    """The files behind paths and globs, each once, sorted within a glob. Raises where a path or glob matches nothing."""
    found: dict[str, Source] = {}
    for path in map(str, paths):
        matches = [path] if os.path.exists(path) else sorted(glob.glob(path))
        if not matches:
            raise ShelfsortError(f"{path}: no such file, and no file matches it as a pattern")
        for match in matches:
            source = Source.of(match)
            found.setdefault(source.path, source)
    if not found:
        raise ShelfsortError("no dump given, expected at least one BSON file")
    return list(found.values())


def documents(source: Source, on_error: OnError = raise_error) -> Iterator[Document]:
    """Cuts one file into documents by their length prefixes. A bad length or a cut ends the file, fatally for the rest."""
    offset = 0
    with source.open() as stream:
        while True:
            try:
                data = _frame(stream, source, offset)
            except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
                data = DumpError(source.path, offset, "unreadable", f"the file can't be read on: {error}", fatal=True)
            if isinstance(data, DumpError):
                on_error(data)
                return
            if not data:
                break
            yield Document(source.path, offset, data)
            offset += len(data)
    if Source.of(source.path) != source:
        on_error(DumpError(source.path, offset, "changed", "the file changed while it was read", fatal=True))


def _frame(stream: BinaryIO, source: Source, offset: int) -> bytes | DumpError:
    """The next document's bytes, b"" at the end of the file. Allocates no more than the file really holds."""
    head = stream.read(4)
    if not head:
        return b""
    if len(head) < 4:
        detail = f"the file ends in a length prefix, expected 4 bytes, found {len(head)}"
        return DumpError(source.path, offset, "truncated", detail, fatal=True)
    length = int.from_bytes(head, "little", signed=True)
    if not MIN_DOCUMENT <= length <= MAX_DOCUMENT:
        detail = f"document length {length}, expected {MIN_DOCUMENT} to {MAX_DOCUMENT}"
        return DumpError(source.path, offset, "bad_length", detail, fatal=True)
    data = head + stream.read(length - 4) if length <= _PIECE else _large(stream, head, length)
    if len(data) < length:
        detail = f"the file ends inside a document, expected {length} bytes, found {len(data)}"
        return DumpError(source.path, offset, "truncated", detail, fatal=True)
    return data


def _large(stream: BinaryIO, head: bytes, length: int) -> bytes:
    pieces, missing = [head], length - len(head)
    while missing and (piece := stream.read(min(missing, _PIECE))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def parse(document: Document) -> Product:
    """The product in a document. Raises DumpError, with the offset and what was found, where it isn't one."""
    fault = _Fault(document)
    try:
        fields = bson.decode(document.data, _CODEC)
    except (bson.errors.BSONError, ValueError, OverflowError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise fault("corrupt", f"not a BSON document: {error or type(error).__name__}") from error
    product_id = fields.get("_id")
    if not _is_int(product_id) or not 0 <= product_id <= MAX_PRODUCT_ID:
        raise fault("bad_product_id", f"_id is {_show(product_id)}, expected an integer from 0 to {MAX_PRODUCT_ID}")
    fault.product_id = product_id
    category_id = fields.get("category_id", -1)
    if not _is_int(category_id) or (category_id < 0 and "category_id" in fields):
        raise fault("bad_category_id", f"category_id is {_show(category_id)}, expected a non-negative integer")
    images = fields.get("imgs")
    if not isinstance(images, list) or not images:
        raise fault("no_images", f"imgs is {_show(images)}, expected a list of at least one image")
    if len(images) > MAX_POSITIONS:
        raise fault("too_many_images", f"imgs has {len(images)} elements, expected at most {MAX_POSITIONS}")
    return Product(int(product_id), int(category_id), tuple(_picture(image) for image in images))


class _Fault:
    """Makes the errors of one document, with its place and, once known, its product."""

    def __init__(self, document: Document) -> None:
        self.document, self.product_id = document, -1

    def __call__(self, reason: str, detail: str) -> DumpError:
        return DumpError(self.document.source, self.document.offset, reason, detail, product_id=self.product_id)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _picture(image: object) -> bytes | None:
    picture = image.get("picture") if isinstance(image, dict) else None
    return picture if isinstance(picture, bytes) else None


def _show(value: object) -> str:
    text = "missing" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "..."


def products(paths: Iterable[str | Path], on_error: OnError = raise_error) -> Iterator[Product]:
    """All products of a dump, in sequence."""
    for source in expand(paths):
        for document in documents(source, on_error):
            try:
                product = parse(document)
            except DumpError as error:
                on_error(error)
                continue
            yield product


class DumpReader:
    """Reads documents of known place, in any order. A gzip file read forwards costs one pass; going back rewinds it.

    Use as a context manager; one reader per process or thread.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._open: dict[int, BinaryIO] = {}

    def __enter__(self) -> "DumpReader":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._open.values():
            stream.close()
        self._open.clear()

    def product(self, source: int, offset: int, length: int, digest: int) -> Product:
        """The product at a place of the index. Raises DumpError where the file no longer holds what was indexed."""
        stream = self._open.get(source)
        if stream is None:
            stream = self._open[source] = self.sources[source].open()
        path = self.sources[source].path
        try:
            stream.seek(offset)
            data = stream.read(length)
        except (EOFError, zlib.error, OSError) as error:
            raise DumpError(path, offset, "unreadable", f"the file can't be read: {error}", fatal=True) from error
        if xxhash.xxh3_64_intdigest(data) != digest:
            detail = "the document is not the one that was indexed; the file changed since"
            raise DumpError(path, offset, "changed", detail, fatal=True)
        return parse(Document(path, offset, data))

