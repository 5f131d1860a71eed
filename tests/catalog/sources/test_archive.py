"""Photos in .tar and .zip archives, and WebDataset's samples."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from catalog.config import CatalogConfig, TableColumns
from catalog.errors import ShelfsortError
from catalog.sources.archive import archive_paths, read_archives
from catalog.sources.photo_list import PhotoList
from tests.conftest import jpeg

CONFIG = CatalogConfig(text="title", columns=("price",))


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(*paths: Path, config: CatalogConfig = CONFIG) -> PhotoList:
    return read_archives(archive_paths(list(map(str, paths))), config)


def sample(**about: object) -> bytes:
    return json.dumps(about).encode()


@pytest.mark.parametrize("kind", [tar, zipped])
def test_folders_in_an_archive(tmp_path: Path, kind) -> None:
    files = {"./Shoes/1.jpg": jpeg(1), "Shoes/1_1.jpg": jpeg(2), "Hats/x/ö.PNG": jpeg(3)}
    files |= {"__MACOSX/._1.jpg": b"x", ".hidden/2.jpg": b"x", "Shoes/notes.txt": b"x"}
    if kind is zipped:
        files = {name.removeprefix("./"): data for name, data in files.items()}
    found = read(kind(tmp_path / f"a.{'tar' if kind is tar else 'zip'}", files))
    rows = {str(key): row for row, key in enumerate(found.keys)}
    assert found.read(rows["1"]) == [jpeg(1), jpeg(2)] and found.read(rows["ö"]) == [jpeg(3)]
    assert found.category_names == ("Shoes", "Hats > x") and len(found) == 2
    assert [photo.startswith("Shoes/1") for photo in (found.photo_name(rows["1"], 1),)] == [True]


def test_samples_of_webdataset(tmp_path: Path) -> None:
    files = {
        "0.jpg": jpeg(0),
        "0.json": sample(product_id="b", position=1, category="A", title=" t ", price=2),
        "1.jpg": jpeg(1),
        "1.json": sample(product_id="b", position=0, category="A", title="t", price=2),
        "2.jpg": jpeg(2),
        "2.cls": b"7",
    }
    found = read(tar(tmp_path / "s.tar", files), config=CatalogConfig())
    rows = {str(key): row for row, key in enumerate(found.keys)}
    assert found.read(rows["b"]) == [jpeg(1), jpeg(0)] and found.read(rows["2"]) == [jpeg(2)]
    assert found.category_id[rows["2"]] == 7 and found.category_id[rows["b"]] == -2
    del files["2.cls"]
    found = read(tar(tmp_path / "t.tar", files))
    rows = {str(key): row for row, key in enumerate(found.keys)}
    assert found.text(rows["b"]) == "t" and found.columns(rows["b"], ["price", "x"]) == [2, None]
    assert found.category_names == ("A",) and found.category_id[rows["2"]] == -1


def test_names_beside_samples_are_those_that_are_asked_for(tmp_path: Path) -> None:
    files = {"0.jpg": jpeg(0), "0.json": sample(product_id="x", art=5, kind="Hats")}
    table = TableColumns(product="art", category="kind")
    found = read(tar(tmp_path / "s.tar", files), config=CatalogConfig(table=table))
    assert list(found.keys) == [5] and found.category_names == ("Hats",)


def test_shards_are_one_source_and_named_alike_photos_two(tmp_path: Path) -> None:
    for number in range(2):
        about = sample(product_id=number, category="A")
        tar(tmp_path / f"s-{number}.tar", {"0.jpg": jpeg(number), "0.json": about})
    found = read(tmp_path / "s-*.tar")
    assert list(found.keys) == [0, 1]
    assert [found.read(row) for row in range(2)] == [[jpeg(0)], [jpeg(1)]]
    assert found.roots == [str(tmp_path / f"s-{number}.tar") for number in range(2)]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "none.tar", {"a.txt": b"x"})
    tar(tmp_path / "json.tar", {"0.jpg": jpeg(0), "0.json": b"{"})
    zipped(tmp_path / "bzip.zip", {"0.jpg": jpeg(0)}, zipfile.ZIP_BZIP2)
    whole = zipped(tmp_path / "cut.zip", {"0.jpg": jpeg(0)})
    whole.write_bytes(whole.read_bytes()[:-30])
    for name, problem in (
        ("none.tar", "expected photos in this archive, found none"),
        ("json.tar", r"0\.json: not JSON"),
        ("bzip.zip", r"0\.jpg: encrypted, or packed in another way .*; pack it again"),
        ("cut.zip", "not readable as an archive"),
        ("absent-*.zip", "no file matches it as a pattern"),
        ("http://shop.example/a.zip", "archives are read from a disk alone"),
    ):
        path = Path(name) if "://" in name else tmp_path / name
        with pytest.raises(ShelfsortError, match=problem):
            read_archives(archive_paths([name if "://" in name else str(path)]), CONFIG)


def test_an_archive_that_changes_later_is_a_reject_of_its_photos(tmp_path: Path) -> None:
    found = read(tar(tmp_path / "a.tar", {"A/1.jpg": jpeg(1)}))
    (tmp_path / "a.tar").write_bytes(b"short")
    [error] = found.read(0)
    assert getattr(error, "reason", None) == "unreadable_file"
