"""Archives of `mongodump --archive`: the documents of several collections, interleaved.

After a magic number stand documents that describe the dump, then blocks: a document that names the
collection, that collection's documents, and a terminator of four bytes 0xff; EOF marks the end of a
collection. (mongodb/mongo-tools, common/archive/archive.go.)
"""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import bson

from catalog.errors import ShelfsortError

MAGIC = (0x8199E26D).to_bytes(4, "little")
_TERMINATOR = b"\xff\xff\xff\xff"

Frame = Callable[[BinaryIO, str, int, bytes], bytes]
"""Reads one document, whose first four bytes have been read; b"" if these are none."""


def archived(
    stream: BinaryIO, path: str, frame: Frame, collection: str | None
) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each document of a collection, whose magic number has been read. Raises
    ShelfsortError if there are several collections and none is named, or not the one named."""
    offset, described = len(MAGIC), []
    while (head := stream.read(4)) != _TERMINATOR:
        data = frame(stream, path, offset, head)
        if not data:
            return
        described.append(bson.decode(data))
        offset += len(data)
    offset += len(_TERMINATOR)
    wanted = _chosen(path, described, collection)
    current: str | None = None
    while head := stream.read(4):
        if head == _TERMINATOR:
            current, offset = None, offset + len(_TERMINATOR)
            continue
        data = frame(stream, path, offset, head)
        if current is None:
            current = bson.decode(data).get("collection", "")
        elif current == wanted:
            yield offset, data
        offset += len(data)


def _chosen(path: str, described: list[dict[str, Any]], collection: str | None) -> str:
    """The collection to read."""
    names = [one["collection"] for one in described if one.get("collection")]
    names = sorted({name for name in names if not name.startswith("system.")})
    if collection in names or (collection is None and len(names) == 1):
        return collection or names[0]
    listed = ", ".join(names) or "none"
    raise ShelfsortError(
        f"{path}: expected {f'collection {collection}' if collection else 'one collection'}, "
        f"found {listed}; name it: --set catalog.fields.collection=NAME"
    )
