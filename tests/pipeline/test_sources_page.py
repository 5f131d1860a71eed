"""Every command of docs/sources.md does what the page says, with the files that it shows."""

import gzip
import io
import json
import re
import shlex
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import bson
import pandas
import pytest

from catalog.store.reader import Store
from pipeline.cli import main
from tests.catalog.served import served
from tests.catalog.sources.test_mongo_archive import archive
from tests.conftest import document, jpeg, write_bson

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("   #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("shelfsort ")
]
OTHERS = ("mongodump ", "export TOKEN=")
"""Lines of blocks with commands that are no commands of ours."""


def block(start: str) -> str:
    [found] = [block for block in BLOCKS if block.startswith(start)]
    return found


def write_photo(path: str, number: int) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(jpeg(number))


def dump_files() -> None:
    Path("dump").mkdir()
    for number in range(2):
        write_bson(Path(f"dump/products-{number}.bson"), [document(number, 1)])
    Path("more.bson.gz").write_bytes(gzip.compress(bson.encode(document(7, 1))))


def other_fields() -> None:
    photos = [{"picture": jpeg(1)}]
    product = {"sku": "A-1", "meta": {"category": "Hats"}, "media": {"photos": photos}}
    write_bson(Path("shop.bson"), [product])


def with_groups() -> None:
    keys = ("AB-12", "AB-13", "AB-14")
    write_bson(Path("shop.bson"), [document(key, 1, [jpeg(i)]) for i, key in enumerate(keys)])
    Path("sessions.csv").write_text(block("key,group"))


def mongodump_archive() -> None:
    Path("shop.archive.gz").write_bytes(gzip.compress(archive("products", "users")))


def folders() -> None:
    for number, line in enumerate(block("photos/").splitlines()):
        write_photo(line.split()[0], number)


def product_folders() -> None:
    write_photo("photos/Shoes/Boots/123/front.jpg", 1)
    write_photo("photos/Shoes/Boots/123/side.jpg", 2)


def table() -> None:
    write_photo("photos/ab12.jpg", 1)
    write_photo("ab12-side.jpg", 2)
    Path("shop.csv").write_text(block("sku;category"))


def hugging_face() -> None:
    rows = [{"image": {"bytes": jpeg(i), "path": f"{i}.jpg"}, "label": i % 2} for i in range(4)]
    pandas.DataFrame(rows).to_parquet("train.parquet")


def zip_archive() -> None:
    with zipfile.ZipFile("photos.zip", "w") as file:
        file.writestr("Hats/1.jpg", jpeg(1))


def shards() -> None:
    Path("shards").mkdir()
    parts = {"0.jpg": jpeg(1), "0.json": json.dumps({"product_id": 5, "category": "A"}).encode()}
    with tarfile.open("shards/train-0.tar", "w") as file:
        for name, data in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


def table_behind_a_key() -> None:
    write_photo("1.jpg", 1)
    Path("products.csv").write_text("id,image,category\n1,1.jpg,Hats\n")


Files = Callable[[], None]
EXPECTED: dict[str, tuple[Files, list, int]] = {
    "--dump shop.bson --groups sessions.csv": (with_groups, ["AB-12", "AB-13", "AB-14"], 3),
    "--dump 'dump/products-*.bson' more.bson.gz": (dump_files, [0, 1, 7], 3),
    "--dump shop.bson --set catalog.fields.id=sku": (other_fields, ["A-1"], 1),
    "--dump shop.archive.gz --set": (mongodump_archive, [0, 1, 2, 3, 4, 5], 6),
    "--dump photos": (folders, [123], 2),
    "--dump photos --set catalog.product_folders=true": (product_folders, [123], 2),
    "--dump shop.csv --columns product=sku,image=photo": (table, ["AB-12"], 2),
    "--dump train.parquet --columns category=label": (
        hugging_face,
        [f"{row}/0" for row in range(1, 5)],
        4,
    ),
    "--dump photos.zip": (zip_archive, [1], 1),
    "--dump 'shards/train-*.tar'": (shards, [5], 1),
    "--dump https://shop.example/products.csv": (table_behind_a_key, [1], 1),
}
"""How commands begin after the run; the files that each reads, and the keys and photos that it
brings into the store."""


def begins(command: str) -> str:
    """The entry of a command: the longest that it begins with."""
    rest = re.sub(" +", " ", command.removeprefix("shelfsort ingest --run runs/first "))
    found = [start for start in EXPECTED if rest.startswith(start)]
    assert found, f"docs/sources.md: no test runs this command: {command}"
    return max(found, key=len)


def test_every_example_is_run() -> None:
    assert {begins(command) for command in COMMANDS} == set(EXPECTED)
    assert len(COMMANDS) == len(EXPECTED)
    for lines in BLOCKS:
        if "shelfsort " in lines:
            starts = ("shelfsort ", "  --", *OTHERS)
            assert all(line.startswith(starts) for line in lines.splitlines()), lines


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, keys, photos = EXPECTED[begins(command)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "s3cret")
    files()
    headers = {"Authorization": "Bearer s3cret"} if "sources.headers" in command else {}
    with served(tmp_path, headers=headers) as url:
        for page in tmp_path.glob("*.csv"):
            page.write_text(page.read_text().replace("https://example.org", url))
        words = shlex.split(command.replace("https://shop.example", url))
        assert main([*words[1:], "--set", "jobs=1"]) == 0
    store = Store(tmp_path / "runs" / "first" / "store.sqlite")
    images = store.images()
    assert sorted(set(store.keys(images.product_id)), key=str) == keys
    assert len(images) == photos


def test_the_splits_of_the_groups_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_groups()
    assert main(["ingest", "--run", "r", "--dump", "shop.bson", "--groups", "sessions.csv"]) == 0
    images = Store("r/store.sqlite").images()
    numbers = Store("r/store.sqlite").numbers(["AB-12", "AB-13"])
    assert len({int(images.split[images.product_id == number][0]) for number in numbers}) == 1
