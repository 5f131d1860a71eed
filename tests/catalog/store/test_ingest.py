"""From dump to store: the same content in any order, with any workers, after any number of kills;
and what is left out."""

import gzip
import io
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import bson
import numpy as np
import pytest
from PIL import Image

import catalog.sources.dump_index
import catalog.store.checker
import catalog.store.ingest
import catalog.store.writer
from catalog.config import Caps, CatalogConfig
from catalog.errors import ArtifactError, DamagedSourceError, DumpError, ShelfsortError
from catalog.image_table import POSITIONS
from catalog.sources.bson_reader import DumpReader, documents, expand
from catalog.sources.dump_index import build_index
from catalog.sources.source import open_source
from catalog.splits import SPLITS, deal, product_hash
from catalog.store.ingest import IngestSummary, ingest_dump
from catalog.store.reader import Store
from catalog.store.schema import content_of
from catalog.synthetic.dump import SyntheticSpec, write_categories, write_dump
from catalog.taxonomy import Taxonomy
from tests.conftest import SmallDump, document, jpeg, on_two_sides, outside_data, write_bson
from tests.moments import Moment, stopped

ROOT = Path(__file__).parents[3]
NAMES = "category_id,category_level1,category_level2,category_level3\n"


def run(
    folder: Path,
    *dumps: Path,
    categories: Path | None = None,
    jobs: int = 1,
    config: CatalogConfig | None = None,
) -> IngestSummary:
    """Ingests into `folder`/store.sqlite, also what a damaged file still has."""
    return ingest_dump(
        folder / "store.sqlite",
        dumps,
        categories,
        config or CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=jobs,
        accept_damage=True,
    )


def rows(folder: Path, query: str, *parameters: object) -> list[tuple]:
    with sqlite3.connect(folder / "store.sqlite") as connection:
        return connection.execute(query, parameters).fetchall()


def blank(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 40, 90)).save(out, "PNG")
    return out.getvalue()


def fingerprint(folder: Path) -> str:
    return Store(folder / "store.sqlite").fingerprint


def in_fork(work: Callable[[], object], workers: list[int] | None = None) -> int:
    """Runs `work` in a forked process; its exit status as os.waitpid gives it. One that stops
    itself is killed, and the pids of its own workers are added to `workers`."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if stopped(child):
        workers += workers_of(child)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def workers_of(pid: int) -> list[int]:
    """The decoding processes of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"LokyProcess" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- sameness


def test_the_same_dump_in_any_order_gives_the_same_store(
    small_dump: SmallDump, small_store: Store, tmp_path: Path
) -> None:
    parts = [d.data for d in documents(expand([small_dump.path])[0])]
    random.Random(1).shuffle(parts)
    whole, zipped = write_bson(tmp_path / "whole.bson", parts), tmp_path / "b.bson.gz"
    half = write_bson(tmp_path / "a.bson", parts[:50])
    zipped.write_bytes(gzip.compress(b"".join(parts[50:])))
    for number, dumps in enumerate(([whole], [half, zipped], [zipped, half])):
        run(tmp_path / str(number), *dumps, categories=small_dump.categories)
        assert fingerprint(tmp_path / str(number)) == small_store.fingerprint
        store = Store(tmp_path / str(number) / "store.sqlite")
        ids = small_store.images().image_id
        assert store.images().image_id.tolist() == ids.tolist()
        assert store.read(ids) == small_store.read(ids)


def test_two_processes_give_the_same_store(
    small_dump: SmallDump, small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog.store.checker, "_CHUNK_BYTES", 5_000)
    summary = run(tmp_path, small_dump.path, categories=small_dump.categories, jobs=2)
    assert fingerprint(tmp_path) == small_store.fingerprint
    assert summary.images == 208
    assert (
        rows(tmp_path, "SELECT sum(length(data)) FROM blobs")
        == small_store.connection.execute("SELECT sum(length(data)) FROM blobs").fetchall()
    )


def test_another_seed_or_content_gives_another_store(
    small_dump: SmallDump, small_store: Store, tmp_path: Path
) -> None:
    run(
        tmp_path / "a",
        small_dump.path,
        categories=small_dump.categories,
        config=CatalogConfig(seed=1),
    )
    parts = [d.data for d in documents(expand([small_dump.path])[0])]
    run(
        tmp_path / "b",
        write_bson(tmp_path / "b.bson", parts[:-1]),
        categories=small_dump.categories,
    )
    assert (
        len({small_store.fingerprint, fingerprint(tmp_path / "a"), fingerprint(tmp_path / "b")})
        == 3
    )


def test_ingesting_twice_changes_nothing(small_dump: SmallDump, tmp_path: Path) -> None:
    first = run(tmp_path, small_dump.path, categories=small_dump.categories)
    before = (tmp_path / "store.sqlite").read_bytes()
    again = run(tmp_path, small_dump.path, categories=small_dump.categories)
    assert (tmp_path / "store.sqlite").read_bytes() == before
    assert (first.changed, again.changed) == (True, False)
    assert (first.copied, again.copied) == (first.products, 0)
    now = {"changed": None, "copied": None}
    assert first.to_json() | now == again.to_json() | now
    moved = write_bson(tmp_path / "elsewhere.bson", [small_dump.path.read_bytes()])
    assert not run(tmp_path, moved, categories=small_dump.categories).changed
    assert (tmp_path / "store.sqlite").read_bytes() == before


# --- kills

Statement = tuple[str, int]  # the beginning of an SQL statement, and its how-manieth


def statements(
    work: Callable[[], object], monkeypatch: pytest.MonkeyPatch, kill: Statement | None = None
) -> list[str]:
    """Runs `work` with small transactions and returns its SQL statements; kills the process before
    the one at `kill`."""
    seen: list[str] = []

    def note(statement: str) -> None:
        seen.append(statement.strip())
        if (
            kill
            and seen[-1].startswith(kill[0])
            and sum(s.startswith(kill[0]) for s in seen) == kill[1]
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    original = catalog.store.ingest.open_for_writing

    def opened(path: Path) -> sqlite3.Connection:
        connection = original(path)
        connection.set_trace_callback(note)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(catalog.store.ingest, "open_for_writing", opened)
        patch.setattr(catalog.store.writer, "_COMMIT_BYTES", 30_000)
        patch.setattr(catalog.store.checker, "_CHUNK_BYTES", 10_000)
        work()
    return seen


def kill_and_resume(
    small_dump: SmallDump, folder: Path, moments: list[Statement], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Kills an ingest at these moments, one after the other, then lets it finish; the last run's
    statements."""

    def work() -> IngestSummary:
        return run(folder, small_dump.path, categories=small_dump.categories)

    for moment in moments:
        status = in_fork(lambda moment=moment: statements(work, monkeypatch, moment))
        assert status == signal.SIGKILL
        with pytest.raises(ArtifactError, match="step ingest"):
            Store(folder / "store.sqlite").images()
    return statements(work, monkeypatch)


def test_killed_three_times_and_resumed_is_the_same_store(
    small_dump: SmallDump, small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [("INSERT INTO products", 40), ("INSERT INTO blobs", 90), ("INSERT INTO blobs", 60)]
    last = kill_and_resume(small_dump, tmp_path, moments, monkeypatch)
    assert fingerprint(tmp_path) == small_store.fingerprint
    copied = sum(s.startswith("INSERT INTO blobs") for s in last)
    assert 0 < copied < 120  # of 208 images: what was committed is not copied again
    assert rows(tmp_path, "SELECT state FROM dumps") == [("complete",)]
    assert not (tmp_path / "store.sqlite-journal").exists()


@pytest.mark.parametrize(
    "moment",
    [
        ("BEGIN", 1),
        ("CREATE TABLE products", 1),
        ("INSERT INTO categories", 6),
        ("BEGIN", 2),
        ("INSERT OR REPLACE INTO dumps", 1),
        ("COMMIT", 2),
        ("UPDATE products SET state = 'kept'", 1),
        ("COMMIT", 4),
        ("UPDATE products SET state = 'kept'", 120),
        ("WITH copies", 1),
        ("INSERT OR REPLACE INTO meta", 1),
        ("UPDATE dumps", 1),
    ],
)
def test_killed_at_any_stage_and_resumed_is_the_same_store(
    small_dump: SmallDump,
    small_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Statement,
) -> None:
    kill_and_resume(small_dump, tmp_path, [moment], monkeypatch)
    assert fingerprint(tmp_path) == small_store.fingerprint


def test_another_dump_waits_for_the_unfinished_one(
    small_dump: SmallDump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> IngestSummary:
        return run(tmp_path, small_dump.path, categories=small_dump.categories)

    assert (
        in_fork(lambda: statements(work, monkeypatch, ("INSERT INTO blobs", 100))) == signal.SIGKILL
    )
    other = write_bson(tmp_path / "other.bson", [document(900_000, 1, [jpeg(1)])])
    with pytest.raises(
        ShelfsortError, match=r"the ingest of .*train\.bson is unfinished.*step ingest"
    ):
        run(tmp_path, other, categories=small_dump.categories)
    with pytest.raises(ArtifactError, match=r"train\.bson was interrupted|is unfinished"):
        Store(tmp_path / "store.sqlite").images()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("jobs, wanted", [(1, 25), (2, 8)])
def test_kills_at_random_moments_leave_the_same_store_and_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, wanted: int
) -> None:
    monkeypatch.setattr(catalog.store.writer, "_COMMIT_BYTES", 100_000)
    monkeypatch.setattr(catalog.store.checker, "_CHUNK_BYTES", 20_000)
    spec = SyntheticSpec(categories=12, products=2000, side=32, seed=3)
    write_dump(tmp_path / "a.bson", spec)
    write_categories(tmp_path / "names.csv", spec)

    def work(name: str) -> IngestSummary:
        return run(
            tmp_path / name, tmp_path / "a.bson", categories=tmp_path / "names.csv", jobs=jobs
        )

    def until(moment: Moment) -> None:
        with moment.watched():
            work("killed")

    whole, rng, workers, kills = Moment(), random.Random(4), [], 0
    with whole.watched():
        work("whole")
    for _ in range(
        2 * wanted
    ):  # one that goes on after a kill may end before its moment; the next then starts over
        if kills == wanted:
            break
        moment = Moment(rng.randint(1, whole.calls * 9 // 10), delay=rng.choice([0, 0.002]))
        if in_fork(partial(until, moment), workers) == signal.SIGKILL:
            kills += 1
        else:
            assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert kills == wanted
    work("killed")
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, workers))
    assert bool(workers) == (jobs > 1)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog.store.checker, "_CHUNK_BYTES", 20_000)
    spec = SyntheticSpec(categories=12, products=3000, side=32, seed=3)
    write_dump(tmp_path / "a.bson", spec)
    write_categories(tmp_path / "names.csv", spec)

    others = set(workers_of(os.getpid()))  # joblib keeps those of earlier tests

    def shoot() -> None:
        os.kill((set(workers_of(os.getpid())) - others).pop(), signal.SIGKILL)

    with (
        pytest.raises(ShelfsortError, match=r"a worker process died.*what was committed is kept"),
        Moment(500, "_write_product").watched(shoot),
    ):
        run(tmp_path, tmp_path / "a.bson", categories=tmp_path / "names.csv", jobs=2)
    assert run(tmp_path, tmp_path / "a.bson", categories=tmp_path / "names.csv").products == 3000


# --- what is left out


def test_rejects_have_their_reason_and_place(tmp_path: Path) -> None:
    good = [document(i, 1 + i % 2) for i in range(8)]
    bad = [
        document(20, 99),
        {"_id": 21, "imgs": [{"picture": jpeg(21)}]},
        document(22, "shoes"),
        document(23, 1, []),
        document(24, 1, [b"text", b"", jpeg(24), jpeg(25)[:-60]]),
        {"_id": 25, "category_id": 1, "imgs": [{}]},
        bson.encode(document(26, 1))[:4] + b"\x77" * (len(bson.encode(document(26, 1))) - 4),
    ]
    dump = write_bson(tmp_path / "a.bson", [*good, *bad, b"\x01\x02"])
    (tmp_path / "names.csv").write_text(NAMES + "1,a,b,c\n2,a,b,d\n")
    ignored: list[DumpError] = []
    starts = [d.offset for d in documents(expand([dump])[0], ignored.append)]
    starts.append(dump.stat().st_size - 2)
    summary = run(tmp_path, dump, categories=tmp_path / "names.csv")
    found = rows(
        tmp_path,
        "SELECT offset, position, product_id, reason FROM rejects WHERE source = ? ORDER BY 1, 2",
        str(dump),
    )
    assert found == [
        (starts[8], -1, 20, "unknown_category"),
        (starts[9], -1, 21, "unknown_category"),
        (starts[10], -1, 22, "unknown_category"),
        (starts[11], -1, 23, "no_images"),
        (starts[12], 0, 24, "not_an_image"),
        (starts[12], 1, 24, "empty"),
        (starts[12], 3, 24, "undecodable"),
        (starts[13], 0, 25, "no_picture"),
        (starts[14], -1, -1, "corrupt"),
        (starts[15], -1, -1, "truncated"),
    ]
    assert summary.rejects == {
        "unknown_category": 3,
        "corrupt": 1,
        "empty": 1,
        "no_images": 1,
        "no_picture": 1,
        "not_an_image": 1,
        "truncated": 1,
        "undecodable": 1,
    }
    assert (summary.products, summary.images) == (
        10,
        13,
    )  # in the plan: 8 good ones, and 24 and 25 whose images are bad
    assert sum(k["images"] for k in summary.kept.values()) == 9
    details = dict(
        rows(tmp_path, "SELECT product_id, detail FROM rejects WHERE reason = 'unknown_category'")
    )
    assert details == {
        20: "category_id 99 is not in the taxonomy",
        21: "category_id is missing",
        22: "category_id is no integer from 0 to 2^63 - 1, and no name of a category",
    }


def test_half_a_dump_makes_and_removes_no_store_until_its_damage_is_accepted(
    tmp_path: Path,
) -> None:
    cut = write_bson(tmp_path / "a.bson", [document(i, 1) for i in range(9)])
    cut.write_bytes(cut.read_bytes()[:-5])
    made = partial(
        ingest_dump,
        tmp_path / "store.sqlite",
        [cut],
        None,
        CatalogConfig(),
        index_folder=tmp_path / "dumps",
        jobs=1,
    )
    with pytest.raises(DamagedSourceError, match="8 products can be read"):
        made()
    assert not (tmp_path / "store.sqlite").exists()
    assert made(accept_damage=True).rejects == {"truncated": 1}
    before = fingerprint(tmp_path)
    with pytest.raises(DamagedSourceError):
        made(rebuild=True)
    assert fingerprint(tmp_path) == before


def test_one_id_twice(tmp_path: Path) -> None:
    """The same content counts once; of different content the lower digest is kept, whatever its
    position in the dump."""
    twins = [document(1, 1), document(1, 1)]
    rivals = [document(2, 1, [jpeg(i)]) for i in (50, 51, 52)]
    others = [document(i, 1) for i in range(10, 14)]
    outcomes = set()
    for number, order in enumerate(([0, 1, 2], [2, 1, 0], [1, 2, 0])):
        parts = [twins[0], *others, *(rivals[i] for i in order), twins[1]]
        dump = write_bson(tmp_path / f"{number}.bson", parts)
        summary = run(tmp_path / str(number), dump)
        assert (summary.products, summary.images, summary.rejects) == (
            6,
            6,
            {"conflicting_product": 2},
        )
        index = build_index([dump])
        standing = min(
            int(d)
            for i, d in zip(index.product_id, index.digest.astype(np.int64), strict=True)
            if i == 2
        )
        assert rows(tmp_path / str(number), "SELECT digest FROM products WHERE product_id = 2") == [
            (standing,)
        ]
        outcomes.add(fingerprint(tmp_path / str(number)))
    assert len(outcomes) == 1
    many = [document(2, 1, [jpeg(i)]) for i in range(60, 80)]
    later = write_bson(tmp_path / "later.bson", [*many, others[0]])
    assert run(tmp_path / "0", later).products == 6  # what the store has stands, against 20 others
    assert rows(tmp_path / "0", "SELECT digest FROM products WHERE product_id = 2") == [(standing,)]


def test_a_dump_with_other_rows_than_its_index_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump that is rewritten between the scan and the copy, in place and with the same time
    stamp."""
    dump = write_bson(tmp_path / "a.bson", [document(i, 1, [jpeg(i)]) for i in range(20)])
    status = dump.stat()

    def meddle(*arguments: object, **options: object) -> object:
        data = bytearray(dump.read_bytes())
        data[status.st_size // 2] ^= 1
        dump.write_bytes(data)
        os.utime(dump, ns=(status.st_atime_ns, status.st_mtime_ns))
        return original(*arguments, **options)

    original = catalog.store.writer.checked_chunks
    monkeypatch.setattr(catalog.store.writer, "checked_chunks", meddle)
    with pytest.raises(DumpError, match="not the document that was indexed"):
        run(tmp_path, dump)


def test_an_unlabelled_dump_makes_no_store(tmp_path: Path) -> None:
    dump = write_bson(tmp_path / "test.bson", [{"_id": 1, "imgs": [{"picture": jpeg(1)}]}])
    with pytest.raises(ShelfsortError, match=r"test\.bson: no product has a category_id"):
        run(tmp_path, dump)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], "expected at least one product, found none"),
        (
            [random.Random(0).randbytes(3000)],
            r"at byte 0: .* no product can be read \(bad_length 1",
        ),
        (
            [{"_id": 1, "imgs": [{"picture": jpeg(1)}]}, document(2, 7)],
            "expected products of the known categories, found none: 1 without category_id, "
            "1 of unknown categories",
        ),
    ],
)
def test_a_dump_without_a_known_category_is_refused(
    tmp_path: Path, content: list, found: str
) -> None:
    """No store is made of it, nothing is added to one, and none is removed for it."""
    (tmp_path / "names.csv").write_text(NAMES + "1,a,b,c\n")
    wrong, good = (
        write_bson(tmp_path / f"{name}.bson", c)
        for name, c in (("wrong", content), ("good", [document(1, 1)]))
    )
    expected = rf"wrong\.bson: {found}"
    with pytest.raises(ShelfsortError, match=expected):
        run(tmp_path, wrong, categories=tmp_path / "names.csv")
    assert not (tmp_path / "store.sqlite").exists()
    run(tmp_path, good, categories=tmp_path / "names.csv")
    before = fingerprint(tmp_path), rows(tmp_path, "SELECT * FROM dumps")
    for rebuild in (False, True):
        with pytest.raises(ShelfsortError, match=expected):
            ingest_dump(
                tmp_path / "store.sqlite",
                [wrong],
                tmp_path / "names.csv",
                CatalogConfig(),
                index_folder=tmp_path / "dumps",
                jobs=1,
                rebuild=rebuild,
            )
        assert (fingerprint(tmp_path), rows(tmp_path, "SELECT * FROM dumps")) == before


def test_without_names_the_ids_are_the_taxonomy_in_ascending_order(tmp_path: Path) -> None:
    dump = write_bson(tmp_path / "a.bson", [document(i, c) for i, c in enumerate((30, 10, 20, 10))])
    assert run(tmp_path, dump).categories == 3
    assert Store(tmp_path / "store.sqlite").taxonomy.category_ids.tolist() == [10, 20, 30]
    run(tmp_path, write_bson(tmp_path / "b.bson", [document(9, 15), document(10, 10)]))
    assert Store(tmp_path / "store.sqlite").taxonomy.category_ids.tolist() == [10, 20, 30]
    assert rows(tmp_path, "SELECT product_id, reason FROM rejects") == [(9, "unknown_category")]


def test_a_first_ingest_looks_for_its_files_once(
    small_dump: SmallDump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(function: Callable) -> Callable:
        def call(*arguments: object) -> object:
            calls.append(function.__name__)
            return function(*arguments)

        return call

    monkeypatch.setattr(catalog.sources.dump_index, "expand", counted(expand))
    monkeypatch.setattr(Taxonomy, "from_csv", counted(Taxonomy.from_csv))
    run(tmp_path, small_dump.path, categories=small_dump.categories)
    assert sorted(calls) == ["expand", "from_csv"]


def test_10000_images_in_one_product(tmp_path: Path) -> None:
    pictures = [jpeg(i, 8) for i in range(20)]
    dump = write_bson(
        tmp_path / "a.bson", [document(1, 1, (pictures[i % 20] for i in range(10_000)))]
    )
    summary = run(tmp_path, dump)
    assert (summary.images, summary.duplicate_images, summary.rejects) == (10_000, 9_980, {})
    assert Store(tmp_path / "store.sqlite").images().image_id[-1] == POSITIONS + 9_999


# --- later dumps and caps


def test_a_later_dump_moves_no_product(tmp_path: Path) -> None:
    first = write_bson(tmp_path / "a.bson", [document(i, 1 + i % 3) for i in range(90)])
    second = write_bson(tmp_path / "b.bson", [document(i, 1 + i % 3) for i in range(80, 200)])
    run(tmp_path, first)
    before = dict(rows(tmp_path, "SELECT product_id, split FROM products"))
    kept = rows(tmp_path, "SELECT image_id, digest FROM images ORDER BY 1")
    summary = run(tmp_path, second)
    after = dict(rows(tmp_path, "SELECT product_id, split FROM products"))
    assert summary.products == 200 and len(before) == 90
    assert {i: after[i] for i in before} == before
    assert set(kept) <= set(rows(tmp_path, "SELECT image_id, digest FROM images"))
    both = {split: sum(s == split for s in after.values()) for split in SPLITS}
    assert (
        both["test"] == both["reserve"] == both["val_a"] + both["val_b"] == 21
    )  # a tenth of 67, of 67 and of 66
    assert not run(tmp_path, first).changed
    run(tmp_path / "other", first)
    run(tmp_path / "other", second, jobs=1)
    assert fingerprint(tmp_path / "other") == fingerprint(tmp_path)


def test_caps_take_whole_products_and_the_rest_still_counts(tmp_path: Path) -> None:
    dump = write_bson(
        tmp_path / "a.bson",
        [document(i, 1 + i % 2, [jpeg(4 * i + j) for j in range(1 + i % 3)]) for i in range(160)],
    )
    config = CatalogConfig(caps=Caps(train=20, test=5))
    summary = run(tmp_path, dump, config=config)
    train = rows(
        tmp_path,
        """SELECT class_index, state, count(*), sum(n_images) FROM products
                              WHERE split = 'train' GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    assert [(c, s) for c, s, _, _ in train] == [
        (0, "dropped"),
        (0, "kept"),
        (1, "dropped"),
        (1, "kept"),
    ]
    assert all(18 <= images <= 20 for _, state, _, images in train if state == "kept")
    assert (
        summary.dropped_products
        == rows(tmp_path, "SELECT count(*) FROM products WHERE state = 'dropped'")[0][0]
    )
    query = (
        "SELECT product_id FROM products WHERE split = 'train' AND class_index = ? AND state = ?"
    )
    for class_index in (0, 1):
        kept, dropped = (
            np.ravel(rows(tmp_path, query, class_index, state)) for state in ("kept", "dropped")
        )
        assert product_hash(kept, 0).max() < product_hash(dropped, 0).min()
    store = Store(tmp_path / "store.sqlite")
    run(tmp_path / "all", dump)
    whole = Store(tmp_path / "all" / "store.sqlite")
    for unit in ("image", "product"):
        assert store.natural_counts(unit).tolist() == whole.natural_counts(unit).tolist()
    assert len(store.images("val_a", "val_b", "reserve")) == len(
        whole.images("val_a", "val_b", "reserve")
    )
    assert len(store.images("test")) <= 10


def test_a_later_dump_pushes_products_out_and_never_brings_one_back(tmp_path: Path) -> None:
    config = CatalogConfig(caps=Caps(train=15))
    dropped: set[int] = set()
    for number in range(4):
        dump = write_bson(
            tmp_path / f"{number}.bson", [document(100 * number + i, 1) for i in range(30)]
        )
        run(tmp_path, dump, config=config)
        now = {
            i for (i,) in rows(tmp_path, "SELECT product_id FROM products WHERE state = 'dropped'")
        }
        assert dropped <= now
        dropped = now
        assert rows(tmp_path, "SELECT count(*) FROM images WHERE split = 'train'") == [(15,)]
        assert rows(tmp_path, "SELECT count(*) FROM images") == rows(
            tmp_path, "SELECT count(*) FROM blobs"
        )
    assert not {i // POSITIONS for (i,) in rows(tmp_path, "SELECT image_id FROM images")} & dropped
    assert len(dropped) == 120 - 36 - 15


def of_products(folder: Path, column: str) -> dict[int, str]:
    """A column of the products, by id."""
    return dict(rows(folder, f"SELECT product_id, {column} FROM products"))


def test_extra_takes_what_the_cap_of_train_cuts_and_moves_nothing_else(tmp_path: Path) -> None:
    docs = [document(i, 1 + i % 2, [jpeg(4 * i + j) for j in range(1 + i % 3)]) for i in range(160)]
    dump = write_bson(tmp_path / "a.bson", docs)
    run(tmp_path / "without", dump, config=CatalogConfig(caps=Caps(train=20, test=5)))
    config = CatalogConfig(caps=Caps(train=20, test=5, extra=12))
    summary = run(tmp_path, dump, config=config)
    images = "SELECT image_id, split, status, digest FROM images WHERE split != 'extra' ORDER BY 1"
    assert rows(tmp_path, images) == rows(tmp_path / "without", images)
    store, without = (Store(f / "store.sqlite") for f in (tmp_path, tmp_path / "without"))
    store.verify()
    for unit in ("image", "product"):
        assert store.natural_counts(unit).tolist() == without.natural_counts(unit).tolist()
    query = """SELECT product_id FROM products WHERE class_index = ? AND split = ? AND state = ?"""
    for class_index in (0, 1):
        kept, extra, dropped = (
            np.ravel(rows(tmp_path, query, class_index, *place))
            for place in (("train", "kept"), ("extra", "kept"), ("train", "dropped"))
        )
        assert product_hash(kept, 0).max() < product_hash(extra, 0).min()
        assert product_hash(extra, 0).max() < product_hash(dropped, 0).min()
        left_out = rows(tmp_path / "without", query, class_index, "train", "dropped")
        assert set(np.ravel(left_out)) == {*extra, *dropped}
    assert all(10 <= n <= 12 for n in store.image_counts("extra"))
    assert summary.kept["extra"]["fit"] == len(store.images("extra")) > 0
    assert rows(tmp_path, "SELECT 1 FROM products WHERE split = 'test' AND state = 'dropped'")


def test_without_a_cap_extra_takes_all_that_train_leaves(tmp_path: Path) -> None:
    dump = write_bson(tmp_path / "a.bson", [document(i, 1) for i in range(60)])
    summary = run(tmp_path, dump, config=CatalogConfig(caps=Caps(train=10, extra=None)))
    kept = {split: n["products"] for split, n in summary.kept.items()}
    assert kept == {"train": 10, "reserve": 6, "val_a": 3, "val_b": 3, "test": 6, "extra": 32}
    assert not summary.dropped_products


def test_later_dumps_move_products_from_train_to_extra_and_out(tmp_path: Path) -> None:
    config, before = CatalogConfig(caps=Caps(train=15, extra=10)), dict[int, tuple[str, str]]()
    allowed = {("train", "kept"): 0, ("extra", "kept"): 1, ("train", "dropped"): 2}
    allowed[("extra", "dropped")] = 2
    for number in range(4):
        docs = [document(100 * number + i, 1) for i in range(30)]
        run(tmp_path, write_bson(tmp_path / f"{number}.bson", docs), config=config)
        split, state = of_products(tmp_path, "split"), of_products(tmp_path, "state")
        now = {i: (split[i], state[i]) for i in split}
        for i, place in before.items():
            moved = place in allowed and allowed[now[i]] >= allowed[place]
            assert moved or now[i] == place
        before = now
        Store(tmp_path / "store.sqlite").verify()
    images = dict(rows(tmp_path, "SELECT split, count(*) FROM images GROUP BY 1"))
    assert images == {"train": 15, "extra": 10, "reserve": 12, "val_a": 6, "val_b": 6, "test": 12}
    order = sorted((int(product_hash(np.array([i]), 0)[0]), i) for i in now if now[i] in allowed)
    assert [now[i] for _, i in order[:25]] == [("train", "kept")] * 15 + [("extra", "kept")] * 10
    assert {now[i][1] for _, i in order[25:]} == {"dropped"}


def test_a_product_that_moves_to_extra_loses_the_right_to_a_picture(tmp_path: Path) -> None:
    config = CatalogConfig(caps=Caps(train=20, extra=None))
    docs = [document(i, 1 + i // 60) for i in range(85)]
    run(tmp_path / "plain", write_bson(tmp_path / "a.bson", docs), config=config)
    split, hashed = of_products(tmp_path / "plain", "split"), product_hash(np.arange(85), 0)
    by_hash = np.argsort(hashed).tolist()
    extra = next(i for i in by_hash if split[i] == "extra")
    train = next(i for i in reversed(by_hash) if split[i] == "train" and i >= 60)
    assert hashed[extra] < hashed[train]  # so that it has the right as long as both are in train
    docs[train] = document(train, 2, [jpeg(extra)])
    query = "SELECT product_id, split, status FROM images WHERE product_id IN (?, ?) ORDER BY 1"
    pair = [docs[extra], docs[train]]
    run(tmp_path, write_bson(tmp_path / "b.bson", pair), config=config)
    assert rows(tmp_path, query, extra, train) == [
        (extra, "train", "ok"),
        (train, "train", "duplicate"),
    ]
    run(tmp_path, write_bson(tmp_path / "c.bson", docs), config=config)
    assert rows(tmp_path, query, extra, train) == [
        (extra, "extra", "duplicate"),
        (train, "train", "ok"),
    ]


# --- duplicates and blank images


def planned(count: int) -> dict[str, list[int]]:
    """The product ids 0 .. count-1 of one category, by the split that they are dealt to, in the
    order of their hash."""
    ids = np.arange(count)
    split = deal(np.zeros(count, int), ids, np.zeros((1, 5), np.int64), 0)
    order = np.argsort(product_hash(ids, 0))
    return {name: [int(i) for i in order if split[i] == k] for k, name in enumerate(SPLITS)}


def test_of_identical_images_the_side_with_precedence_keeps_the_right_to_be_fitted(
    tmp_path: Path,
) -> None:
    ids = np.arange(720)  # of 60 categories, so that a winner's hash may be above the loser's
    split, hashed = deal(ids // 12, ids, np.zeros((60, 5), np.int64), 0), product_hash(ids, 0)
    free = {
        name: sorted(ids[split == k].tolist(), key=hashed.__getitem__)
        for k, name in enumerate(SPLITS)
    }
    ranks = ("test", "val_b", "val_a", "reserve", "train")
    pairs = [
        (free[higher].pop(), free[lower].pop(0))
        for i, higher in enumerate(ranks)
        for lower in ranks[i + 1 :]
    ]
    assert all(hashed[winner] > hashed[loser] for winner, loser in pairs)
    for name in ranks:  # within a side the lower hash, which here is the higher id
        place = next(i for i in range(len(free[name])) if free[name][i] > free[name][i + 1])
        pairs.append((free[name].pop(place), free[name].pop(place)))
    images = {i: [jpeg(i)] for i in range(720)}
    for number, (winner, loser) in enumerate(pairs):
        images[winner] = images[loser] = [jpeg(1000 + number)]
    for name in ranks:
        images[free[name][2]].append(jpeg(2000))  # one picture on all five sides
    twice = free["train"][5]
    images[twice] += [jpeg(3000), jpeg(3000)]
    dump = write_bson(
        tmp_path / "a.bson", [document(i, i // 12, data) for i, data in images.items()]
    )
    summary = run(tmp_path, dump)
    expected = {loser * POSITIONS: winner * POSITIONS for winner, loser in pairs}
    expected |= {
        free[name][2] * POSITIONS + 1: free["test"][2] * POSITIONS + 1 for name in ranks[1:]
    }
    expected[twice * POSITIONS + 2] = twice * POSITIONS + 1
    assert (
        dict(rows(tmp_path, "SELECT image_id, duplicate_of FROM images WHERE status = 'duplicate'"))
        == expected
    )
    assert summary.duplicate_images == len(expected) == 20
    store = Store(tmp_path / "store.sqlite")
    table = store.images()
    assert set(table.image_id[~table.fit].tolist()) == set(expected)
    assert on_two_sides(store) == {"products": 0, "pictures": 0, "strays": 0}
    assert sum(k["fit"] for k in summary.kept.values()) == len(table) - 20


def test_keep_fits_every_copy(small_dump: SmallDump, tmp_path: Path) -> None:
    summary = run(
        tmp_path,
        small_dump.path,
        categories=small_dump.categories,
        config=CatalogConfig(duplicates="keep"),
    )
    store = Store(tmp_path / "store.sqlite")
    assert summary.duplicate_images == 0
    assert store.images().fit.all()
    assert on_two_sides(store)["pictures"] > 0  # the check can fail
    assert on_two_sides(store)["products"] == 0


def test_a_later_dump_may_take_the_right_from_an_earlier_copy(tmp_path: Path) -> None:
    by_split = planned(40)
    train, test = by_split["train"][0], by_split["test"][0]
    first = [document(i, 1) for i in range(40)]
    run(tmp_path, write_bson(tmp_path / "a.bson", first))
    later = [document(100 + i, 1, [jpeg(train), jpeg(test)]) for i in range(40)]
    run(tmp_path, write_bson(tmp_path / "b.bson", later))
    store = Store(tmp_path / "store.sqlite")
    assert on_two_sides(store) == {"products": 0, "pictures": 0, "strays": 0}
    query = """SELECT split FROM images WHERE status = 'ok'
               AND digest = (SELECT digest FROM images WHERE image_id = ?)"""
    assert rows(tmp_path, query, train * POSITIONS) == [("test",)]
    assert rows(tmp_path, "SELECT status FROM images WHERE image_id = ?", train * POSITIONS) == [
        ("duplicate",)
    ]


def test_what_a_cap_drops_keeps_no_right(tmp_path: Path) -> None:
    """A picture whose fitted copy is pushed out by a later dump may be fitted in another product
    again."""
    by_split = planned(60)
    keeper, copy = by_split["test"][-1], by_split["train"][0]
    config = CatalogConfig(caps=Caps(test=len(by_split["test"])))
    first = [document(i, 1, [jpeg(keeper if i == copy else i)]) for i in range(60)]
    query = "SELECT status, duplicate_of FROM images WHERE product_id = ?"
    run(tmp_path, write_bson(tmp_path / "a.bson", first), config=config)
    assert rows(tmp_path, query, copy) == [("duplicate", keeper * POSITIONS)]
    run(
        tmp_path,
        write_bson(tmp_path / "b.bson", [document(100 + i, 1) for i in range(400)]),
        config=config,
    )
    assert rows(tmp_path, query, keeper) == []
    assert rows(tmp_path, query, copy) == [("ok", None)]
    assert Store(tmp_path / "store.sqlite").images().fit.all()


def test_undecodable_images_are_rejected_or_kept_marked_and_never_used(tmp_path: Path) -> None:
    broken = {2: jpeg(2)[:300], 3: b"no image", 4: b""}
    parts = [document(i, 1, [broken.get(i, jpeg(i))]) for i in range(20)]
    dump = write_bson(tmp_path / "dump.bson", parts)
    summary = run(tmp_path / "on", dump)
    assert (summary.undecodable_images, sum(summary.rejects.values())) == (0, 3)
    summary = run(tmp_path / "off", dump, config=CatalogConfig(drop_undecodable=False))
    assert (summary.undecodable_images, summary.rejects) == (2, {"empty": 1})
    store = Store(tmp_path / "off" / "store.sqlite")
    assert store.read([2 * POSITIONS, 3 * POSITIONS]) == [broken[2], broken[3]]
    assert len(store.images()) == sum(n["images"] for n in summary.kept.values()) == 17


def test_blank_images_are_kept_and_not_used_and_no_duplicates(tmp_path: Path) -> None:
    parts = [document(i, 1, [jpeg(i), blank(7)]) for i in range(20)]
    dump = write_bson(tmp_path / "a.bson", parts)
    summary = run(tmp_path, dump)
    assert (summary.images, summary.blank_images, summary.duplicate_images) == (40, 20, 0)
    assert sum(k["images"] for k in summary.kept.values()) == 20
    store = Store(tmp_path / "store.sqlite")
    assert len(store.images()) == 20
    assert len(store.sharing()) == 0
    assert store.read([1]) == [blank(7)]
    summary = run(tmp_path / "off", dump, config=CatalogConfig(drop_blank=False))
    assert (summary.blank_images, summary.duplicate_images) == (0, 19)


def test_the_other_rules_count_what_they_leave_out(tmp_path: Path) -> None:
    dump = write_bson(
        tmp_path / "a.bson", [document(i, 1, [jpeg(i, 16 + 8 * (i % 2))]) for i in range(20)]
    )
    assert run(tmp_path / "a", dump, config=CatalogConfig(max_side=20)).rejects == {"too_long": 10}
    assert run(tmp_path / "b", dump, config=CatalogConfig(max_pixels=400)).rejects == {
        "too_large": 10
    }
    assert run(tmp_path / "c", dump).rejects == {}


# --- refusals


def test_other_settings_or_names_are_refused_naming_what_differs(
    small_dump: SmallDump, tmp_path: Path
) -> None:
    run(tmp_path, small_dump.path, categories=small_dump.categories)
    before = (tmp_path / "store.sqlite").read_bytes()
    config = CatalogConfig(seed=3, caps=Caps(train=5))
    with pytest.raises(
        ArtifactError,
        match=r"settings\.caps\.train was None, is now 5; settings\.seed was 0, is now 3",
    ):
        run(tmp_path, small_dump.path, categories=small_dump.categories, config=config)
    lines = small_dump.categories.read_text().splitlines()
    (tmp_path / "names.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
    with pytest.raises(
        ArtifactError, match=r"store\.sqlite: made from something else: taxonomy was .*step ingest"
    ):
        run(tmp_path, small_dump.path, categories=tmp_path / "names.csv")
    assert (tmp_path / "store.sqlite").read_bytes() == before


@pytest.mark.parametrize("content", [b"garbage " * 1000, b"SQLite format 3\0" + bytes(10_000)])
def test_what_is_no_store_is_not_written_to(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.sqlite").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not readable as a store.*step ingest"):
        run(tmp_path, write_bson(tmp_path / "a.bson", [document(1, 1)]))
    assert (tmp_path / "store.sqlite").read_bytes() == content


def test_a_store_of_another_schema_is_refused(tmp_path: Path) -> None:
    dump = write_bson(tmp_path / "a.bson", [document(1, 1)])
    run(tmp_path, dump)
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema'")
        connection.execute("DELETE FROM meta WHERE key = 'settings'")
    with pytest.raises(ArtifactError, match="schema was '7', is now '3'"):
        run(tmp_path, dump)


def test_texts_of_a_named_field_are_kept(tmp_path: Path) -> None:
    titles = {1: " A red cup ", 2: "", 3: 4711, 4: "Tasse à thé"}
    dump = write_bson(
        tmp_path / "a.bson", [document(i, 1, title=t) for i, t in titles.items()] + [document(5, 1)]
    )
    summary = run(tmp_path, dump, config=CatalogConfig(text="title"))
    assert summary.texts == 2
    ids = np.array([4, 5, 1, 3, 2])
    assert Store(tmp_path / "store.sqlite").texts(ids) == ["Tasse à thé", "", "A red cup", "", ""]
    run(tmp_path / "none", dump)
    assert Store(tmp_path / "none" / "store.sqlite").texts(ids) == [""] * 5
    with pytest.raises(ArtifactError, match=r"settings\.text was None, is now 'title'"):
        run(tmp_path / "none", dump, config=CatalogConfig(text="title"))


def test_a_store_of_the_first_schema_is_read_and_added_to(tmp_path: Path) -> None:
    dump, later = (
        write_bson(tmp_path / f"{i}.bson", [document(i, 1), document(i + 5, 1)]) for i in (1, 2)
    )
    run(tmp_path, dump)
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute("ALTER TABLE products DROP COLUMN text")
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
        settings = "json_remove(value, '$.text', '$.caps.extra')"
        connection.execute(f"UPDATE meta SET value = {settings} WHERE key = 'settings'")
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'content'", (content_of(connection),)
        )
    before = fingerprint(tmp_path)
    assert Store(tmp_path / "store.sqlite").texts(np.array([1, 6])) == ["", ""]
    assert not run(tmp_path, dump).changed and fingerprint(tmp_path) == before
    Store(tmp_path / "store.sqlite").verify()
    assert run(tmp_path, later).products == 4


@pytest.mark.parametrize("limit", [3_000, 40_000, 120_000])
def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(
    small_dump: SmallDump,
    small_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            statements(
                lambda: run(tmp_path, small_dump.path, categories=small_dump.categories),
                monkeypatch,
            )
        except ShelfsortError as error:
            if "can't be written" in str(error):
                os._exit(7)

    assert os.waitstatus_to_exitcode(in_fork(work)) == 7
    run(tmp_path, small_dump.path, categories=small_dump.categories)
    assert fingerprint(tmp_path) == small_store.fingerprint


# --- memory


def test_a_slow_writer_is_not_run_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader stays a few chunks ahead, however slow the writer is."""
    dump = write_bson(tmp_path / "a.bson", [document(i, 1, [jpeg(i, 8)]) for i in range(400)])
    source, taken, ahead = open_source([dump], tmp_path), 0, []
    read: list[int] = []
    original = DumpReader.product
    monkeypatch.setattr(
        DumpReader, "product", lambda self, *place: (read.append(1), original(self, *place))[1]
    )
    monkeypatch.setattr(catalog.store.checker, "_CHUNK_BYTES", 5 * int(source.length[0]))
    chunks = catalog.store.checker.checked_chunks(source, np.arange(400), CatalogConfig(), 2)
    for chunk in chunks:
        time.sleep(0.003)
        ahead.append(len(read) - taken)
        assert [checked.product.row for checked in chunk] == list(range(taken, taken + len(chunk)))
        taken += len(chunk)
    assert taken == 400
    assert max(ahead) < 60


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ten_times_the_dump_takes_less_than_a_fifth_more_memory(tmp_path: Path, jobs: int) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        status = Path("/proc/self/status")
        from catalog.config import CatalogConfig
        from catalog.store.ingest import ingest_dump
        folder = Path(sys.argv[1])
        store, jobs = folder / "store.sqlite", int(sys.argv[3])
        ingest_dump(store, [sys.argv[2]], None, CatalogConfig(), index_folder=folder, jobs=jobs)
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(status.read_text().split("VmHWM:")[1].split()[0], workers)
    """
    peaks = []
    for products in (2_000, 20_000):
        dump = tmp_path / f"{products}.bson"
        pictures = [jpeg(i, 180, quality=60) for i in range(50)]
        with open(dump, "wb") as file:
            for i in range(products):
                images = [
                    pictures[(i * 7 + j) % 50] + i.to_bytes(4, "little") for j in range(1 + i % 3)
                ]
                file.write(bson.encode(document(i, i % 40, images)))
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(script),
                tmp_path / str(products),
                dump,
                str(jobs),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append([int(x) for x in done.stdout.split()])
    index = 20_000 * 42 / 1024
    assert peaks[1][0] - index < 1.2 * peaks[0][0], peaks
    if jobs > 1:
        assert peaks[1][1] < 1.2 * peaks[0][1], peaks


# --- outside data


def test_cdiscounts_own_sample(tmp_path: Path) -> None:
    folder = outside_data("cdiscount")
    summary = run(tmp_path, folder / "train_example.bson", categories=folder / "category_names.csv")
    assert (summary.products, summary.images, summary.categories, summary.categories_in_use) == (
        82,
        110,
        5270,
        36,
    )
    assert (summary.rejects, summary.blank_images) == ({}, 0)
    assert sum(k["images"] for k in summary.kept.values()) == 110
    assert on_two_sides(Store(tmp_path / "store.sqlite")) == {
        "products": 0,
        "pictures": 0,
        "strays": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name, images", [("fashion", 37_384), ("photos100", 30_236)])
def test_real_catalogues_have_nothing_on_two_sides(tmp_path: Path, name: str, images: int) -> None:
    folder = outside_data(name)
    summary = run(tmp_path, folder / "train.bson", categories=folder / "category_names.csv", jobs=2)
    assert summary.images == images
    assert summary.rejects == {}
    assert on_two_sides(Store(tmp_path / "store.sqlite")) == {
        "products": 0,
        "pictures": 0,
        "strays": 0,
    }


def test_corrections_say_how_many_labels_they_changed(
    small_dump: SmallDump, tmp_path: Path
) -> None:
    """One label is corrected, one confirmed, one product unknown; once more changes nothing, and
    the label before stays known."""
    run(tmp_path, small_dump.path)
    uncorrected = Store(tmp_path / "store.sqlite")
    assert uncorrected.earlier_labels == []
    content = uncorrected.fingerprint
    labels = dict(rows(tmp_path, "SELECT product_id, class_index FROM products"))
    ids = Store(tmp_path / "store.sqlite").taxonomy.category_ids
    first, second = sorted(labels)[:2]
    old, other = int(ids[labels[first]]), int(ids[labels[first] - 1])
    corrections = {first: other, second: int(ids[labels[second]]), 10**9: other}

    def correct() -> IngestSummary:
        return ingest_dump(
            tmp_path / "store.sqlite",
            [small_dump.path],
            None,
            CatalogConfig(),
            index_folder=tmp_path / "dumps",
            jobs=1,
            corrections=corrections,
        )

    summary = correct()
    assert (summary.corrections, summary.corrected) == (2, 1)
    assert summary.labels_before == {first: old}
    (now,) = rows(tmp_path, "SELECT class_index FROM products WHERE product_id = ?", first)
    assert ids[now[0]] == other
    again = correct()
    assert (again.corrections, again.corrected, again.changed) == (2, 0, False)
    assert again.labels_before == {first: old}
    corrected = Store(tmp_path / "store.sqlite")
    assert corrected.earlier_labels == [content] != [corrected.fingerprint]


def test_a_dump_that_adds_products_has_no_earlier_labels(
    small_dump: SmallDump, tmp_path: Path
) -> None:
    """Pictures that came with a later dump were in none of the earlier stores."""
    run(tmp_path, small_dump.path)
    later = tmp_path / "later.bson"
    spec = replace(small_dump.spec, products=20, first_product_id=5000)
    write_dump(later, spec)
    (product_id,) = rows(tmp_path, "SELECT min(product_id) FROM products")[0]
    (other,) = rows(tmp_path, "SELECT max(category_id) FROM categories")[0]
    ingest_dump(
        tmp_path / "store.sqlite",
        [later],
        None,
        CatalogConfig(),
        index_folder=tmp_path / "dumps",
        jobs=1,
        corrections={product_id: other},
    )
    assert Store(tmp_path / "store.sqlite").earlier_labels == []
