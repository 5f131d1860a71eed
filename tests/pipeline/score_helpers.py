"""What the tests of scoring share: a dump in several parts, engines, and what a folder of
predictions holds."""

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import dask
import numpy as np
import pandas

from catalog.artifacts import sha256_file
from catalog.sources.source import open_source
from pipeline.cluster.client import connect
from pipeline.config import ScoreConfig
from pipeline.decisions import heldout
from pipeline.model import TwoStageModel
from pipeline.scoring.lanes import Engine, Lanes
from pipeline.scoring.plan import DecisionInputs
from pipeline.scoring.score import Scorer, Totals, score_source
from pipeline.scoring.workers import DaskWorkers, ModelLocation
from tests.pipeline.tiny import Tiny, documents, same, write_dump

CONFIG = ScoreConfig(part_mb=1, batch_size=50)
FALLBACK = 4242
POISON = b"this picture ends the process that decodes it"
KILLS_ONCE = b"this picture ends the first process that decodes it"
PRELOAD = """
import hashlib, os, pathlib, signal
from catalog.images import decode
from stage1_cnn import dataset

def deadly(data, **options):
    if {poison!r} in data:
        os.abort()
    killed = pathlib.Path({folder!r}, hashlib.sha256(data).hexdigest() + ".killed")
    if {kills_once!r} in data and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, **options)

dataset.decode = deadly
"""


def scorer(tiny: Tiny, engine: Engine | TwoStageModel, **checksums: str) -> Scorer:
    """What scores, with some checksums changed; a bare model scores in this process."""
    engine = Lanes(engine, 2) if isinstance(engine, TwoStageModel) else engine
    checksums = {"checkpoint": "c", "stage2": "s"} | checksums
    return Scorer(engine, checksums, FALLBACK, tiny.run.store.digests(), decision_inputs(tiny))


def decision_inputs(tiny: Tiny) -> DecisionInputs:
    """What decisions of the tiny run rest on; no held-out answers if a test changed stage 2."""
    stage2 = tiny.run.stage2
    held = heldout.read(stage2) if heldout.is_current(stage2) else None
    return DecisionInputs(tiny.run.store.taxonomy, held)


def score(by: Scorer, dumps: list[Path], out: Path, config: ScoreConfig = CONFIG) -> Totals:
    """Scores dumps."""
    return score_source(by, open_source(dumps, out / "dumps"), out, config)[0]


def location(tiny: Tiny, runtime: str = "torch") -> ModelLocation:
    """Where workers find the model, and what runs its networks."""
    run = tiny.run
    sums = (sha256_file(run.checkpoint), sha256_file(run.stage2 / "manifest.json"))
    runtimes = (("stage1", runtime), ("small", runtime))
    return ModelLocation(str(run.folder), *sums, "cpu", "fp32", runtimes)


@contextlib.contextmanager
def workers(count: int, folder: Path) -> Iterator:
    """A client of worker processes that poisoned pictures kill; one that kills once leaves a file
    *.killed in the folder."""
    preload = folder / "preload.py"
    preload.write_text(PRELOAD.format(poison=POISON, kills_once=KILLS_ONCE, folder=str(folder)))
    with dask.config.set(
        {"distributed.worker.preload": [str(preload)], "temporary-directory": str(folder)}
    ):
        with connect(count, None) as client:
            yield client


def on(client, tiny: Tiny, dump: Path, out: Path) -> Scorer:
    """A scorer on a cluster, for one dump."""
    return scorer(
        tiny, DaskWorkers(client, location(tiny), open_source([dump], out / "dumps").files)
    )


def predictions(out: Path) -> pandas.DataFrame:
    """All parts."""
    return _tables(out, "part-*.parquet")


def features(out: Path) -> pandas.DataFrame:
    """The features of all parts."""
    return _tables(out, "features-*.parquet")


def rejects(out: Path) -> pandas.DataFrame:
    """All rejects."""
    return _tables(out, "rejects-*.parquet")


def _tables(out: Path, pattern: str) -> pandas.DataFrame:
    return pandas.concat(map(pandas.read_parquet, sorted(out.glob(pattern))), ignore_index=True)


Frames = tuple[pandas.DataFrame, pandas.DataFrame]
"""Predictions and features."""


def assert_the_others_stand(all_of_them: Frames, fewer: Frames, without: Collection[int]) -> None:
    """Products that are left out change no feature of the others, as the network's batches keep
    their size. Stage 2 multiplies fewer rows at once: that may round otherwise, and a tree may turn
    on it."""
    expected, found = (
        [
            frame.set_index("product_id").drop(index=list(without), errors="ignore")
            for frame in frames
        ]
        for frames in (all_of_them, fewer)
    )
    assert len(found[0]) and all(
        a.index.equals(b.index) for a, b in zip(found, expected, strict=True)
    )
    assert np.stack(found[1]["features"]).tobytes() == np.stack(expected[1]["features"]).tobytes()
    assert same(found[0]["category_id"], expected[0]["category_id"]) > 0.98
    assert np.quantile(np.abs(found[0]["confidence"] - expected[0]["confidence"]), 0.98) < 1e-5


def contents(out: Path) -> dict[str, bytes]:
    """Everything that scoring wrote, except the index, the lock, and the seconds it took."""
    files = {
        p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.is_file() and p.name != "lock"
    }
    if summary := files.get("summary.json"):
        files["summary.json"] = re.sub(rb'"seconds": [0-9.]+', b"", summary)
    return files


def pad(document: dict) -> None:
    """Makes a document so large that a dump of them has several parts."""
    document["padding"] = b"x" * 20_000


def padded_dump(tiny: Tiny, path: Path) -> Path:
    """The tiny test dump in several parts."""
    write_dump(path, tiny.data / "test.bson", lambda d: True, pad)
    return path


def poisoned_dump(tiny: Tiny, path: Path, products: set[int], poison: bytes = POISON) -> Path:
    """The same, some products with a poisoned picture that decodes well in other processes."""

    def change(document: dict) -> None:
        pad(document)
        if document["_id"] in products:
            picture = document["imgs"][0]["picture"]
            comment = b"\xff\xfe" + (len(poison) + 2).to_bytes(2, "big") + poison
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
