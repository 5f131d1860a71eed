"""The index: every product's place, found in one scan, saved, and never trusted when it is stale or
damaged."""

import gzip
import json
import logging
import os
import tracemalloc
from pathlib import Path

import bson
import numpy as np
import pytest

from catalog.config import Fields
from catalog.errors import ArtifactError, DumpError, ShelfsortError
from catalog.sources.bson_reader import DumpReader, parse, products
from catalog.sources.dump_index import DumpIndex, Reject, build_index, open_index, partition
from tests.conftest import SmallDump, document, write_bson


def test_one_scan_finds_every_product(small_dump: SmallDump) -> None:
    index = build_index([small_dump.path])
    expected = list(products([small_dump.path]))
    assert len(index) == len(expected) == 120
    assert index.product_id.tolist() == [p.key for p in expected]
    assert index.category_id.tolist() == [p.category for p in expected]
    assert index.n_images.tolist() == [len(p.images) for p in expected]
    assert index.rejects == ()
    assert int(index.offset[-1] + index.length[-1]) == small_dump.path.stat().st_size
    with DumpReader(index.sources) as reader:
        assert [reader.product(*index.location(row)) for row in range(120)] == expected


def test_rejects_have_place_and_reason_and_offsets_of_zipped_files_are_unpacked(
    tmp_path: Path,
) -> None:
    bad = bson.encode({"_id": 2, "category_id": 7})
    whole = [
        bson.encode(document(1, 1, [b"a"])),
        bad,
        bson.encode({"_id": 3, "imgs": [{"picture": b"b"}]}),
        b"\x01\0",
    ]
    plain = write_bson(tmp_path / "a.bson", whole)
    zipped = tmp_path / "b.bson.gz"
    zipped.write_bytes(gzip.compress(b"".join(whole)))
    index = build_index([plain, zipped])
    assert index.product_id.tolist() == [1, 3] * 2
    assert index.category_id.tolist() == [1, -1] * 2
    assert index.source.tolist() == [0, 0, 1, 1]
    starts = [0, len(whole[0]), len(whole[0]) + len(bad), sum(map(len, whole[:3]))]
    assert index.offset.tolist() == [starts[0], starts[2]] * 2
    assert [(r.source, r.offset, r.position, r.product_id, r.reason) for r in index.rejects] == [
        (str(path), offset, -1, product_id, reason)
        for path in (plain, zipped)
        for offset, product_id, reason in (
            (starts[1], 2, "no_images"),
            (starts[3], -1, "truncated"),
        )
    ]


def test_a_policy_takes_the_place_of_the_rejects(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(1, 5, []), document(2, 5, [b"a"])])
    seen: list[DumpError] = []
    assert build_index([path], seen.append).product_id.tolist() == [2]
    assert [e.reason for e in seen] == ["no_images"]


def test_rejects_do_not_keep_their_documents(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(True, 1, [bytes(20_000)]) for i in range(300)])
    tracemalloc.start()
    index = build_index([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index.rejects) == 300
    assert peak < 3 * 2**20  # of 6 MB of documents


def test_a_dump_without_products(tmp_path: Path) -> None:
    index = build_index([write_bson(tmp_path / "a.bson", [])])
    assert (len(index), partition(index.length, 1000)) == (0, [])
    index.save(tmp_path / "a.npz")
    assert len(DumpIndex.load(tmp_path / "a.npz")) == 0


@pytest.mark.parametrize("bytes_each", [1, 700, 5_000, 40_000, 10**9])
def test_partitions_cover_every_row_once(small_dump: SmallDump, bytes_each: int) -> None:
    index = build_index([small_dump.path])
    parts = partition(index.length, bytes_each)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(120))
    sizes = [int(index.length[start:stop].sum()) for start, stop in parts]
    assert max(sizes) <= bytes_each + int(index.length.max())
    assert len(parts) == 1 or min(sizes[:-1]) > bytes_each - int(index.length.max())


def test_the_fingerprint_is_of_the_content_not_of_the_path(tmp_path: Path) -> None:
    documents = [document(i, 1, [b"a%d" % i]) for i in range(3)]
    (tmp_path / "b").mkdir()
    one = build_index([write_bson(tmp_path / "a.bson", documents)]).fingerprint
    other = write_bson(tmp_path / "b" / "c.bson", documents)
    os.utime(other, (1, 1))
    assert build_index([other]).fingerprint == one
    documents[1]["imgs"][0]["picture"] = b"b1"
    assert build_index([write_bson(tmp_path / "a.bson", documents)]).fingerprint != one
    assert build_index([write_bson(tmp_path / "a.bson", [*documents, b"\0"])]).fingerprint != one


def test_a_saved_index_is_used_while_the_dump_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bson(tmp_path / "a.bson", [document(1, 1, [b"a"]), b"\x01"])
    scanned = []
    monkeypatch.setattr(
        "catalog.sources.dump_index.parse",
        lambda d, names: (scanned.append(d.offset), parse(d, names))[1],
    )
    first = open_index([path], tmp_path / "dumps")
    again = open_index([path], tmp_path / "dumps")
    assert len(scanned) == 1
    assert again.fingerprint == first.fingerprint
    assert again.rejects == first.rejects
    assert again.sources == first.sources
    assert [f.name for f in (tmp_path / "dumps").iterdir()] == [f"a.bson-{_hash(tmp_path)}.npz"]
    write_bson(path, [document(1, 1, [b"a"]), document(2, 1, [b"b"])])
    assert open_index([path], tmp_path / "dumps").product_id.tolist() == [1, 2]
    os.utime(path, ns=(5, 5))
    open_index([path], tmp_path / "dumps")
    assert len(scanned) == 5


def _hash(folder: Path) -> str:
    [file] = (folder / "dumps").iterdir()
    return file.stem[-16:]


def test_the_saved_file_is_as_documented(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(1, 7, [b"a", b"b"]), document(2, 7, [])])
    open_index([path], tmp_path / "dumps")
    with np.load(next((tmp_path / "dumps").iterdir())) as file:
        header = json.loads(file["header"].tobytes())
        arrays = {
            name: (file[name].dtype.name, file[name].tolist())
            for name in file.files
            if name != "header"
        }
    digest, length = arrays.pop("digest"), arrays.pop("length")
    assert (digest[0], length[0]) == ("uint64", "int32")
    assert arrays == {
        "product_id": ("int64", [1]),
        "category_id": ("int64", [7]),
        "n_images": ("int32", [2]),
        "source": ("int16", [0]),
        "offset": ("int64", [0]),
    }
    assert header["schema"] == 2
    assert header["sources"] == [[str(path), path.stat().st_size, path.stat().st_mtime_ns]]
    assert Reject(**header["rejects"][0]).reason == "no_images"


@pytest.mark.parametrize(
    "keys, kind",
    [(["b", "a"], "text"), ([2**60, -3], "int"), ([7, "a"], "text"), ([7, 8], "int")],
)
def test_an_index_keeps_keys_that_are_no_small_numbers(
    tmp_path: Path, keys: list, kind: str
) -> None:
    path = write_bson(tmp_path / "a.bson", [document(key, 1, [b"x"]) for key in keys])
    expected = keys if kind == "int" else list(map(str, keys))
    for _ in range(2):  # scanned, then loaded
        index = open_index([path], tmp_path / "dumps")
        assert list(index.keys) == expected and index.key_type == kind
        assert len(set(index.product_id.tolist())) == 2 and (index.product_id >= 0).all()
        assert index[1:].keys[0] == expected[1]


@pytest.mark.parametrize(
    "categories, ids, names",
    [
        (["Shoes > Boots", None, "Hats"], [0, -1, 1], ("Shoes > Boots", "Hats")),
        ([7, "Hats", "8"], [7, -2, 8], None),
        ([7.0, 7.5, True], [7, -2, -2], None),
        (["12", "13", None], [12, 13, -1], None),
        ([-4, 3, [3]], [-2, 3, -2], None),
    ],
)
def test_categories_are_ids_or_names(
    tmp_path: Path, categories: list, ids: list[int], names: tuple | None
) -> None:
    documents = [document(i, category, [b"x"]) for i, category in enumerate(categories)]
    write_bson(tmp_path / "a.bson", documents)
    for _ in range(2):
        index = open_index([tmp_path / "a.bson"], tmp_path / "dumps")
        assert (index.category_id.tolist(), index.category_names) == (ids, names)


def test_other_names_of_fields_are_another_index(tmp_path: Path) -> None:
    write_bson(tmp_path / "a.bson", [document(1, 5, [b"x"], sku="a")])
    default, other = (
        open_index([tmp_path / "a.bson"], tmp_path / "dumps", names)
        for names in (Fields(), Fields(id="sku"))
    )
    assert list(default.keys) == [1] and list(other.keys) == ["a"]
    assert default.fingerprint != other.fingerprint


def test_a_damaged_index_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_bson(tmp_path / "a.bson", [document(i, 1, [b"a%d" % i]) for i in range(5)])
    expected = open_index([path], tmp_path / "dumps").fingerprint
    [saved] = (tmp_path / "dumps").iterdir()
    whole = saved.read_bytes()
    damaged = [
        b"",
        b"garbage",
        bytes(len(whole)),
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-10],
        whole[:-1],
    ]
    for data in damaged:
        caplog.clear()
        saved.write_bytes(data)
        with pytest.raises(ArtifactError, match="not readable as an npz"):
            DumpIndex.load(saved)
        with caplog.at_level(logging.WARNING):
            assert open_index([path], tmp_path / "dumps").fingerprint == expected
        assert "scanned again" in caplog.text
        assert saved.read_bytes() == whole


def test_any_flipped_bit_of_an_index_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(i, 1, [b"a%d" % i]) for i in range(2)])
    index = open_index([path], tmp_path / "dumps")
    [saved] = (tmp_path / "dumps").iterdir()
    whole, noticed = saved.read_bytes(), 0
    for place in range(0, len(whole), 5):
        saved.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        try:
            assert DumpIndex.load(saved).fingerprint == index.fingerprint
        except ArtifactError:
            noticed += 1
    assert noticed > len(whole) / 10


def test_an_index_of_another_schema_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bson(tmp_path / "a.bson", [document(1, 1, [b"a"])])
    monkeypatch.setattr("catalog.sources.dump_index.SCHEMA", 99)
    open_index([path], tmp_path / "dumps")
    monkeypatch.undo()
    [saved] = (tmp_path / "dumps").iterdir()
    with pytest.raises(ArtifactError, match="schema 99, expected 2"):
        DumpIndex.load(saved)
    open_index([path], tmp_path / "dumps")
    assert len(DumpIndex.load(saved)) == 1


def test_a_dump_whose_name_is_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = write_bson(tmp_path / ("é" * 125 + ".bson"), [document(1, 1, [b"a"])])
    assert len(open_index([path], tmp_path / "dumps")) == 1


def test_an_index_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    path = write_bson(tmp_path / "a.bson", [document(1, 1, [b"a"])])
    with pytest.raises(ShelfsortError, match=r"a\.bson-.*: can't be written"):
        open_index([path], path / "dumps")
