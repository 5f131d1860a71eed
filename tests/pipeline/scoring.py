"""What the tests of scoring share: a dump in several parts, engines, and what a folder of predictions holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import dask
import pandas

from catalog.artifacts import sha256_file
from pipeline.cluster import ModelPlace, Workers, connect
from pipeline.config import ScoreConfig
from pipeline.engine import Engine, Lanes
from pipeline.predict import Model
from pipeline.score import Scorer, Totals
from pipeline.score import score as score_source
from pipeline.sources import open_source
from tests.pipeline.tiny import Tiny, documents, write_dump

CONFIG = ScoreConfig(part_mb=1, batch_size=50)
FALLBACK = 4242
POISON = b"this picture ends the process that decodes it"
PRELOAD = f'''
import os
from catalog.images import decode
from stage1_cnn import dataset

def deadly(data, **options):
    if {POISON!r} in data:
        os.abort()
    return decode(data, **options)

dataset.decode = deadly
'''


def scorer(tiny: Tiny, engine: Engine | Model, **checksums: str) -> Scorer:
    """What scores, with some checksums changed; a bare model scores in this process."""
    engine = Lanes(engine, 2) if isinstance(engine, Model) else engine
    return Scorer(engine, {"checkpoint": "c", "stage2": "s"} | checksums, FALLBACK, tiny.run.store.digests())


def score(by: Scorer, dumps: list[Path], out: Path, config: ScoreConfig = CONFIG) -> Totals:
    """Scores dumps."""
    return score_source(by, open_source(dumps, out / "dumps"), out, config)


def place(tiny: Tiny) -> ModelPlace:
    """Where workers find the model."""
    run = tiny.run
    sums = (sha256_file(run.checkpoint), sha256_file(run.stage2 / "manifest.json"))
    return ModelPlace(str(run.folder), *sums, "cpu", "fp32")


@contextlib.contextmanager
def workers(count: int, folder: Path) -> Iterator:
    """A client of worker processes that abort over a poisoned picture."""
    preload = folder / "preload.py"
    preload.write_text(PRELOAD)
    with dask.config.set({"distributed.worker.preload": [str(preload)], "temporary-directory": str(folder)}):
        with connect(count, None) as client:
            yield client


def on(client, tiny: Tiny, dump: Path, out: Path) -> Scorer:
    """A scorer on a cluster, for one dump."""
    return scorer(tiny, Workers(client, place(tiny), open_source([dump], out / "dumps").files))


def predictions(out: Path) -> pandas.DataFrame:
    """All parts."""
    return pandas.concat([pandas.read_parquet(p) for p in sorted(out.glob("part-*.parquet"))], ignore_index=True)


def rejects(out: Path) -> pandas.DataFrame:
    """All rejects."""
    return pandas.concat([pandas.read_parquet(p) for p in sorted(out.glob("rejects-*.parquet"))], ignore_index=True)


def contents(out: Path) -> dict[str, bytes]:
    """Everything that scoring wrote, but for the index and the lock."""
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.is_file() and p.name != "lock"}


def pad(document: dict) -> None:
    """Makes a document so large that a dump of them has several parts."""
    document["padding"] = b"x" * 20_000


def padded_dump(tiny: Tiny, path: Path) -> Path:
    """The tiny test dump in several parts."""
    write_dump(path, tiny.data / "test.bson", lambda d: True, pad)
    return path


def poisoned_dump(tiny: Tiny, path: Path, products: set[int]) -> Path:
    """The same, some products with a poisoned picture that decodes well elsewhere."""

    def change(document: dict) -> None:
        pad(document)
        if document["_id"] in products:
            picture = document["imgs"][0]["picture"]
            comment = b"\xff\xfe" + (len(POISON) + 2).to_bytes(2, "big") + POISON
            document["imgs"][0]["picture"] = picture[:2] + comment + picture[2:]

    write_dump(path, tiny.data / "test.bson", lambda d: True, change)
    return path


def ids(dump: Path) -> list[int]:
    """The product ids of a dump."""
    return [d["_id"] for d in documents(dump)]


def flip(path: Path) -> None:
    """Turns one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
