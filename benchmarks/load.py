"""A catalogue of a million photos in 5,270 categories with the real long tail, through everything
but the arithmetic.

Claim: ingest, dealing, sampling, the bookkeeping of extraction, evaluation and report peak at 6 GB
at most, each by itself. (Stage 2 at this size: benchmarks.stage2_scale.) The photos are tiny, so
that the time is the bookkeeping's. Run: python -m benchmarks.load [--smoke]
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pandas
from PIL import Image

from benchmarks import catalogue, record
from catalog.artifacts import write_json
from catalog.config import CatalogConfig
from catalog.image_table import ImageTable
from catalog.sources.dump_index import open_index
from catalog.splits import DEALT, deal, select
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.taxonomy import COLUMNS
from features.store import FeatureStore
from features.writer import FeatureWriter
from pipeline.evaluation.evaluate import save_evaluation
from pipeline.evaluation.measures import SYSTEMS, measure
from pipeline.evaluation.near_twins import SAMPLE, twin_figures
from pipeline.report.page import write_report
from pipeline.run_folder import RunFolder
from stage1_cnn.config import Stage1Config
from stage1_cnn.head import Head
from stage1_cnn.sampler import Sampler

LIMIT = 6 * 2**30
_WIDTH, _BATCH, _PICTURES = 64, 128, 50
_IMAGES = (1, 1, 2, 3)
"""Of successive products: 1.75 on average, as at Cdiscount."""


def main() -> None:
    """Runs each stage in a process of its own and prints its time and its peak memory."""
    parser = record.parser(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--categories", type=int, default=5270)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the catalogue (2 GB) goes, and stays")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        STAGES[options.stages[0]](options)
        return
    if options.smoke:
        options.images, options.categories = 2000, 20
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        options.folder.mkdir(parents=True, exist_ok=True)
        figures = {}
        for stage in options.stages:
            seconds, peak = run(stage, options)
            held = (
                ""
                if stage == "dump"
                else f"; {'within' if peak <= LIMIT else 'BEYOND'} {LIMIT / 2**30:.0f} GiB"
            )
            print(f"{stage}: {seconds:.1f} s, peak memory {peak / 2**30:.2f} GiB{held}", flush=True)
            figures[stage] = {"seconds": seconds, "gib": peak / 2**30}
    about = {"images": options.images, "categories": options.categories}
    record.save(options.json, about | {"stages": figures})


def run(stage: str, options: argparse.Namespace) -> tuple[float, int]:
    """Seconds of a stage and the bytes of its peak, its largest worker's added as often as there
    are workers."""
    numbers = [
        f"--{name}={getattr(options, name)}" for name in ("images", "categories", "jobs", "folder")
    ]
    command = [sys.executable, "-m", "benchmarks.load", "--inside", "--stages", stage, *numbers]
    started = time.perf_counter()
    lines = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    for line in lines[:-1]:
        print(f"  {line}")
    return time.perf_counter() - started, int(lines[-1])


def tell_peak(jobs: int) -> None:
    """The last line that a stage prints."""
    own, largest = (
        resource.getrusage(who).ru_maxrss * 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(own + jobs * largest)


def dump(options: argparse.Namespace) -> None:
    """Writes the dump: one to four photos a product, each photo's bytes its own."""
    counts = catalogue.sizes(options.categories, 2**40).astype(float)
    photos = np.maximum(np.round(counts * options.images / counts.sum()), 4).astype(int)
    rng, number, images = np.random.default_rng(0), 0, 0
    pictures = [_picture(rng) for _ in range(_PICTURES)]
    with open(options.folder / "train.bson", "wb") as file:
        for category in np.repeat(
            np.arange(options.categories), np.ceil(photos / 1.75).astype(int)
        ).tolist():
            some = [
                pictures[(number + i) % _PICTURES] + (images + i).to_bytes(4, "little")
                for i in range(_IMAGES[number % 4])
            ]
            product = {
                "_id": number * 7,
                "category_id": 1000 + category,
                "imgs": [{"picture": data} for data in some],
            }
            file.write(bson.encode(product))
            number, images = number + 1, images + len(some)
    names = (
        f"{1000 + c},L{c // 100},F{c // catalogue.SIBLINGS},C{c}" for c in range(options.categories)
    )
    (options.folder / "category_names.csv").write_text(
        "\n".join([",".join(COLUMNS), *names]) + "\n"
    )
    print(f"{number} products, {images} images")
    tell_peak(0)


def _picture(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def ingest(options: argparse.Namespace) -> None:
    """The dump into a store."""
    folder = options.folder
    summary = ingest_dump(
        folder / "store.sqlite",
        [folder / "train.bson"],
        folder / "category_names.csv",
        CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=options.jobs,
    )
    write_json(folder / "taxonomy.json", Store(folder / "store.sqlite").taxonomy.to_json())
    print(f"{summary.images} images of {summary.categories_in_use} categories")
    tell_peak(options.jobs)


def split(options: argparse.Namespace) -> None:
    """Dealing all products, and a cap of 300."""
    index = open_index([options.folder / "train.bson"], options.folder / "dumps")
    classes = (index.category_id - 1000).astype(np.int32)
    dealt = deal(
        classes, index.product_id, np.zeros((options.categories, len(DEALT)), dtype=np.int64), 0
    )
    kept = select(classes, index.product_id, index.n_images, 300, 0)
    print(f"train {np.mean(dealt == 0):.3f} of the products; a cap of 300 keeps {kept.mean():.3f}")
    tell_peak(0)


def sample(options: argparse.Namespace) -> None:
    """The table of all images, every row verified, and an epoch's order in each way of sampling."""
    store = Store(options.folder / "store.sqlite")
    started = time.perf_counter()
    store.verify()
    print(f"verified in {time.perf_counter() - started:.1f} s")
    table = store.images("train")
    for way in ("natural", "balanced", "levelled"):
        started = time.perf_counter()
        order = Sampler(table.class_index, table.image_id, Stage1Config(sampling=way)).order(
            np.random.default_rng(0)
        )
        print(f"{way}: an epoch of {len(order)} in {time.perf_counter() - started:.2f} s")
    tell_peak(0)


def extract(options: argparse.Namespace) -> None:
    """features.h5 for every image, without a network."""
    store = Store(options.folder / "store.sqlite")
    table, rng = store.images(), np.random.default_rng(0)
    head = Head(
        np.zeros((options.categories, _WIDTH), dtype=np.float32),
        np.zeros(options.categories, dtype=np.float32),
    )
    origin = {"store": store.fingerprint}
    some = rng.standard_normal((_BATCH, _WIDTH)).astype(np.float16)
    path = options.folder / "features.h5"
    with FeatureWriter(
        path, table, _WIDTH, options.categories, origin, {"device": "none"}
    ) as writer:
        for start in range(writer.cursor, len(table), _BATCH):
            errors = {0: "undecodable: made up"} if start % (100 * _BATCH) == 0 else {}
            writer.write(some[: len(table) - start], errors)
        writer.finish(head)
    print(f"{len(FeatureStore(path))} rows")
    tell_peak(0)


def figures(options: argparse.Namespace) -> None:
    """An evaluation as if every image were one of the test split: intervals, and the tables that
    the report reads."""
    store, features = (
        Store(options.folder / "store.sqlite"),
        FeatureStore(options.folder / "features.h5"),
    )
    taxonomy, table, rng = store.taxonomy, features.table, np.random.default_rng(0)
    groups = store.groups_of(table.product_id, "test")
    print(f"{len(np.unique(table.product_id))} test products in {groups.max() + 1} groups")
    frame = _answers(table, len(taxonomy), rng)
    frames = {unit: frame.assign(unit=unit) for unit in ("image", "product")}
    started = time.perf_counter()
    metrics: dict[str, Any] = {"image": measure(frame, len(taxonomy), min_support=5)}
    print(f"figures of {len(frame)} items in {time.perf_counter() - started:.1f} s")
    metrics |= {
        "product": metrics["image"],
        "settings": store.settings,
        "rejects": {},
        "seconds": 0.0,
    }
    sample = frame.head(SAMPLE)
    twins = twin_figures(sample, *rng.random((2, len(sample)))) | {"networks": 1}
    metrics |= {"without_photo": 0, "near_twins": twins, "promises": []}
    metrics["made_from"] = {"views": {"stage1": {"store": store.fingerprint}}}
    trained = np.bincount(table.class_index, minlength=len(taxonomy))
    save_evaluation(options.folder / "evaluation", frames, taxonomy, trained, metrics)
    tell_peak(0)


def _answers(table: ImageTable, classes: int, rng: np.random.Generator) -> pandas.DataFrame:
    """Rows as in evaluation/items.parquet, with answers drawn at random."""
    groups_of_all = np.unique(table.product_id, return_inverse=True)[1]
    rank = rng.geometric(0.6, (len(SYSTEMS) - 1, len(table))) - 1
    frame = pandas.DataFrame(
        {
            "unit": "image",
            "item_id": table.image_id,
            "product_id": table.product_id,
            "class_index": table.class_index.astype(np.int64),
            "n_images": 1,
            "group": groups_of_all,
            "linked": table.product_id % 3 == 0,
            "weight": 1.0,
            "refined": True,
        }
    )
    for number, system in enumerate(SYSTEMS[:-1]):
        frame[f"{system}_true_rank"] = rank[number]
        frame[f"{system}_class"] = (frame["class_index"] + rank[number]) % classes
        frame[f"{system}_confidence"] = rng.random(len(frame))
        frame[f"{system}_true_confidence"] = frame[f"{system}_confidence"] / (1 + rank[number])
    return frame


def report(options: argparse.Namespace) -> None:
    """The page over all of it."""
    page = write_report([RunFolder(options.folder)], options.folder / "report")
    print(f"{page.name}: {page.stat().st_size / 2**20:.1f} MiB")
    tell_peak(0)


STAGES = {
    "dump": dump,
    "ingest": ingest,
    "split": split,
    "sample": sample,
    "extract": extract,
    "figures": figures,
    "report": report,
}

if __name__ == "__main__":
    main()
