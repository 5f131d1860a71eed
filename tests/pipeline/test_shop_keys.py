"""Of a shop whose products have texts as keys, every output calls a product what the shop does."""

import base64
import csv
import gzip
import json
import re
from pathlib import Path

import pandas
import pytest

from catalog.store.reader import Store
from tests.pipeline.shop import BROKEN, shelfsort
from tests.pipeline.tiny import documents


def keys(shop: Path, part: str) -> set[str]:
    return set(pandas.read_csv(shop / f"{part}.csv")["sku"]) - {BROKEN}


def score(shop: Path, out: Path, *more: str | Path) -> None:
    where = (shop / "test.csv", "--run", shop / "run", "--out", out)
    shelfsort("score", *where, "--columns", "product=sku,image=photo", *more)


def test_the_store_and_its_rejects(shop: Path) -> None:
    store = Store(shop / "run" / "store.sqlite")
    assert set(store.keys(store.images().product_id)) <= keys(shop, "train")
    assert [reject.product_id for reject in store.rejects(9)] == [BROKEN]


def test_predictions_and_rejects(shop: Path, tmp_path: Path) -> None:
    category = Store(shop / "run" / "store.sqlite").taxonomy.category_ids[0]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        rows = [(key, category) for key in sorted(keys(shop, "test"))]
        csv.writer(file).writerows([("product_id", "category_id"), *rows])
    more = ("--min-confidence", "0.5", "--csv", "--labels", tmp_path / "labels.csv")
    score(shop, tmp_path / "out", *more)
    found = pandas.concat(map(pandas.read_parquet, (tmp_path / "out").glob("part-*.parquet")))
    assert set(found["product_id"]) == keys(shop, "test")
    split = [pandas.read_parquet(tmp_path / "out" / f"{n}.parquet") for n in ("accepted", "review")]
    assert set(pandas.concat(split)["product_id"]) == keys(shop, "test")
    cells = pandas.read_csv(tmp_path / "out" / "predictions.csv")["product_id"]
    assert all(cell[:2] == '="' and cell[-1] == '"' for cell in cells)
    assert {cell[2:-1].replace('""', '"') for cell in cells} == keys(shop, "test")
    every = {*keys(shop, "test"), BROKEN}
    assert set(pandas.read_csv(tmp_path / "out" / "kaggle.csv")["_id"]) == every
    lost = pandas.concat(map(pandas.read_parquet, (tmp_path / "out").glob("rejects-*.parquet")))
    assert set(lost[lost["position"] == -1]["product_id"]) == {BROKEN}
    assert set(lost["product_id"]) <= every
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    seen = int((~found["blank"]).sum())  # labels find every product but for blank ones
    assert [figure["n"] for figure in summary["top1_percent"].values()] == [seen] * 3


def test_look_ups(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = pandas.read_csv(shop / "train.csv").iloc[0]
    shelfsort("similar", "--run", shop / "run", shop / first["photo"], "--top", "3", "--csv")
    lines = capsys.readouterr().out.strip().splitlines()
    rows = list(csv.DictReader(lines[-4:]))
    assert rows[0]["product_id"] == first["sku"]
    assert {row["product_id"] for row in rows} <= keys(shop, "train")
    (tmp_path / "list.txt").write_text(f"{shop / first['photo']}\n")
    score(shop, tmp_path / "out", "--list", tmp_path / "list.txt")
    found = pandas.concat(map(pandas.read_parquet, (tmp_path / "out").glob("lookalikes-*.parquet")))
    assert set(found["product_id"]) == {*keys(shop, "test"), BROKEN}


def test_the_report_names_every_product_by_its_key(shop: Path) -> None:
    page = (shop / "run" / "report" / "index.html").read_text(encoding="utf-8")
    block = re.search(r'<script[^>]* id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert block
    data = gzip.decompress(base64.b64decode(block[1]))
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    named = dict(header["values"]["keys"])
    column = header["columns"]["item.product"]
    assert column["kind"] == "Float64Array"
    start = 4 + length + column["offset"]
    numbers = pandas.Series(memoryview(data[start : start + 8 * column["length"]]).cast("d"))
    shown = [named[int(number)] for number in numbers]
    assert shown and set(shown) <= keys(shop, "train")
    health = header["values"]["findings"]["health"]
    assert [row["product_id"] for row in health["reject_rows"]] == [BROKEN]
    assert {row["product_id"] for row in health["blank_rows"]} <= set(named)


def test_corrections_and_unpacked_photos(shop: Path, tmp_path: Path) -> None:
    """What the report exports is what ingest takes."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("store.sqlite", "config.yaml"):
        (run / name).write_bytes((shop / "run" / name).read_bytes())
    store = Store(run / "store.sqlite")
    table = store.images("train")
    [key] = store.keys(table.product_id[:1])
    categories = store.taxonomy.category_ids
    wrong = int(categories[(table.class_index[0] + 1) % len(categories)])
    with open(tmp_path / "corrections.csv", "w", newline="") as file:
        rows = [("product_id", "category_id", "old_category_id"), (key, wrong, "")]
        csv.writer(file).writerows(rows)
    shelfsort(
        *("ingest", "--run", run, "--dump", shop / "train.csv"),
        *("--corrections", tmp_path / "corrections.csv"),
    )
    table = Store(run / "store.sqlite").images()
    [now] = set(table.class_index[table.product_id == store.numbers([key])[0]].tolist())
    assert categories[now] == wrong
    shelfsort("unpack", "--run", run, "--out", tmp_path / "dumps", "--bson")
    dumped = [d["_id"] for path in (tmp_path / "dumps").glob("*.bson") for d in documents(path)]
    assert key in dumped and set(dumped) <= keys(shop, "train")
