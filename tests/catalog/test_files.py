"""Files here and behind URLs: the same bytes, and errors that name the file."""

import gzip
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from catalog.errors import ImageError, ShelfsortError
from catalog.fetch import read_files
from catalog.files import files_below, is_folder, open_file, read_file, size_and_stamp
from catalog.sources.bson_reader import DumpReader, expand, products
from catalog.sources.dump_index import build_index
from tests.catalog.served import served
from tests.conftest import document, jpeg, write_bson


@pytest.fixture(params=["here", "http", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a dump `a.bson`, the same packed, and `p/1.jpg`, `p/2.jpg` lie: a folder, a web server,
    fsspec's memory."""
    write_bson(
        tmp_path / "a.bson", [document(i, images=[jpeg(i), jpeg(i + 50)]) for i in range(20)]
    )
    (tmp_path / "a.bson.gz").write_bytes(gzip.compress((tmp_path / "a.bson").read_bytes()))
    (tmp_path / "p").mkdir()
    for i in (1, 2):
        (tmp_path / "p" / f"{i}.jpg").write_bytes(jpeg(i))
    if request.param == "here":
        yield str(tmp_path)
    elif request.param == "http":
        with served(tmp_path) as url:
            yield url
    else:
        root = f"memory://{uuid.uuid4().hex}"
        fsspec.filesystem("memory").put(str(tmp_path), root, recursive=True)
        yield root


@pytest.mark.parametrize("name", ["a.bson", "a.bson.gz"])
def test_a_dump_reads_alike_everywhere(base: str, name: str) -> None:
    path = f"{base}/{name}"
    assert [p.key for p in products([path])] == list(range(20))
    index = build_index([path])
    with DumpReader(index.sources) as reader:
        for row in (0, 7, 19, 3):
            assert reader.product(*index.location(row)).images == (jpeg(row), jpeg(row + 50))
    assert expand([path])[0].path.endswith(name)
    assert size_and_stamp(path) == size_and_stamp(path)


def test_several_files_at_once(base: str) -> None:
    one, two, none = (f"{base}/p/{i}.jpg" for i in (1, 2, 3))
    found = read_files([two, none, one, two])
    assert found[0] == found[3] == jpeg(2) == read_file(two) and found[2] == jpeg(1)
    assert isinstance(found[1], ImageError) and found[1].reason == "unreadable_file"
    assert re.search(r"3\.jpg: can't be read: no such file", found[1].detail, re.IGNORECASE)


def test_a_missing_file_is_named(base: str) -> None:
    for read in (size_and_stamp, read_file):
        with pytest.raises(ShelfsortError, match=r"/none\.jpg: can't be read: "):
            read(f"{base}/none.jpg")


def test_patterns_and_folders(base: str) -> None:
    if base.startswith("http"):
        assert is_folder(f"{base}/p/") and not is_folder(f"{base}/p")
    else:
        assert is_folder(f"{base}/p") and not is_folder(f"{base}/a.bson")
        assert [s.path.rsplit("/", 1)[1] for s in expand([f"{base}/*.bson"])] == ["a.bson"]
    found, lost, _ = files_below(f"{base}/p/")
    assert not lost
    sizes = (
        [0, 0] if base.startswith("http") else [len(jpeg(1)), len(jpeg(2))]
    )  # a web page of links tells no sizes
    assert [(file.relative, file.size) for file in found] == list(
        zip(("1.jpg", "2.jpg"), sizes, strict=True)
    )
    with open_file(found[0].path) as file:
        assert file.read() == jpeg(1)


def test_a_server_that_is_gone_or_a_package_that_is_absent() -> None:
    for url in ("http://127.0.0.1:9/a.bson", "nonsense://a.bson"):
        with pytest.raises(ShelfsortError, match=re.escape(f"{url}: can't be read: ")):
            expand([url])


def test_an_odd_url_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    with served(tmp_path) as url:
        good = url.replace("http", "HTTP") + "/1.jpg"
        odd = ["foo://x/1.jpg", "http://[bad/1.jpg", "http://", "://"]
        found = read_files([*odd, good, f"{tmp_path}/none", "nul\0.jpg"])
    assert found[len(odd)] == jpeg(1)
    for result in found[: len(odd)] + found[len(odd) + 1 :]:
        assert isinstance(result, ImageError) and result.reason == "unreadable_file"


def test_a_broken_link_is_told_apart_and_fails_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "2.jpg").symlink_to(tmp_path / "absent")
    [file], [lost], _ = files_below(str(tmp_path))
    assert (file.relative, lost.path, lost.reason) == (
        "1.jpg",
        str(tmp_path / "2.jpg"),
        "unreadable_file",
    )
    found = read_files([file.path, lost.path])
    assert found[0] == jpeg(1) and isinstance(found[1], ImageError)
