"""Photos within limits of time and bytes, here and from a real server; headers for what asks for
them."""

import os
import time
import uuid
import zipfile
from pathlib import Path

import fsspec
import pandas
import pytest

from catalog.config import CatalogConfig, Fields, SourcesConfig
from catalog.errors import ImageError, ShelfsortError
from catalog.fetch import read_files, require_files
from catalog.sources.source import open_source
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from tests.catalog.served import DRIP, ENDLESS, HANG, served
from tests.conftest import document, jpeg, write_bson

QUICK = SourcesConfig(seconds=0.3, max_mb=1)
TOKEN = {"Authorization": "Bearer s3cret"}


def reasons(found: list) -> list[str | None]:
    return [photo.reason if isinstance(photo, ImageError) else None for photo in found]


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        (HANG, "unreachable", "longer than 0.3 s (sources.seconds)"),
        (DRIP, "unreachable", "longer than 0.3 s (sources.seconds)"),
        (ENDLESS, "too_many_bytes", "more than 1 MB (sources.max_mb)"),
    ],
)
def test_a_server_that_never_ends_costs_one_photo(
    tmp_path: Path, fault: str, reason: str, detail: str
) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    access = QUICK if fault != ENDLESS else SourcesConfig(seconds=60, max_mb=1)
    with served(tmp_path, {"/bad.jpg": fault}) as url:
        started = time.monotonic()
        found = read_files([f"{url}/bad.jpg", f"{url}/1.jpg"], access)
        assert time.monotonic() - started < 20  # no second try
    assert reasons(found) == [reason, None] and found[1] == jpeg(1)
    assert isinstance(found[0], ImageError) and detail in found[0].detail


def test_a_hanging_photo_is_a_reject_of_an_ingest(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    with served(tmp_path, {"/3.jpg": HANG}) as url:
        rows = [{"id": i, "url": f"{url}/{i}.jpg", "category": "A"} for i in range(4)]
        pandas.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
        summary = ingest_dump(
            tmp_path / "store.sqlite",
            [tmp_path / "t.csv"],
            None,
            CatalogConfig(),
            index_folder=tmp_path,
            jobs=1,
            access=QUICK,
        )
    assert summary.rejects == {"unreachable": 1} and summary.images == 4
    assert sorted(Store(tmp_path / "store.sqlite").images().product_id.tolist()) == [0, 1, 2]


def test_headers_go_with_dumps_tables_folders_and_photos(tmp_path: Path) -> None:
    (tmp_path / "p" / "A").mkdir(parents=True)
    (tmp_path / "p" / "A" / "1.jpg").write_bytes(jpeg(1))
    table = pandas.DataFrame([{"id": 1, "image": "p/A/1.jpg", "category": "A"}])
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    cell = {"bytes": None, "path": "p/A/1.jpg"}
    pandas.DataFrame([{"id": 1, "image": cell}]).to_parquet(tmp_path / "cells.parquet")
    write_bson(tmp_path / "a.bson", [document(1, "A")])
    access = SourcesConfig(headers=TOKEN)
    named = CatalogConfig(fields=Fields(picture_is="path"))
    with served(tmp_path, headers=TOKEN) as url:
        write_bson(
            tmp_path / "named.bson",
            [{"_id": 1, "category_id": 1, "imgs": [{"picture": f"{url}/p/A/1.jpg"}]}],
        )
        for name in ("t.csv", "t.parquet", "cells.parquet", "p/A/", "a.bson", "named.bson"):
            config = named if name == "named.bson" else CatalogConfig()
            for folder in (tmp_path / "fresh", tmp_path / "fresh"):  # the second by the index
                source = open_source([f"{url}/{name}"], folder, config, access)
                assert source.read(0) == [jpeg(1)], name
            with pytest.raises(ShelfsortError, match=r"can't be read: .*(401|sources\.headers)"):
                open_source([f"{url}/{name}"], tmp_path / "other", config)


@pytest.mark.parametrize("place", ["here", "memory", "archive", "deflated"])
def test_a_large_photo_is_not_read_wherever_it_is(tmp_path: Path, place: str) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "p" / "2.jpg").write_bytes(bytes(10**6 + 1))
    root = str(tmp_path / "p")
    if place == "memory":
        root = f"memory://{uuid.uuid4().hex}"
        fsspec.filesystem("memory").put(f"{tmp_path}/p/", root, recursive=True)
    elif place != "here":
        kind = zipfile.ZIP_DEFLATED if place == "deflated" else zipfile.ZIP_STORED
        root = str(tmp_path / "a.zip")
        with zipfile.ZipFile(root, "w", kind) as archive:
            for name in ("1.jpg", "2.jpg"):
                archive.write(tmp_path / "p" / name, name)
    source = open_source([root], tmp_path, access=QUICK)
    found = [photo for row in range(len(source)) for photo in source.read(row)]
    assert reasons(found) == [None, "too_many_bytes"] and found[0] == jpeg(1)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    found = read_files([str(tmp_path / "fifo.jpg"), str(tmp_path)])
    assert reasons(found) == ["unreadable_file"] * 2
    with pytest.raises(ShelfsortError, match=r"fifo\.jpg: can't be read: it is no file"):
        require_files([tmp_path / "fifo.jpg"])
