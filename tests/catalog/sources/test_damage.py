"""A damaged file of a source is an error, unless the user accepts it; so is one without
products."""

from pathlib import Path

import pytest

from catalog.errors import DamagedSourceError, ShelfsortError
from catalog.sources.damage import require_whole
from catalog.sources.source import open_source
from tests.conftest import document, write_bson


def check(folder: Path, *paths: Path, accept: bool = False) -> None:
    source = open_source(list(paths), folder / "dumps")
    require_whole(paths[0], len(source), source.rejects, accept)


def test_half_a_dump_is_refused_and_can_be_accepted(tmp_path: Path) -> None:
    whole = write_bson(tmp_path / "a.bson", [document(1), document(2)])
    cut = tmp_path / "b.bson"
    cut.write_bytes(write_bson(tmp_path / "c", [document(3), document(4)]).read_bytes()[:-9])
    check(tmp_path, whole)
    with pytest.raises(DamagedSourceError, match=r"b\.bson: at byte .* 3 products can be read"):
        check(tmp_path, whole, cut)
    check(tmp_path, whole, cut, accept=True)


def test_a_fault_of_one_product_is_no_damage(tmp_path: Path) -> None:
    check(tmp_path, write_bson(tmp_path / "a.bson", [document(1), {"_id": 2, "imgs": []}]))


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", r"a\.bson: expected at least one product, found none"),
        (b'{"_id": 1, "imgs": []}\n', r"a\.bson: JSON, expected BSON"),
        (b"<!DOCTYPE html><title>Sign in", r"the file is an HTML page"),
        (b"\x10\0\0\0", r"\(truncated 1\)"),
    ],
)
def test_a_source_without_products_is_an_error_whatever_is_accepted(
    tmp_path: Path, data: bytes, expected: str
) -> None:
    (tmp_path / "a.bson").write_bytes(data)
    for accept in (False, True):
        with pytest.raises(ShelfsortError, match=expected):
            check(tmp_path, tmp_path / "a.bson", accept=accept)
