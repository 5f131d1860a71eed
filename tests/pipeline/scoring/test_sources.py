"""What can be scored: the same products give the same answers as a dump, a folder, a table, here
and behind URLs."""

import csv
import os
import tempfile
import uuid
from pathlib import Path

import bson
import fsspec
import numpy as np
import pandas
import pytest

from catalog.artifacts import read_json
from catalog.config import CatalogConfig
from catalog.errors import ShelfsortError
from catalog.sources.photo_list import PhotoList
from catalog.sources.source import ProductSource, open_source
from pipeline.cli import main
from pipeline.cluster.client import missing_files
from pipeline.model import TwoStageModel, predict_files
from pipeline.scoring.score import score_source
from tests.catalog.served import served
from tests.conftest import document, jpeg, write_bson
from tests.pipeline.score_helpers import CONFIG, predictions, rejects, score, scorer
from tests.pipeline.tiny import Tiny, documents


def read(path: str) -> ProductSource:
    with tempfile.TemporaryDirectory() as index:
        return open_source([path], Path(index))


@pytest.fixture(scope="module")
def shop(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve products as a dump `d.bson`, a folder `photos` and two tables `photos.csv`,
    `named.parquet`."""
    folder = tmp_path_factory.mktemp("a shop, ümlaut")
    (folder / "photos").mkdir()
    rows, some = (
        [],
        sorted(list(documents(tiny.data / "test.bson"))[:12], key=lambda d: str(d["_id"])),
    )
    for found in some:
        for position, image in enumerate(found["imgs"]):
            name = f"{found['_id']}_{position}.jpg" if position else f"{found['_id']}.jpg"
            (folder / "photos" / name).write_bytes(image["picture"])
            rows.append({"product_id": found["_id"], "path": f"photos/{name}"})
    (folder / "d.bson").write_bytes(b"".join(map(bson.encode, some)))
    pandas.DataFrame(rows).to_csv(folder / "photos.csv", index=False)
    named = pandas.DataFrame(
        {"name": [f"shoe {r['product_id']}" for r in rows], "url": [r["path"] for r in rows]}
    )
    named["category_id"] = int(tiny.run.store.taxonomy.category_ids[0])
    named.to_parquet(folder / "named.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(
    tiny: Tiny, model: TwoStageModel, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> pandas.DataFrame:
    """The dump's predictions."""
    out = tmp_path_factory.mktemp("out")
    score(scorer(tiny, model), [shop / "d.bson"], out)
    return predictions(out)


@pytest.mark.parametrize("name", ["photos", "photos.csv"])
def test_a_folder_and_a_table_score_as_the_dump(
    tiny: Tiny,
    model: TwoStageModel,
    shop: Path,
    expected: pandas.DataFrame,
    tmp_path: Path,
    name: str,
) -> None:
    totals = score(scorer(tiny, model), [shop / name], tmp_path)
    assert totals.products == totals.predictions == 12
    assert predictions(tmp_path).equals(expected)


@pytest.mark.parametrize("name", ["d.bson", "photos.csv", "photos/"])
def test_over_http(
    tiny: Tiny,
    model: TwoStageModel,
    shop: Path,
    expected: pandas.DataFrame,
    tmp_path: Path,
    name: str,
) -> None:
    with served(shop) as url:
        score(scorer(tiny, model), [f"{url}/{name}"], tmp_path)
    assert predictions(tmp_path).equals(expected)


def test_in_memory(
    tiny: Tiny, model: TwoStageModel, shop: Path, expected: pandas.DataFrame, tmp_path: Path
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(str(shop), root, recursive=True)
    for number, name in enumerate(("d.bson", "photos")):
        score(scorer(tiny, model), [f"{root}/{name}"], tmp_path / str(number))
        assert predictions(tmp_path / str(number)).equals(expected)


def test_products_with_names(
    tiny: Tiny, model: TwoStageModel, shop: Path, expected: pandas.DataFrame, tmp_path: Path
) -> None:
    source = open_source([shop / "named.parquet"], tmp_path)
    assert (source.category_id == tiny.run.store.taxonomy.category_ids[0]).all()
    score(scorer(tiny, model), [shop / "named.parquet"], tmp_path)
    found = predictions(tmp_path)
    assert found["product_id"].tolist() == [f"shoe {i}" for i in expected["product_id"]]
    np.testing.assert_array_equal(found["category_id"], expected["category_id"])


def test_photos_that_are_gone_are_rejects(tiny: Tiny, model: TwoStageModel, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(1, 40))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("_id", "image"), (5, "1.jpg"), (5, "none.jpg"), (6, "none.jpg"), (7, "")]
        )
    totals = score(scorer(tiny, model), [tmp_path / "t.csv"], tmp_path / "out")
    assert (
        totals.products,
        totals.predictions,
        totals.rejected_products,
        totals.rejected_images,
    ) == (3, 1, 2, 3)
    found = rejects(tmp_path / "out")
    assert found[found["product_id"] == 5]["reason"].tolist() == ["unreadable_file"]
    assert found[found["product_id"] == 5]["source"].tolist() == [f"{tmp_path}/none.jpg"]
    assert set(found[found["position"] == -1]["product_id"]) == {6, 7}


def test_jpegs_without_their_end_marker_are_read_and_counted(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        data = jpeg(number, 40)
        (folder / f"{number}.jpg").write_bytes(data if number else data[:-2])
    totals = score(scorer(tiny, model), [folder], tmp_path / "out")
    assert (totals.predictions, totals.repaired_images, totals.rejected_images) == (4, 1, 0)


def test_products_of_odd_categories_are_scored(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    """What uncategorised products look like: null, a text, a double, nothing."""
    dump = [document(i, c, [jpeg(i, 40)]) for i, c in enumerate((None, "none yet", 2.5, [1]))]
    dump.append({"_id": 9, "imgs": [{"picture": jpeg(9, 40)}]})
    totals = score(scorer(tiny, model), [write_bson(tmp_path / "a.bson", dump)], tmp_path / "out")
    assert (totals.products, totals.predictions, totals.rejected_products) == (5, 5, 0)


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
def test_photos_of_too_many_pixels_are_rejects_that_name_the_key(
    tiny: Tiny, tmp_path: Path, more: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for number, side in enumerate((20, 40)):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(number, side))
    where = [str(tmp_path / "photos"), "--run", str(tiny.folder)]
    for limit, lost in (("1000", [1]), ("1600", [])):
        out = tmp_path / limit
        assert (
            main(
                ["score", *where, "--out", str(out), *more, "--set", f"catalog.max_pixels={limit}"]
            )
            == 0
        )
        found = rejects(out)
        assert found[found["position"] == 0]["product_id"].tolist() == lost
        assert all("expected at most 1000 (catalog.max_pixels)" in d for d in found["detail"][:1])


def test_odd_rows_and_broken_links_are_rejects_of_their_products(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(jpeg(1, 40))
    (folder / "2.jpg").symlink_to(tmp_path / "absent.jpg")
    odd = ["foo://x/y.jpg", "http://[bad", "HTTP://", "nul\0.jpg"]
    rows = [f"{number},{path}" for number, path in enumerate([*odd, "photos/1.jpg"])]
    (tmp_path / "t.csv").write_text("\n".join(["product_id,path", *rows]) + "\n")
    for name, rejected in (("t.csv", len(odd)), ("photos", 1)):
        totals = score(scorer(tiny, model), [tmp_path / name], tmp_path / f"out of {name}")
        assert (totals.predictions, totals.rejected_products) == (1, rejected)
        found = totals.reasons | totals.image_reasons  # a broken link is no product of the folder
        assert found["unreadable_file"] == rejected


def test_what_a_server_withholds_for_a_while_is_scored_by_the_same_command(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number, 40))
    faults, out = {"/0.jpg": 503, "/1.jpg": 410}, tmp_path / "out"
    with served(tmp_path, faults) as url:
        rows = "\n".join(f"{number},{url}/{number}.jpg" for number in range(4))
        (tmp_path / "t.csv").write_text(f"product_id,url\n{rows}\n")
        scoring = tiny.scoring(out, dump=tmp_path / "t.csv")
        for left, reason in ((1, "unreachable"), (0, None)):
            assert main(scoring) == 0
            assert (
                "1 photos could not be reached; the same command" in capsys.readouterr().out
            ) == bool(left)
            assert read_json(out / "_SUCCESS", "")["unreachable"] == left
            found = rejects(out)
            assert dict(found[found["position"] == 0][["product_id", "reason"]].to_numpy()) == {
                **({0: reason} if left else {}),
                1: "unreadable_file",
                3: "unreadable_file",
            }
            assert sorted(predictions(out)["product_id"]) == ([2] if left else [0, 2])
            faults.pop("/0.jpg", None)


def test_products_of_a_table_are_told_apart_by_what_is_written(tmp_path: Path) -> None:
    def table(*names: str) -> PhotoList:
        (tmp_path / "t.csv").write_text(
            "\n".join(["product_id,path", *(f"{name},a.jpg" for name in names)])
        )
        return read(str(tmp_path / "t.csv"))

    numbers = table("7", "562949953421311", "7")
    assert list(numbers.keys) == [7, 562949953421311] and numbers.keys.texts is None
    for names in (
        ("7", "007"),
        ("123456789012345678901", "123456789012345678902"),
        ("7", "red shoe"),
    ):
        assert tuple(table(*names).keys) == names
    large = table("7", "562949953421312")
    assert list(large.keys) == [7, 562949953421312] and large.product_id[0] == 7
    frame = pandas.DataFrame({"product_id": np.array([7, 8]), "path": "a.jpg"})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read(str(tmp_path / "t.parquet")).product_id.tolist() == [7, 8]
    frame.astype({"product_id": float}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(
        ShelfsortError,
        match=r"t\.parquet: column product_id: expected integers or text, found double",
    ):
        read(str(tmp_path / "t.parquet"))


def test_a_tables_fingerprint_knows_its_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shop in ("a", "b"):
        (tmp_path / shop).mkdir()
        (tmp_path / shop / "t.csv").write_text(
            "product_id,path\n1,1.jpg\n1,none.jpg\n2,https://example.org/2.jpg\n"
        )
        (tmp_path / shop / "1.jpg").write_bytes(jpeg(1))

    def found(shop: str) -> str:
        monkeypatch.chdir(tmp_path / shop)
        return open_source(["t.csv"], tmp_path).fingerprint

    first = found("a")
    assert (
        first
        == found("a")
        == open_source([tmp_path / "a" / "t.csv"], tmp_path).fingerprint
        != found("b")
    )
    (tmp_path / "a" / "1.jpg").write_bytes(jpeg(1) + b" ")
    assert found("a") != first


@pytest.mark.parametrize("nothing", ["", "NA", " ", '""'])
def test_a_row_without_a_product_is_an_error(tmp_path: Path, nothing: str) -> None:
    (tmp_path / "t.csv").write_text(f"product_id,path\n1,a.jpg\n{nothing},b.jpg\n{nothing},c.jpg\n")
    pandas.DataFrame({"name": ["shoe", None], "path": "a.jpg"}).to_parquet(tmp_path / "t.parquet")
    for name, column in (("t.csv", "product_id"), ("t.parquet", "name")):
        with pytest.raises(
            ShelfsortError, match=rf"{name}: row 2 .*: column {column} is empty or null"
        ):
            open_source([tmp_path / name], tmp_path)


def test_names_that_are_not_utf_8(
    tiny: Tiny, model: TwoStageModel, shop: Path, tmp_path: Path
) -> None:
    photo = next((shop / "photos").iterdir()).read_bytes()
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (b"caf\xe9.jpg", b"gone\xff.jpg", b"tea.jpg"):
        (folder / os.fsdecode(name)).write_bytes(photo)
    source = open_source([folder], tmp_path)
    (folder / os.fsdecode(b"gone\xff.jpg")).unlink()
    score_source(scorer(tiny, model), source, tmp_path / "out", CONFIG)
    assert set(predictions(tmp_path / "out")["product_id"]) == {r"caf\xe9", "tea"}
    lost = rejects(tmp_path / "out")
    assert set(lost["product_id"]) == {r"gone\xff"} and set(lost["source"]) == {
        rf"{folder}/gone\xff.jpg"
    }
    other = tmp_path / os.fsdecode(b"\xe9")
    other.mkdir()
    (other / "t.csv").write_text("path\n../photos/tea.jpg\n")
    assert open_source([other / "t.csv"], tmp_path).location(0, 0) == (
        rf"{tmp_path}/\xe9/../photos/tea.jpg",
        0,
    )


def test_what_is_no_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    for name, table in (
        ("paths", "path,path\na,b"),
        ("ids", "path,product_id,product_id\na,1,1"),
        ("titles", "path,title,title\na,x,y"),
    ):
        (tmp_path / f"{name}.csv").write_text(table + "\n")
    pandas.DataFrame({"path": "a.jpg", "category_id": np.array([2**63], np.uint64)}).to_parquet(
        tmp_path / "large.parquet"
    )
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    for name, message in (
        ("empty", "expected photos .* found none"),
        ("bad.csv", "expected a column path or url or image .* found a, b; name it: --columns"),
        ("bad.parquet", "not readable as a table"),
        ("paths.csv", "expected one column path, found 2"),
        ("ids.csv", "expected one column product_id, found 2"),
        ("titles.csv", "expected one column title, found 2"),
        (
            "large.parquet",
            "column category_id: expected integers from 0 to 2.63 "
            "- 1, or names, found 9223372036854775808",
        ),
        ("none.csv", "can't be read: No such file"),
    ):
        with pytest.raises(ShelfsortError, match=rf"{name}: {message}"):
            open_source([tmp_path / name], tmp_path, CatalogConfig(text="title"))
    with pytest.raises(ShelfsortError, match="expected one folder, or one table, or dumps alone"):
        open_source([tmp_path / "bad.csv", tmp_path / "x.bson"], tmp_path)


def test_a_relative_folder_is_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(jpeg(1))
    monkeypatch.chdir(tmp_path)
    source, expected = (
        open_source(["photos"], tmp_path),
        open_source([tmp_path / "photos"], tmp_path),
    )
    assert source.files == [(str(tmp_path / "photos" / "1.jpg"), len(jpeg(1)))]
    assert source.fingerprint == expected.fingerprint
    monkeypatch.chdir("/")  # as a worker
    assert missing_files(source.files) == [] and source.read(0) == [jpeg(1)]


def test_every_photo_of_a_folder_is_listed_and_the_rest_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.JPEG", "c.jfif", "d.jpe"):
        (tmp_path / name).write_bytes(jpeg(1))
    assert list(read(str(tmp_path)).keys) == ["a", "b", "c", "d"] and not caplog.text
    (tmp_path / "notes.txt").write_text("")
    assert len(read(str(tmp_path))) == 4 and "ignored 1 of 5 files" in caplog.text


def test_a_slice_holds_its_own_photos(shop: Path, tmp_path: Path) -> None:
    for name in ("photos", "d.bson"):
        whole = open_source([shop / name], tmp_path)
        part = whole[4:9]
        assert len(part) == 5 and part.rejects == ()
        for row in range(5):
            assert part.read(row) == whole.read(row + 4)
            assert part.location(row, -1) == whole.location(row + 4, -1)
        np.testing.assert_array_equal(part.n_images, whole.n_images[4:9])
    with pytest.raises(ShelfsortError, match="can't be read"):
        open_source([shop / "gone.parquet"], tmp_path)


def test_predict_takes_urls(model: TwoStageModel, shop: Path) -> None:
    photo = next((shop / "photos").iterdir())
    with served(shop) as url:
        assert predict_files(model, [f"{url}/photos/{photo.name}"], 3) == predict_files(
            model, [photo], 3
        )
        with pytest.raises(ShelfsortError, match=r"/none\.jpg: can't be read"):
            predict_files(model, [f"{url}/none.jpg"], 3)
