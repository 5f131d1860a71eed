"""What mongodump writes: an archive of interleaved collections, a folder of files."""

import gzip
from pathlib import Path

import bson
import pytest

from catalog.config import CatalogConfig, Fields
from catalog.errors import ShelfsortError
from catalog.sources.mongo_archive import MAGIC
from catalog.sources.source import ProductSource, open_source
from tests.conftest import document, jpeg, write_bson

END = b"\xff\xff\xff\xff"


def block(collection: str, *documents: dict, eof: bool = False) -> bytes:
    header = {"db": "shop", "collection": collection, "EOF": eof, "CRC": bson.Int64(0)}
    return bson.encode(header) + b"".join(map(bson.encode, documents)) + END


def archive(*collections: str) -> bytes:
    """Products 0 to 5 of a collection `products`, between blocks of the others."""
    prelude = [{"concurrent_collections": 4, "version": "0.1", "server_version": "7.0"}]
    prelude += [{"db": "shop", "collection": c, "metadata": "{}", "size": 1} for c in collections]
    products = [document(i, 7, [jpeg(i)]) for i in range(6)]
    return (
        MAGIC
        + b"".join(map(bson.encode, prelude))
        + END
        + block("products", *products[:2])
        + block("users", {"_id": 1, "name": "x"})
        + block("products", *products[2:])
        + block("users", eof=True)
        + block("products", eof=True)
    )


def opened(path: Path, collection: str | None = None) -> ProductSource:
    config = CatalogConfig(fields=Fields(collection=collection))
    return open_source([path], path.parent / "dumps", config)


@pytest.mark.parametrize("name", ["a.archive", "a.archive.gz", "A.ARCHIVE.GZ"])
def test_an_archive_gives_the_products_of_its_collection(tmp_path: Path, name: str) -> None:
    data = archive("products", "users")
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if "gz" in name.lower() else data)
    for _ in range(2):  # scanned, then by the saved index
        source = opened(path, "products")
        assert list(source.keys) == list(range(6)) and not source.rejects
        assert [source.read(row) for row in (5, 0, 2)] == [[jpeg(5)], [jpeg(0)], [jpeg(2)]]
    with pytest.raises(ShelfsortError, match="expected one collection, found products, users; na"):
        opened(path)
    with pytest.raises(ShelfsortError, match="expected collection shoes, found products, users"):
        opened(path, "shoes")


def test_an_archive_of_one_collection_needs_no_name_and_may_be_cut(tmp_path: Path) -> None:
    path, data = tmp_path / "a", archive("products")
    path.write_bytes(data)
    assert len(opened(path)) == 6
    path.write_bytes(data[: data.index(jpeg(3)) + 50])
    source = opened(path)
    assert list(source.keys) == [0, 1, 2] and [r.reason for r in source.rejects] == ["truncated"]


def test_a_folder_that_mongodump_wrote(tmp_path: Path) -> None:
    (tmp_path / "dump" / "shop").mkdir(parents=True)
    for name, keys in (("products", (1, 2)), ("users", (3,))):
        write_bson(tmp_path / "dump" / "shop" / f"{name}.bson", [document(k, 1) for k in keys])
        (tmp_path / "dump" / "shop" / f"{name}.metadata.json").write_text("{}")
    assert list(opened(tmp_path / "dump", "products").keys) == [1, 2]
    with pytest.raises(ShelfsortError, match="expected one collection, found products, users"):
        opened(tmp_path / "dump")
    (tmp_path / "dump" / "shop" / "users.bson").unlink()
    assert list(opened(tmp_path / "dump").keys) == [1, 2]


@pytest.mark.parametrize("text", ['{"_id": {"$oid": "0"}}', '[{"_id": 1}]'])
def test_an_export_in_json_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.bson").write_text(text)
    with pytest.raises(ShelfsortError, match=r"a\.bson: JSON, expected BSON; .*mongodump"):
        opened(tmp_path / "a.bson")
