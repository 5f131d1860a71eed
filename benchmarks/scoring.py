"""Scoring end to end against the bare network, and its memory.

Claims: both stages from the dump to Parquet run at 95% or more of the bare stage-1 forward on the
same images, decoded and in memory (ResNet-50 at 224, two cores), at 80% or more with MobileNetV2 at
96; memory from 10,000 to 200,000 products grows by less than 10%. Bare is the faster of two ways:
one stream with all of PyTorch's threads, or a single-threaded stream a core; it sees the first
images of the dump only, so that a round is short.

Run: python -m benchmarks.scoring [--backbone NAME] [--products N] [--rounds N] [--folder DIR]
[--memory] [--smoke]
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
import numpy as np
import torch

from benchmarks import record
from catalog.images import decode
from catalog.parallel import cores
from catalog.sources.source import ProductSource, open_source
from catalog.synthetic.dump import SyntheticSpec, products
from pipeline import steps
from pipeline.config import ScoreConfig, load_config
from pipeline.demo import write_synthetic
from pipeline.model import TwoStageModel
from pipeline.run_folder import RunFolder
from pipeline.scoring.lanes import Lanes, ordered
from pipeline.scoring.plan import Judges
from pipeline.scoring.score import Scorer, score_source

CASES = {
    "resnet50": (224, 180, 0.95),
    "mobilenet_v2": (96, 180, 0.80),
    "shufflenet_v2_x0_5": (32, 40, 0.0),
}
"""Backbone: pixels a side of the network and of the photos, and the goal."""
BARE = 4
"""Batches that the bare network sees."""
NO_IMAGES = np.zeros(0, dtype=np.uint64)


def main() -> None:
    """Prints each case's ratio, or the memory of both sizes."""
    parser = record.parser(__doc__)
    parser.add_argument(
        "--backbone",
        choices=CASES,
        action="append",
        help="one case; by default ResNet-50 and MobileNetV2",
    )
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument(
        "--folder", type=Path, help="keep the networks and dumps here, and use those that are there"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of both; the median counts")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=2,
        default=[10_000, 200_000],
        help="products of the two dumps for --memory",
    )
    parser.add_argument(
        "--score", nargs=2, type=Path, metavar=("RUN", "DUMP"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.smoke:
        options.products, options.rounds, options.sizes = 60, 1, [100, 400]
        options.backbone = ["shufflenet_v2_x0_5"]
    if options.score:
        print(peak_of(*options.score))
    elif options.memory:
        figures = memory(options.sizes)
        record.save(options.json, figures, precision=figures["precision"])
    else:
        speeds(options)


def speeds(options: argparse.Namespace) -> None:
    """The ratio of each backbone asked for."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        for backbone in options.backbone or ["resnet50", "mobilenet_v2"]:
            folder = (options.folder or Path(name)) / backbone
            figures[backbone] = speed(backbone, folder, options.products, options.rounds)
    precision = figures[backbone]["precision"]
    record.save(options.json, figures, precision=precision, rounds=options.rounds)


def make_run(folder: Path, backbone: str, size: int, side: int) -> RunFolder:
    """A run of a network that has hardly learnt anything: accuracy does not matter here."""
    if (folder / "run" / "stage2" / "heldout.npz").exists():
        return RunFolder(folder / "run")
    write_synthetic(folder / "data", products=160, categories=8, side=side, seed=0)
    settings = (
        f"stage1.backbone={backbone}",
        "stage1.weights=none",
        f"stage1.image_size={size}",
        "stage1.epochs=1",
        "jobs=1",
    )
    run, config = RunFolder(folder / "run"), load_config(None, settings)
    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    names = folder / "data" / "category_names.csv"
    steps.ingest(
        run, config, [str(folder / "data" / "train.bson")], names, rebuild=False, say=quiet
    )
    for step in (steps.stage1, steps.features, steps.stage2):
        step(run, config, rebuild=False, say=quiet)
    return run


def make_dump(path: Path, count: int, side: int) -> Path:
    """A dump of so many products; beyond 500 their photos repeat, under other ids."""
    some = list(products(SyntheticSpec(categories=8, products=min(count, 500), side=side, seed=7)))
    with open(path, "wb") as file:
        for number in range(count):
            file.write(bson.encode({"_id": number, "imgs": some[number % len(some)]["imgs"]}))
    return path


def speed(backbone: str, folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Bare and end to end in turns, images/s."""
    size, side, goal = CASES[backbone]
    run = make_run(folder, backbone, size, side)
    model, onnx = TwoStageModel.open(run), TwoStageModel.open(run, "cpu", "fp32", "onnx")
    dump = make_dump(folder / "dump.bson", count, side)
    source = open_source([dump], folder / "index")
    batches = list(decoded(model, source))
    few, images = sum(map(len, batches)), int(source.n_images.sum())
    ways: dict[str, tuple[int, Callable[[], None]]] = {
        "one stream": (few, lambda: bare(model, batches)),
        "a stream a core": (few, lambda: bare_lanes(model, batches)),
        "end to end": (images, lambda: end_to_end(model, dump, folder)),
        "by ONNX Runtime": (images, lambda: end_to_end(onnx, dump, folder)),
    }
    bare_lanes(model, batches[: cores()])  # memory, caches and kernels are warm before round one
    rates = in_turns(ways, rounds)
    median = {way: statistics.median(rate) for way, rate in rates.items()}
    best = max(("one stream", "a stream a core"), key=median.__getitem__)
    ours, other = median["end to end"], median["by ONNX Runtime"]
    precision = model.network.compute.precision
    print(
        f"{backbone} at {size}, {precision}, {cores()} cores, {images} images, medians of "
        f"{rounds}: end to end {ours:.1f} img/s = {ours / median[best]:.1%} of bare ({best}); "
        f"goal {goal:.0%}\n  by ONNX Runtime in fp32 {other:.1f} img/s, "
        f"{other / ours:.2f} times that",
        flush=True,
    )
    return {
        "pixels": size,
        "photo_pixels": side,
        "images": images,
        "precision": precision,
        "goal": goal,
        "best": best,
        "images_per_second": {way: record.over_rounds(values) for way, values in rates.items()},
    }


def in_turns(
    ways: dict[str, tuple[int, Callable[[], None]]], rounds: int
) -> dict[str, list[float]]:
    """Images per second of each way, a number for each round; `ways` gives images and work."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (images, work) in ways.items():
            started = time.perf_counter()
            work()
            rates[way].append(images / (time.perf_counter() - started))
        latest = ", ".join(f"{way} {rate[-1]:.1f} img/s" for way, rate in rates.items())
        print(f"  {latest}", flush=True)
    return rates


def decoded(model: TwoStageModel, source: ProductSource) -> Iterator[torch.Tensor]:
    """The first photos of the dump as the network takes them, in batches."""
    size = ScoreConfig().batch_size_on(model.network.compute.device.type)
    photos = list(
        itertools.islice(
            (photo for row in range(len(source)) for photo in source.read(row)), BARE * size
        )
    )
    for start in range(0, len(photos), size):
        batch = photos[start : start + size]
        yield model.network.transform([decode(p) for p in batch if isinstance(p, bytes)])


def bare(model: TwoStageModel, batches: list[torch.Tensor]) -> None:
    """The forward alone, with PyTorch's own threads."""
    for batch in batches:
        model.network.features(batch)


def bare_lanes(model: TwoStageModel, batches: list[torch.Tensor]) -> None:
    """The forward alone, a single-threaded stream a core."""
    for _ in ordered(model.network.features, batches, cores()):
        pass


def end_to_end(model: TwoStageModel, dump: Path, folder: Path) -> None:
    """Scan, reading, decoding, both stages, Parquet."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = open_source([dump], Path(name) / "dumps")
        score_source(
            Scorer(Lanes(model, cores()), {}, 0, NO_IMAGES, Judges(model.taxonomy)),
            source,
            Path(name),
            ScoreConfig(part_mb=16),
        )


def memory(sizes: list[int]) -> dict[str, Any]:
    """Peak memory of scoring either number of products, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder, "shufflenet_v2_x0_5", 32, 32)
        peaks = []
        for size in sizes:
            dump = make_dump(folder / f"{size}.bson", size, 32)
            command = [
                sys.executable,
                "-m",
                "benchmarks.scoring",
                "--score",
                str(folder / "run"),
                str(dump),
            ]
            peaks.append(
                float(
                    subprocess.run(
                        command, check=True, capture_output=True, text=True
                    ).stdout.split()[-1]
                )
            )
            print(f"{size} products: peak {peaks[-1]:.1f} MB", flush=True)
        print(f"growth {peaks[1] / peaks[0] - 1:+.1%}; goal below 10%")
        return {
            "products": sizes,
            "peak_mb": peaks,
            "precision": run.features.computed_with["precision"],
        }


def peak_of(run: Path, dump: Path) -> float:
    """Scores, and returns the most memory that this process ever held, MB."""
    import resource

    end_to_end(TwoStageModel.open(RunFolder(run)), dump, dump.parent)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
