"""Faults of dumps, each made for real: what is lost, what is said, and that nothing else is lost
with it."""

import gzip
import os
import random
import struct
import threading
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import bson
import pytest
from bson.int64 import Int64

from catalog.config import Fields
from catalog.errors import DumpError, ShelfsortError
from catalog.image_table import MAX_PRODUCT_ID, POSITIONS
from catalog.sources.bson_reader import (
    Document,
    DumpFile,
    DumpReader,
    documents,
    expand,
    parse,
    products,
)
from catalog.sources.dump_index import build_index
from tests.catalog.served import served
from tests.conftest import document, outside_data, write_bson


def read(path: Path) -> tuple[list[int], list[DumpError]]:
    """The product ids that can be read, and the errors."""
    errors: list[DumpError] = []
    return [p.key for p in products([path], errors.append)], errors


def good(count: int = 3) -> list[bytes]:
    return [bson.encode(document(i, 10 + i, [bytes([i]) * 30, b"second"])) for i in range(count)]


def raw(*elements: bytes) -> bytes:
    """A BSON document of hand-made elements."""
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def test_products_come_in_file_order_with_all_their_images(tmp_path: Path) -> None:
    path = write_bson(
        tmp_path / "a.bson", [document(7, 42, [b"one", b"two"]), document(3, 41, [b"three"])]
    )
    first, second = products([path])
    assert (first.key, first.category, first.images) == (7, 42, (b"one", b"two"))
    assert (second.key, second.category, second.images) == (3, 41, (b"three",))


def test_a_test_dump_has_no_categories(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [{"_id": 1, "imgs": [{"picture": b"x"}]}])
    assert next(products([path])).category is None


def test_gzip_reads_like_plain_also_with_two_members(tmp_path: Path) -> None:
    whole = b"".join(good(6))
    plain, zipped, two = tmp_path / "a.bson", tmp_path / "b.bson.gz", tmp_path / "c.bson.gz"
    plain.write_bytes(whole)
    zipped.write_bytes(gzip.compress(whole))
    two.write_bytes(
        gzip.compress(whole[:100]) + gzip.compress(whole[100:])
    )  # the border is inside a document
    expected = list(products([plain]))
    assert len(expected) == 6
    assert list(products([zipped])) == expected
    assert list(products([two])) == expected


def test_several_files_and_globs_each_file_once(tmp_path: Path) -> None:
    for name, product_id in (("b.bson", 2), ("a.bson", 1), ("c [1].bson", 3)):
        write_bson(tmp_path / name, [document(product_id, 1, [b"x"])])
    paths = [tmp_path / "c [1].bson", tmp_path / "[ab].bson", tmp_path / "a.bson"]
    assert [p.key for p in products(paths)] == [3, 1, 2]
    with pytest.raises(ShelfsortError, match="no such file"):
        expand([tmp_path / "d*.bson"])
    with pytest.raises(ShelfsortError, match="no dump given"):
        expand([])


def test_a_path_with_blanks_unicode_and_a_newline(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "my düm\np 商品.bson", [document(5, 1, [b"x"]), b"\x07"])
    ids, errors = read(path)
    assert ids == [5]
    assert str(path) in str(errors[0])


def test_an_empty_file_has_no_products(tmp_path: Path) -> None:
    for name in ("a.bson", "a.bson.gz"):
        (tmp_path / name).write_bytes(b"")
        assert read(tmp_path / name) == ([], [])


@pytest.mark.parametrize("rest", [1, 2, 3])
def test_a_file_that_ends_in_a_length_prefix_keeps_what_came_before(
    tmp_path: Path, rest: int
) -> None:
    path = write_bson(tmp_path / "a.bson", [*good(), good(1)[0][:rest]])
    ids, [error] = read(path)
    assert ids == [0, 1, 2]
    assert (error.reason, error.fatal, error.offset) == ("truncated", True, sum(map(len, good())))
    assert f"expected 4 bytes, found {rest}" in str(error)


def test_a_file_cut_anywhere_keeps_every_whole_document(tmp_path: Path) -> None:
    whole = b"".join(good())
    ends = [sum(map(len, good()[: i + 1])) for i in range(3)]
    for cut in range(len(whole)):
        (tmp_path / "a.bson").write_bytes(whole[:cut])
        ids, errors = read(tmp_path / "a.bson")
        assert ids == [i for i, end in enumerate(ends) if end <= cut]
        assert [e.reason for e in errors] == ([] if cut in (0, *ends) else ["truncated"])


@pytest.mark.parametrize("length", [0, 4, -1, -(2**31), 2**31 - 1, 256 * 2**20])
def test_a_bad_length_ends_the_file_and_allocates_nothing(tmp_path: Path, length: int) -> None:
    path = write_bson(
        tmp_path / "a.bson", [*good(2), struct.pack("<i", length) + b"rest", *good(2)]
    )
    read(path)  # what is loaded once
    tracemalloc.start()
    ids, [error] = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids == [0, 1]
    assert (error.fatal, error.offset) == (True, sum(map(len, good(2))))
    assert error.reason == ("truncated" if length == 256 * 2**20 else "bad_length")
    assert str(length) in str(error)
    assert peak < 4 * 2**20


def test_a_document_larger_than_a_piece(tmp_path: Path) -> None:
    images = [bytes([i]) * 700_000 for i in range(4)]
    path = write_bson(tmp_path / "a.bson", [document(1, 1, images), document(2, 1, [b"x"])])
    first, second = products([path])
    assert first.images == tuple(images)
    assert second.key == 2


def test_a_corrupt_body_in_a_good_frame_costs_that_document_alone(tmp_path: Path) -> None:
    first, second, third = good()
    path = write_bson(
        tmp_path / "a.bson", [first, second[:4] + b"\xee" * (len(second) - 5) + b"\0", third]
    )
    ids, [error] = read(path)
    assert ids == [0, 2]
    assert (error.reason, error.fatal, error.offset, error.product_id) == (
        "corrupt",
        False,
        len(first),
        -1,
    )


def test_the_policy_decides_whether_reading_goes_on(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(True, 1, [b"x"]), document(8, 1, [b"x"])])
    with pytest.raises(DumpError, match="at byte 0: _id is bool True, expected an integer"):
        list(products([path]))
    assert read(path)[0] == [8]


def nested(depth: int, kind: bytes) -> bytes:
    """Documents (kind 3) or arrays (kind 4) in one another, made without recursion."""
    size = 5 + 8 * depth
    heads = [struct.pack("<i", size - 8 * i) + kind + b"0\0" for i in range(depth)]
    return b"".join(heads) + b"\x05\0\0\0\0" + b"\0" * depth


@pytest.mark.parametrize("kind", [b"\x03", b"\x04"])
def test_nesting_20000_deep_is_an_error_and_no_crash(tmp_path: Path, kind: bytes) -> None:
    assert bson.decode(nested(3, b"\x03")) == {"0": {"0": {"0": {}}}}
    deep = raw(b"\x10_id\0" + struct.pack("<i", 1), kind + b"imgs\0" + nested(20_000, kind))
    path = write_bson(tmp_path / "a.bson", [deep, *good(2)])
    results: list[tuple] = [read(path)]
    thread = threading.Thread(
        target=lambda: results.append(read(path))
    )  # a thread's stack may be smaller
    thread.start()
    thread.join()
    for ids, errors in results:
        assert ids == [0, 1]
        assert [e.reason for e in errors] == ["corrupt"]
    assert len(results) == 2


@pytest.mark.parametrize(
    "fields, reason, found",
    [
        ({"_id": None}, "bad_product_id", "_id is null"),
        ({"_id": 1.5}, "bad_product_id", "float 1.5"),
        ({"_id": 2.0**53}, "bad_product_id", "float 9007199254740992.0"),
        ({"_id": " "}, "bad_product_id", "str ' '"),
        ({"_id": True}, "bad_product_id", "bool True"),
        ({"_id": {"a": "x" * 500}}, "bad_product_id", "..."),
        ({"imgs": None}, "no_images", "imgs is null"),
        ({"imgs": []}, "no_images", "list []"),
        ({"imgs": {"0": {"picture": b"x"}}}, "no_images", "dict"),
        ({"imgs": b"x"}, "no_images", "bytes"),
        ({"imgs": [{}] * (POSITIONS + 1)}, "too_many_images", "16385 elements"),
    ],
)
def test_null_and_wrong_types_are_named(fields: dict, reason: str, found: str) -> None:
    data = bson.encode({"_id": 1, "category_id": 2, "imgs": [{"picture": b"x"}], **fields})
    with pytest.raises(DumpError) as caught:
        parse(Document("a.bson", 77, data))
    error = caught.value
    assert (error.reason, error.offset, error.fatal) == (reason, 77, False)
    assert error.product_id == (-1 if "_id" in fields else 1)
    assert found in error.detail
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    "value, key",
    [
        ("AB-12", "AB-12"),
        (Int64(MAX_PRODUCT_ID + 1), MAX_PRODUCT_ID + 1),
        (Int64(-(2**63)), -(2**63)),
        (7.0, 7),
        (bson.ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
        (
            bson.Binary(bytes(range(16)), 4),
            "00010203-0405-0607-0809-0a0b0c0d0e0f",
        ),
    ],
)
def test_keys_are_integers_text_object_ids_and_uuids(value: object, key: int | str) -> None:
    data = bson.encode({"_id": value, "imgs": [{"picture": b"x"}]})
    product = parse(Document("a.bson", 0, data))
    assert product.key == key and type(product.key) is type(key)


def test_fields_by_other_names_and_nested_ones() -> None:
    fields = {"sku": "a", "meta": {"cat": "Shoes"}, "media": {"photos": [b"x", {"b": b"y"}]}}
    names = Fields(id="sku", category="meta.cat", images="media.photos", picture=None)
    product = parse(Document("a.bson", 0, bson.encode(fields)), names)
    assert product[:3] == ("a", "Shoes", (b"x", None))
    names = names.model_copy(update={"picture": "b"})
    assert parse(Document("a.bson", 0, bson.encode(fields)), names).images == (None, b"y")
    names = names.model_copy(update={"images": "media.imgs"})
    with pytest.raises(DumpError, match=r"media\.imgs is missing"):
        parse(Document("a.bson", 0, bson.encode(fields)), names)


@pytest.mark.parametrize("category", [None, "x", 2.5, False, [1]])
def test_an_odd_category_costs_no_product(category: object) -> None:
    data = bson.encode(document(1, category, [b"x"]))
    assert parse(Document("a.bson", 0, data)).category == category


@pytest.mark.parametrize("field, reason", [("_id", "bad_product_id"), ("imgs", "no_images")])
def test_missing_fields_are_named(field: str, reason: str) -> None:
    fields = document(1, 2, [b"x"])
    del fields[field]
    with pytest.raises(DumpError, match=f"{field} is missing") as caught:
        parse(Document("a.bson", 0, bson.encode(fields)))
    assert caught.value.reason == reason


def test_elements_of_imgs_without_a_picture_keep_their_position() -> None:
    images = [
        {"picture": b"x"},
        {"pic": b"y"},
        {"picture": "text"},
        {"picture": None},
        None,
        5,
        [b"z"],
        {"picture": b""},
    ]
    product = parse(Document("a.bson", 0, bson.encode({"_id": 1, "imgs": images})))
    assert product.images == (b"x", None, None, None, None, None, None, b"")


@pytest.mark.parametrize("count", [10_000, POSITIONS])
def test_many_images(count: int) -> None:
    product = parse(
        Document("a.bson", 0, bson.encode(document(1, 2, [str(i).encode() for i in range(count)])))
    )
    assert product.images == tuple(str(i).encode() for i in range(count))


def test_the_largest_ids() -> None:
    product = parse(
        Document(
            "a.bson", 0, bson.encode(document(Int64(MAX_PRODUCT_ID), Int64(2**63 - 1), [b"x"]))
        )
    )
    assert (product.key, product.category) == (MAX_PRODUCT_ID, 2**63 - 1)
    assert type(product.key) is int


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


# Every type of the BSON specification, by its number, with values at the borders and some that
# MongoDB no longer makes.
ELEMENTS = {
    "double": (1, [struct.pack("<d", x) for x in (0.0, -0.0, float("inf"), float("nan"), 5e-324)]),
    "string": (
        2,
        [
            text(b""),
            text("prix 5 €".encode()),
            text(b"a\0b"),
            text(b"\xff\xfe not UTF-8"),
            text(b"\xed\xa0\x80"),
        ],
    ),
    "document": (
        3,
        [
            raw(),
            raw(b"\x10a\0\x01\0\0\0"),
            raw(b"\x10$x.y\0\x01\0\0\0"),
            raw(b"\x0aa\0", b"\x0aa\0"),
            nested(50, b"\x03"),
        ],
    ),
    "array": (
        4,
        [raw(), raw(b"\x100\0\x01\0\0\0"), raw(b"\x10wrong key\0\x01\0\0\0"), nested(50, b"\x04")],
    ),
    "binary": (
        5,
        [struct.pack("<iB", 3, kind) + b"abc" for kind in (0, 1, 5, 6, 7, 8, 127, 128, 255)],
    ),
    "binary of old kind": (5, [struct.pack("<iBi", 7, 2, 3) + b"abc"]),
    "uuid": (5, [struct.pack("<iB", 16, kind) + bytes(16) for kind in (3, 4)]),
    "undefined": (6, [b""]),
    "object id": (7, [bytes(12), b"\xff" * 12]),
    "boolean": (8, [b"\0", b"\1"]),
    "date": (9, [struct.pack("<q", x) for x in (0, -(2**63), 2**63 - 1, 253402300800000)]),
    "null": (10, [b""]),
    "expression": (11, [b"a.*b\0\0", b"(\0imsx\0", b"\0lu\0"]),
    "pointer": (12, [text(b"collection") + bytes(12)]),
    "code": (13, [text(b"function() {}")]),
    "symbol": (14, [text(b"symbol")]),
    "code with scope": (15, [struct.pack("<i", 4 + 6 + 5) + text(b"f") + raw()]),
    "int32": (16, [struct.pack("<i", x) for x in (-(2**31), 2**31 - 1)]),
    "timestamp": (17, [struct.pack("<II", 2**32 - 1, 2**32 - 1)]),
    "int64": (18, [struct.pack("<q", x) for x in (-(2**63), 2**63 - 1)]),
    "decimal": (19, [bytes(16), b"\xff" * 16, b"\0" * 15 + b"\x7c", b"\0" * 15 + b"\x78"]),
    "minkey": (255, [b""]),
    "maxkey": (127, [b""]),
    "reference": (
        3,
        [
            raw(b"\x02$ref\0" + text(b"c"), b"\x07$id\0" + bytes(12)),
            raw(b"\x02$ref\0" + text(b"c")),
        ],
    ),
}


@pytest.mark.parametrize("name", ELEMENTS)
def test_unknown_fields_of_any_type_cost_nothing(name: str) -> None:
    kind, values = ELEMENTS[name]
    product_id, images = (
        bson.encode({"_id": 1})[4:-1],
        bson.encode({"imgs": [{"picture": b"x"}]})[4:-1],
    )
    for value in values:
        extra = bytes([kind]) + b"extra\0" + value
        for elements in (
            [extra, product_id, images],
            [product_id, extra, images],
            [product_id, images, extra],
        ):
            product = parse(Document("a.bson", 0, raw(*elements)))
            assert (product.key, product.images) == (1, (b"x",)), value


def test_a_picture_of_any_binary_kind_is_read() -> None:
    for kind in (0, 3, 4, 5, 128):
        data = bson.encode(
            {"_id": 1, "imgs": [{"picture": bson.Binary(b"0123456789abcdef", kind)}]}
        )
        assert parse(Document("a.bson", 0, data)).images == (b"0123456789abcdef",)


# Bodies that no decoder should accept, each inside a frame of the right length.
CORRUPT = {
    "unknown type": raw(b"\x20a\0" + bytes(8)),
    "no name": raw(b"\x10aaaa"),
    "text longer than the document": raw(b"\x02a\0" + struct.pack("<i", 500) + b"b\0"),
    "text of length 0": raw(b"\x02a\0" + struct.pack("<i", 0) + b"b\0"),
    "text of negative length": raw(b"\x02a\0" + struct.pack("<i", -1) + b"b\0"),
    "text without an end": raw(b"\x02a\0" + struct.pack("<i", 2) + b"bb"),
    "binary longer than the document": raw(b"\x05a\0" + struct.pack("<iB", 2**31 - 1, 0) + b"b"),
    "binary of negative length": raw(b"\x05a\0" + struct.pack("<iB", -1, 0) + b"b"),
    "document longer than its parent": raw(b"\x03a\0" + struct.pack("<i", 100) + b"\0"),
    "document shorter than it says": raw(b"\x03a\0" + struct.pack("<i", 4) + b"\0"),
    "array without an end": raw(b"\x04a\0" + struct.pack("<i", 5) + b"\x01"),
    "half a double": raw(b"\x01a\0" + bytes(4)),
    "half an object id": raw(b"\x07a\0" + bytes(5)),
    "code with a scope of wrong length": raw(
        b"\x0fa\0" + struct.pack("<i", 1) + text(b"f") + raw()
    ),
    "no end": raw()[:-1] + b"\x01",
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_bodies_are_rejected_alone(tmp_path: Path, name: str) -> None:
    path = write_bson(tmp_path / "a.bson", [CORRUPT[name], *good(1)])
    ids, errors = read(path)
    assert ids == [0]
    assert [(e.reason, e.fatal, e.offset) for e in errors] == [("corrupt", False, 0)]


def test_20000_mutated_documents_are_products_or_named_errors() -> None:
    base = bytearray(
        bson.encode(
            {
                "_id": 5,
                "category_id": 7,
                "imgs": [{"picture": b"abc" * 5}, {"picture": b"def"}],
                "price": 5.5,
                "name": "tëxt",
                "when": datetime(2020, 1, 1, tzinfo=UTC),
                "ref": bson.DBRef("c", 5, "d"),
                "code": bson.Code("f", {"x": 1}),
                "expression": bson.Regex("a.*", "ims"),
                "amount": bson.Decimal128("1.5"),
            }
        )
    )
    rng, seen = random.Random(3), set()
    for _ in range(20_000):
        data = bytearray(base)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(4, len(data))] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        try:
            parse(Document("a.bson", 0, bytes(data)))
            seen.add("product")
        except DumpError as error:
            seen.add(error.reason)
    assert seen >= {"product", "corrupt", "bad_product_id", "no_images"}


def test_a_gzip_cut_short_keeps_what_can_be_unpacked(tmp_path: Path) -> None:
    noise = random.Random(1)
    whole = [bson.encode(document(i, 1, [noise.randbytes(5000)])) for i in range(200)]
    zipped = gzip.compress(b"".join(whole))
    path = tmp_path / "a.bson.gz"
    path.write_bytes(zipped[: len(zipped) // 2])
    ids, [error] = read(path)
    assert ids == list(range(len(ids)))
    assert 90 <= len(ids) <= 100
    assert (error.reason, error.fatal) == ("unreadable", True)
    assert error.offset == sum(map(len, whole[: len(ids)]))


def test_a_gzip_with_a_flipped_byte_or_garbage_behind_it_is_noticed(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(good(4)), mtime=0)
    path = tmp_path / "a.bson.gz"
    path.write_bytes(whole + b"garbage")
    assert read(path)[0] == [0, 1, 2, 3]
    assert [e.reason for e in read(path)[1]] == ["unreadable"]
    for place in (0, 2, len(whole) // 2, len(whole) - 6):  # header, method, data, checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        errors = read(path)[1]
        assert errors and errors[-1].fatal, place


@pytest.mark.parametrize("end", ["grown", "cut", "rewritten", "touched"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, end: str) -> None:
    path = write_bson(tmp_path / "a.bson", [document(i, 1, [bytes(100_000)]) for i in range(10)])
    errors: list[DumpError] = []
    found = []

    def meddle() -> None:
        size, time = path.stat().st_size, path.stat().st_mtime_ns
        if end == "grown":
            with open(path, "ab") as file:
                file.write(bson.encode(document(10, 1, [b"x"])))
        elif end == "cut":
            with open(path, "rb+") as file:
                file.truncate(size - 150_000)
        elif end == "rewritten":
            path.write_bytes(b"\0" * size)
        os.utime(path, ns=(time, time + 10**9))

    def read() -> None:
        for product in products([path], errors.append):
            found.append(product.key)
            if len(found) == 3:
                meddle()

    with pytest.raises(DumpError, match=r"a\.bson: .*the file changed while it was read") as caught:
        read()
    assert not errors and caught.value.reason == "changed"
    assert found == list(range(len(found))) and len(found) >= 3


def test_the_reader_goes_anywhere_and_notices_another_document(tmp_path: Path) -> None:
    plain = write_bson(tmp_path / "a.bson", good(5))
    zipped = tmp_path / "b.bson.gz"
    zipped.write_bytes(
        gzip.compress(b"".join(bson.encode(document(10 + i, 1, [b"%d" % i])) for i in range(5)))
    )
    index = build_index([plain, zipped])
    with DumpReader(index.sources) as reader:
        for row in (9, 0, 5, 4, 7, 2, 2):
            assert reader.product(*index.location(row)).key == index.product_id[row]
    changed = bytearray(plain.read_bytes())
    changed[40] ^= 1
    plain.write_bytes(changed)
    with DumpReader(index.sources) as reader:
        with pytest.raises(DumpError, match="not the document that was indexed") as caught:
            reader.product(*index.location(0))
        assert reader.product(*index.location(1)).key == 1
    assert (caught.value.reason, caught.value.fatal) == ("changed", True)


def test_a_dump_that_vanished_is_one_sentence(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", good(1))
    source = DumpFile.of(path)
    path.unlink()
    with pytest.raises(ShelfsortError, match=r"a\.bson: can't be read"):
        list(documents(source))
    with (
        DumpReader([source]) as reader,
        pytest.raises(ShelfsortError, match=r"a\.bson: can't be read"),
    ):
        reader.product(0, 0, 10, 0)
    with pytest.raises(ShelfsortError, match="can't be read: Is a directory"):
        list(products([tmp_path]))


def test_cdiscounts_own_sample() -> None:
    path = outside_data("cdiscount") / "train_example.bson"
    found = list(products([path]))
    assert len(found) == 82
    assert sum(len(p.images) for p in found) == 110
    assert len({p.category for p in found}) == 36
    assert {len(p.images) for p in found} == {1, 2, 3, 4}


def test_a_server_that_fails_on_the_way_is_an_error_whatever_the_policy(tmp_path: Path) -> None:
    """The rest of the dump must not become one reject, since it will be there again."""
    (tmp_path / "a.bson").write_bytes(bson.encode(document(1, 1, [b"0" * 50_000])) * 300)
    faults, rejects = {}, []
    with served(tmp_path, faults) as url:
        reading = documents(DumpFile.of(f"{url}/a.bson"), on_error=rejects.append)
        next(reading)
        faults["/a.bson"] = 503
        with pytest.raises(
            DumpError, match=r"a\.bson: at byte \d+: reading failed at this point: 503"
        ) as found:
            list(reading)
    assert (found.value.reason, found.value.fatal, rejects) == ("unreachable", True, [])
