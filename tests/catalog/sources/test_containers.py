"""Photos inside of other files."""

import pickle
import zlib
from pathlib import Path

import pandas
import pytest

from catalog.errors import ImageError
from catalog.files import Span
from catalog.sources.containers import Containers, picture
from tests.conftest import jpeg


def reason(found: object) -> str:
    assert isinstance(found, ImageError)
    return found.reason


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def test_spans_are_read_in_any_order_and_in_another_process(tmp_path: Path) -> None:
    packed = deflated(jpeg(2))
    (tmp_path / "a").write_bytes(b"head" + jpeg(1) + packed)
    first = Span("stored", 4, len(jpeg(1)))
    second = Span("deflated", 4 + len(jpeg(1)), len(packed))
    containers = Containers()
    for reader in (containers, pickle.loads(pickle.dumps(containers))):
        for span, photo in ((second, jpeg(2)), (first, jpeg(1)), (second, jpeg(2))):
            assert reader.read(str(tmp_path / "a"), span) == photo


def test_spans_that_the_file_no_longer_has(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 30)
    containers, path = Containers(), str(tmp_path / "a")
    assert reason(containers.read(path, Span("stored", 20, 11))) == "unreadable_file"
    assert reason(containers.read(path, Span("deflated", 0, 30))) == "unreadable_file"
    assert reason(containers.read(f"{path}.none", Span("stored", 0, 1))) == "unreachable"


def test_cells_of_a_table_in_row_groups(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(jpeg(9))
    cells = [{"bytes": jpeg(i), "path": None} for i in range(7)]
    cells += [{"bytes": None, "path": "beside.jpg"}, {"bytes": None, "path": None}, None]
    table = str(tmp_path / "t.parquet")
    pandas.DataFrame({"image": cells}).to_parquet(table, row_group_size=3)
    containers = Containers()
    for row in (0, 4, 2, 6):
        assert containers.read(table, Span("cell", row, 0, "image")) == jpeg(row)
    assert containers.read(table, Span("cell", 7, 0, "image")) == jpeg(9)
    for row in (8, 9):
        assert reason(containers.read(table, Span("cell", row, 0, "image"))) == "no_picture"


def test_a_table_that_is_damaged_or_gone(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    pandas.DataFrame({"image": [jpeg(i) for i in range(4)]}).to_parquet(table, compression=None)
    whole = table.read_bytes()
    table.write_bytes(whole[:50])
    assert reason(Containers().read(str(table), Span("cell", 0, 0, "image"))) == "unreachable"
    table.unlink()
    assert reason(Containers().read(str(table), Span("cell", 0, 0, "image"))) == "unreachable"


@pytest.mark.parametrize(
    ("cell", "position", "expected"),
    [
        (b"x", 0, b"x"),
        ("a.jpg", 0, "a.jpg"),
        ({"bytes": b"x", "path": "a.jpg"}, 0, b"x"),
        ({"bytes": None, "path": "a.jpg"}, 0, "a.jpg"),
        ([b"x", {"bytes": b"y"}], 1, b"y"),
        ([b"x"], 1, None),
        ([], 0, None),
        (None, 0, None),
        (b"", 0, None),
        ({}, 0, None),
    ],
)
def test_the_picture_of_a_cell(cell: object, position: int, expected: object) -> None:
    assert picture(cell, position) == expected
